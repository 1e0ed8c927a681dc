package conformance_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/daemon"
	"github.com/keyagent/keyagent/simulator"
)

// wholePlatform is the complete simulated platform: one for all cases, since the TPM simulator
// exists once per process. The case that needs it first starts it.
var wholePlatform = sync.OnceValues(func() (*simulator.Platform, error) {
	dir, err := os.MkdirTemp("", "conformance")
	if err != nil {
		return nil, err
	}
	start := time.Date(2026, time.October, 1, 8, 0, 0, 0, time.UTC)
	p, err := simulator.Start(context.Background(), simulator.Config{Dir: dir, Now: func() time.Time { return start }})
	platformCleanup = func() {
		if p != nil {
			_ = p.Close()
		}
		_ = os.RemoveAll(dir)
	}
	return p, err
})

var platformCleanup = func() {}

func closePlatform() { platformCleanup() }

// vm is a whole agent on the platform.
type vm struct {
	t        *testing.T
	platform *simulator.Platform
	metadata *recorder // in front of IMDS
	cfg      *config.Config
	client   *client.Client
	first    uint64 // entries of the journal up to here are of other cases
	stop     func()
}

// newVM prepares an agent with a state directory of its own. Change may be nil.
func newVM(t *testing.T, change func(*config.Config)) *vm {
	t.Helper()
	p, err := wholePlatform()
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(p.Info().ConfigFile)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(cfg.IMDSEndpoint)
	if err != nil {
		t.Fatal(err)
	}
	v := &vm{t: t, platform: p, metadata: newRecorder(t, unforwarded(u), nil), cfg: cfg}
	dir, err := os.MkdirTemp("", "vm") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	cfg.StateDir, cfg.Socket, cfg.IMDSEndpoint = filepath.Join(dir, "state"), filepath.Join(dir, "s"), v.metadata.url
	cfg.Rules[0].Fresh = true
	if change != nil {
		change(cfg)
	}
	if entries := p.Journal().Entries(); len(entries) > 0 {
		v.first = entries[len(entries)-1].Seq
	}
	t.Cleanup(p.Faults().Clear)
	v.start()
	return v
}

// unforwarded is a proxy that IMDS cannot tell from a caller on the VM.
func unforwarded(to *url.URL) http.Handler {
	return &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }}
}

