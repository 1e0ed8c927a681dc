package daemon_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/internal/daemon"
	"github.com/keyagent/keyagent/simulator/fault"
)

// Any caller may ask for them: they name no identity, repeat no error, and are none of what another
// caller has asked for.
func TestCapabilitiesTellNothingOfOthers(t *testing.T) {
	const private = "correlation 0f3e"
	said := func(status int, body string) fault.Fault {
		return fault.Fault{Kind: fault.Status, Status: status, Body: strings.ReplaceAll(body, "as the test wants", private)}
	}
	stranger := func(status int) fault.Fault {
		return fault.Fault{Kind: fault.Status, Status: status, Headers: map[string]string{"Server": "-"}}
	}
	yes, no := "true", "false"
	for _, tt := range []struct {
		name      string
		operation string
		fault     fault.Fault
		available string // "" is unknown
		reason    string
	}{
		{"nothing is wrong", "", fault.Fault{}, yes, "issued on attestation"},
		{"a resource that is not known", "entra.mtls.token", said(400, codes(500011)), yes, "issued on attestation"},
		{"Entra is throttling", "entra.mtls.token", said(429, codes(51000)), yes, "issued on attestation"},
		{"attestation cannot be reached", "maa.attest", fault.Fault{Kind: fault.Reset}, yes, "none has been issued"},
		{"the evidence is refused", "maa.attest", said(400, `{"error":{"code":"PolicyEvaluationError","message":"as the test wants"}}`), no, "evidence"},
		{"the issuer refuses", "imds.issuecredential", said(400, `{"error":"invalid_request","error_description":"as the test wants"}`), no, "refused to issue"},
		{"the issuer does not know the identity", "imds.issuecredential", said(400, `{"error":"identity_not_found","error_description":"as the test wants"}`), yes, "none has been issued"},
		{"the issuer is not there", "imds.issuecredential", said(404, ""), yes, "none has been issued"},
		{"the host has no MSI v2", "imds.getplatformmetadata", said(404, ""), no, "offers no binding certificates"},
		{"a guest agent in enforce mode", "imds.getplatformmetadata", stranger(403), "", "azure-proxy-agent"},
		{"a proxy", "imds.getplatformmetadata", stranger(407), "", "a proxy"},
		{"a captive portal", "imds.getplatformmetadata", stranger(200), "", "is not IMDS"},
		{"another cloud's metadata service", "imds.getplatformmetadata", stranger(404), "", "is not IMDS"},
		{"IMDS is throttling", "imds.getplatformmetadata", said(429, ""), "", "or not now"},
		{"IMDS is not there", "imds.getplatformmetadata", fault.Fault{Kind: fault.Reset}, "", "IMDS does not answer"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			s.sleep = func(ctx context.Context, _ time.Duration) error { return ctx.Err() }
			s.start()
			if tt.operation != "" {
				tt.fault.Operation = tt.operation
				if err := s.platform.Faults().Add(tt.fault); err != nil {
					t.Fatal(err)
				}
			}
			_, err := s.token()
			if _, other := s.client.Token(t.Context(), client.TokenRequest{Identity: "vm-user", Resource: resource}); (err == nil) != (tt.operation == "") || (other == nil) != (err == nil) {
				t.Fatalf("got %v, %v", err, other)
			}
			c, err := s.client.Capabilities(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got := known(c.ManagedIdentityV2); got != tt.available || !strings.Contains(c.ManagedIdentityV2.Reason, tt.reason) {
				t.Errorf("got available %q, %q; want %q, %q", got, c.ManagedIdentityV2.Reason, tt.available, tt.reason)
			}
			text := string(asJSON(t, c))
			for _, secret := range []string{private, "AADSTS", `\"vm`, "127.0.0.1", "status 4"} {
				if strings.Contains(text, secret) {
					t.Errorf("%q is told: %s", secret, text)
				}
			}
		})
	}
}

// known spells whether a capability is available, "" if that is not known.
func known(c wire.Capability) string {
	switch {
	case c.Available == nil:
		return ""
	case *c.Available:
		return "true"
	}
	return "false"
}

// What is not known is asked again within seconds, what is known within minutes.
func TestAnUnknownAnswerIsNotKeptForLong(t *testing.T) {
	s := newStage(t)
	s.start()
	available := func() string {
		c, err := s.client.Capabilities(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return known(c.ManagedIdentityV2)
	}
	metadata := func(status int, server string) {
		s.platform.Faults().Clear()
		f := fault.Fault{Operation: "imds.getplatformmetadata", Kind: fault.Status, Status: status, Headers: map[string]string{"Server": server}}
		if err := s.platform.Faults().Add(f); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		status int
		server string
		passes time.Duration
		want   string
	}{
		{403, "-", 0, ""},
		{404, "IMDS/1", 4 * time.Second, ""},
		{404, "IMDS/1", 2 * time.Second, "false"},
		{403, "-", 4 * time.Minute, "false"},
		{403, "-", 2 * time.Minute, ""},
		{400, "IMDS/1", 6 * time.Second, "true"},
	} {
		metadata(step.status, step.server)
		s.platform.Clock().Advance(step.passes)
		if got := available(); got != step.want {
			t.Errorf("%d of %q after another %v: got available %q, want %q", step.status, step.server, step.passes, got, step.want)
		}
	}
}

// A caller that is gone before the answer, and many that ask at once, cause one probe: two
// requests.
func TestManyCallersOfCapabilitiesCauseOneProbe(t *testing.T) {
	for name, ask := range map[string]func(*daemon.Daemon, context.Context){
		"one after the other": func(d *daemon.Daemon, ctx context.Context) {
			for range 5 {
				d.Capabilities(ctx)
			}
		},
		"at once": func(d *daemon.Daemon, ctx context.Context) {
			var group sync.WaitGroup
			for range 20 {
				group.Go(func() { d.Capabilities(ctx) })
			}
			group.Wait()
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, leave := context.WithCancel(t.Context())
			var requests atomic.Int64
			imds := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				requests.Add(1)
				leave()
				w.Header().Set("Server", "IMDS/1")
				w.WriteHeader(http.StatusBadRequest)
				_, _ = io.WriteString(w, "{}")
			}))
			defer imds.Close()
			s := newStage(t)
			s.cfg.IMDSEndpoint = imds.URL
			d, err := daemon.Open(t.Context(), s.cfg, daemon.Options{Audit: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			ask(d, ctx)
			if c := d.Capabilities(t.Context()); known(c.ManagedIdentityV2) != "true" {
				t.Errorf("got %+v", c.ManagedIdentityV2)
			}
			if n := requests.Load(); n != 2 {
				t.Errorf("got %d requests, want the two of one probe", n)
			}
		})
	}
}