// start runs the agent until the case ends, or stop is called.
func (v *vm) start() {
	v.t.Helper()
	ctx, cancel := context.WithCancel(v.t.Context())
	d, err := daemon.Open(ctx, v.cfg, daemon.Options{
		Version: "test", Audit: slog.New(slog.DiscardHandler), Now: v.platform.Clock().Now,
		Sleep: func(ctx context.Context, d time.Duration) error {
			return errors.Join(v.platform.Clock().Advance(d), ctx.Err())
		},
		Wait: func(ctx context.Context, _ time.Duration) error { <-ctx.Done(); return ctx.Err() },
	})
	if err != nil {
		cancel()
		v.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	v.client = client.New(client.Config{Socket: v.cfg.Socket})
	v.stop = sync.OnceFunc(func() {
		v.client.Close()
		cancel()
		if err := errors.Join(<-ended, d.Close()); err != nil {
			v.t.Errorf("stopping: %v", err)
		}
	})
	v.t.Cleanup(v.stop)
	for {
		if _, err := v.client.Status(ctx); err == nil {
			return
		} else if !errors.Is(err, client.ErrNotReachable) {
			v.t.Fatal(err)
		}
	}
}

func (v *vm) token(identity, kind string) (client.Token, error) {
	v.t.Helper()
	return v.client.Token(v.t.Context(), client.TokenRequest{Identity: identity, Resource: vault, Type: kind, ForceRefresh: true})
}

func (v *vm) mustToken(identity, kind string) client.Token {
	v.t.Helper()
	token, err := v.token(identity, kind)
	if err != nil {
		v.t.Fatal(err)
	}
	return token
}

// requests are the requests of this case that the platform answered, in their order.
func (v *vm) requests() []string {
	var requests []string
	for _, e := range v.platform.Journal().Entries() {
		if e.Seq > v.first {
			requests = append(requests, e.Operation)
		}
	}
	return requests
}

func (v *vm) wantOperations(want string) {
	v.t.Helper()
	requests := slices.DeleteFunc(v.requests(), func(name string) bool { return name == "imds.thim" })
	if got := strings.Join(requests, " "); got != want {
		v.t.Errorf("the platform saw\n%s\nwant\n%s", got, want)
	}
}

const (
	firstOperations = "imds.getplatformmetadata maa.attest imds.issuecredential entra.mtls.token"
	laterOperations = "imds.getplatformmetadata entra.mtls.token"
)

// platformDemands are those that need the whole VM, with its TPM and its evidence.
func platformDemands() []demand {
	return []demand{
		{"0.4", "metadata, attestation, certificate and token, in this order, on a VM with a TPM", func(t *testing.T) {
			v := newVM(t, nil)
			token := v.mustToken("vm", "mtls_pop")
			if token.Strength != "attested" || token.Binding.SignatureAlgorithm != "rsa_pss_rsae_sha256" || token.Binding.TLSVersion != "TLS 1.3" {
				t.Errorf("got %+v", token)
			}
			v.wantOperations(firstOperations)
			body := credentialBody(t, v.metadata.requestsTo("issuecredential")[0])
			if text, _ := body["attestation_token"].(string); strings.Count(text, ".") != 2 {
				t.Error("no attestation token in the request")
			}
		}},
		{"0.4", "a federated application: both requests over one certificate of the TPM's key", func(t *testing.T) {
			v := newVM(t, nil)
			v.mustToken("app-fic", "bearer")
			v.wantOperations(firstOperations + " entra.mtls.token")
			entries := v.platform.Journal().Operation("entra.mtls.token")
			if leg1, leg2 := entries[len(entries)-2], entries[len(entries)-1]; leg1.ClientCertThumbprint == "" || leg1.ClientCertThumbprint != leg2.ClientCertThumbprint {
				t.Error("two certificates")
			}
		}},
		{"2.5", "the TPM signs RSASSA-PSS with a salt of 32", func(t *testing.T) {
			v := newVM(t, nil)
			v.mustToken("vm", "bearer") // the issuer verifies the request's signature with exactly this
			v.wantOperations(firstOperations)
		}},
		{"3.2", "one attestation token serves all identities while more than five minutes of it are left", func(t *testing.T) {
			v := newVM(t, nil)
			v.mustToken("vm", "bearer")
			v.mustToken("vm-user", "bearer")
			v.wantOperations(firstOperations + " imds.getplatformmetadata imds.issuecredential entra.mtls.token")
			tokens := v.metadata.requestsTo("issuecredential")
			if credentialBody(t, tokens[0])["attestation_token"] != credentialBody(t, tokens[1])["attestation_token"] {
				t.Error("two attestation tokens")
			}
		}},
		{"3.2", "an attestation token near its end is replaced", func(t *testing.T) {
			v := newVM(t, nil)
			v.mustToken("vm", "bearer")
			claims := claimsOf(t, credentialBody(t, v.metadata.requestsTo("issuecredential")[0])["attestation_token"].(string))
			end := time.Unix(int64(claims["exp"].(float64)), 0)
			if err := v.platform.Clock().Advance(end.Add(-5 * time.Minute).Sub(v.platform.Clock().Now())); err != nil {
				t.Fatal(err)
			}
			v.mustToken("vm-user", "bearer")
			v.wantOperations(firstOperations + " " + firstOperations)
		}},
		{"3.3", "1000612 from Entra itself: attested anew, issued anew", func(t *testing.T) {
			v := newVM(t, nil)
			v.mustToken("vm", "bearer")
			v.platform.DistrustAttestation()
			v.mustToken("vm", "bearer")
			v.wantOperations(firstOperations + " " + laterOperations + " " + firstOperations)
		}},
		{"3.4", "without attestation the issuer's refusal is final", func(t *testing.T) {
			v := newVM(t, func(c *config.Config) { c.Attestation.Provider = config.ProviderNone })
			_, err := v.token("vm", "bearer")
			wantError(t, err, "Attestation Token is missing")
			if e, ok := errors.AsType[*client.Error](err); !ok || e.Status == http.StatusServiceUnavailable {
				t.Errorf("got %v, want an error that says that a retry is of no use", err)
			}
			v.wantOperations("imds.getplatformmetadata imds.issuecredential")
		}},
		{"4.4", "a restart of the agent needs getplatformmetadata and no issuance", func(t *testing.T) {
			v := newVM(t, nil)
			first := v.mustToken("vm", "bearer")
			v.stop()
			v.start()
			if second := v.mustToken("vm", "bearer"); second.Binding.Thumbprint != first.Binding.Thumbprint || second.Strength != "attested" {
				t.Errorf("got %+v", second)
			}
			v.wantOperations(firstOperations + " " + laterOperations)
		}},
		{"1.6", "the kill switch of the environment holds at the start", func(t *testing.T) {
			t.Setenv("MSAL_MI_DISABLE_IMDS_V2", "TRUE")
			v := newVM(t, nil)
			_, err := v.token("vm", "bearer")
			wantError(t, err, "MSAL_MI_DISABLE_IMDS_V2")
			v.wantOperations("")
		}},
		{"1.6", "only the question for capabilities probes", func(t *testing.T) {
			v := newVM(t, nil)
			c, err := v.client.Capabilities(t.Context())
			if err != nil || c.ManagedIdentityV2.Available == nil && c.ManagedIdentityV1.Available == nil {
				t.Errorf("got %+v, %v", c, err)
			}
			for _, m := range v.metadata.all() {
				if m.header.Get("Metadata") != "" {
					t.Errorf("asked %s, and not as a probe", m.target)
				}
			}
			v.wantOperations("imds.getplatformmetadata imds.token")
		}},
		{"9.1", "an identity that prefers to be bound gets an unbound token where version 2 is missing, whole agent", func(t *testing.T) {
			v := newVM(t, func(c *config.Config) { c.Identities[0].ManagedIdentity.Bound = config.BoundPrefer })
			v.metadata.alwaysAnswers("getplatformmetadata", says(404, ""))
			if token := v.mustToken("vm", "bearer"); token.Strength != "none" || !token.Fallback {
				t.Errorf("got %+v", token)
			}
			v.wantOperations("imds.token")
		}},
	}
}
