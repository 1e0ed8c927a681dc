package imds_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/acquire/imds"
)

// uris returns what was asked for.
func (s *stub) uris() []string {
	var list []string
	for _, r := range s.seen {
		list = append(list, r.URL.RequestURI())
	}
	return list
}

func TestProbe(t *testing.T) {
	const s = time.Second
	status := func(statuses ...int) []answer {
		var list []answer
		for _, code := range statuses {
			list = append(list, answer{status: code})
		}
		return list
	}
	stranger := func(statuses ...int) []answer {
		list := status(statuses...)
		for i := range list {
			list[i].server = "-"
		}
		return list
	}
	asking := stranger(400, 400)
	for i := range asking {
		asking[i].body = `{"error":"invalid_request","error_description":"Required metadata header not specified"}`
	}
	const yes, no, unknown = imds.Present, imds.Absent, imds.Unknown
	for _, tc := range []struct {
		name    string
		answers []answer
		want    imds.Support
		pauses  []time.Duration
	}{
		{"both", status(400, 400), imds.Support{V2: yes, V1: yes}, nil},
		{"both, by its words", asking, imds.Support{V2: yes, V1: yes}, nil},
		{"400 of something else", stranger(400, 400), imds.Support{}, nil},
		{"v1 only", status(404, 400), imds.Support{V2: no, V1: yes}, nil},
		{"neither", status(404, 404), imds.Support{V2: no, V1: no}, nil},
		{"IMDS answers everything", status(200, 200), imds.Support{}, nil},
		{"IMDS asks for a password", status(401, 403), imds.Support{}, nil},
		{"a hiccup", status(500, 400, 400), imds.Support{V2: yes, V1: yes}, []time.Duration{s}},
		{"trouble for long", status(500, 500, 500, 500, 400), imds.Support{V2: unknown, V1: yes}, []time.Duration{s, 2 * s, 4 * s}},
		{"throttled for long", status(429, 429, 429, 429, 404), imds.Support{V2: unknown, V1: no}, []time.Duration{s, 2 * s, 4 * s}},
		{"a guest agent in enforce mode", stranger(403, 403), imds.Support{}, nil},
		{"a proxy that wants a password", stranger(407, 407), imds.Support{}, nil},
		{"a captive portal", stranger(200, 200), imds.Support{}, nil},
		{"a server that knows no such path", stranger(404, 404), imds.Support{}, nil},
		{"a redirect", stranger(302, 302), imds.Support{}, nil},
	} {
		stub := &stub{answers: tc.answers}
		client, pauses := newClient(t, stub)
		got, err := client.Probe(t.Context())
		if (err == nil) != (got.V1 != unknown && got.V2 != unknown) || got != tc.want || !slices.Equal(*pauses, tc.pauses) {
			t.Errorf("%s: got %+v, %v with pauses %v; want %+v with %v", tc.name, got, err, *pauses, tc.want, tc.pauses)
		}
		for _, r := range stub.seen {
			if r.Header.Get("Metadata") != "" {
				t.Errorf("%s: the probe has IMDS' own header", tc.name)
			}
		}
		first, last := "/metadata/identity/getplatformmetadata?cred-api-version=2.0", "/metadata/identity/oauth2/token"
		if uris := stub.uris(); uris[0] != first || uris[len(uris)-1] != last {
			t.Errorf("%s: got requests %q", tc.name, uris)
		}
	}
}

func TestProbeWhereNobodyListensIsAnError(t *testing.T) {
	server := httptest.NewServer(nil)
	server.Close()
	client, err := imds.New(imds.Config{Endpoint: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := client.Probe(t.Context()); !errors.Is(err, imds.ErrUnreachable) {
		t.Errorf("got %+v, %v; want ErrUnreachable", got, err)
	}
}

func TestMSIv2SwitchedOff(t *testing.T) {
	stub := &stub{answers: []answer{{status: 400, body: "{}"}}}
	server := httptest.NewServer(stub)
	defer server.Close()
	client, err := imds.New(imds.Config{Endpoint: server.URL, DisableV2: true})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	_, metadataErr := client.PlatformMetadata(t.Context(), imds.Selector{})
	_, credentialErr := client.IssueCredential(t.Context(), imds.Selector{}, imds.CredentialRequest{BypassCache: true})
	for _, err := range []error{metadataErr, credentialErr} {
		if !errors.Is(err, imds.ErrNotSupported) || !strings.Contains(err.Error(), "MSAL_MI_DISABLE_IMDS_V2") {
			t.Errorf("got %v, want ErrNotSupported and why", err)
		}
	}
	if len(stub.seen) != 0 {
		t.Errorf("IMDS was asked %q", stub.uris())
	}
	if got, err := client.Probe(t.Context()); err != nil || got != (imds.Support{V2: imds.Absent, V1: imds.Present}) || len(stub.seen) != 1 {
		t.Errorf("got %+v, %v after %q", got, err, stub.uris())
	}
	for value, want := range map[string]bool{"true": true, "TRUE": true, "1": true, "": false, "yes": false, "0": false, " true": false, "01": false} {
		if got := imds.DisabledByEnvironment(value); got != want {
			t.Errorf("DisabledByEnvironment(%q) = %v", value, got)
		}
	}
}

func TestCredentialPastTheCache(t *testing.T) {
	good := answer{status: 200, body: `{"client_id":"` + clientID + `","tenant_id":"` + tenantID + `","certificate":"AQID","identity_type":"SystemAssigned","mtls_authentication_endpoint":"https://centralus.mtlsauth.microsoft.com"}`}
	const plain = "/metadata/identity/issuecredential?cred-api-version=2.0"
	const bypass = "/metadata/identity/issuecredential?bypass_cache=true&cred-api-version=2.0"
	for _, tc := range []struct {
		name    string
		answers []answer
		want    []string
		ok      bool
	}{
		{"a host that knows it", []answer{good}, []string{bypass}, true},
		{"a host that does not", []answer{{status: 400}, good}, []string{bypass, plain}, true},
		{"a bad request either way", []answer{{status: 400}}, []string{bypass, plain}, false},
		{"forbidden is final", []answer{{status: 403}}, []string{bypass}, false},
		{"trouble is retried as ever", []answer{{status: 500}, good}, []string{bypass, bypass}, true},
	} {
		s := &stub{answers: tc.answers}
		client, _ := newClient(t, s)
		_, err := client.IssueCredential(t.Context(), imds.Selector{}, imds.CredentialRequest{CSR: []byte{1}, BypassCache: true})
		if diff := cmp.Diff(tc.want, s.uris()); diff != "" || (err == nil) != tc.ok {
			t.Errorf("%s: got %v; requests differ (-want +got):\n%s", tc.name, err, diff)
		}
		for _, body := range s.bodies {
			if body != `{"csr":"AQ=="}` {
				t.Errorf("%s: got body %s", tc.name, body)
			}
		}
	}
}

func TestRegion(t *testing.T) {
	const pause = 250 * time.Millisecond
	good := answer{status: 200, body: `{"location":"westeurope","vmId":"x"}`}
	versions := answer{status: 400, body: `{"error":"Bad request. api-version is invalid","newest-versions":["2030-01-02","2029-01-01"]}`}
	const known, unversioned, newest = "/metadata/instance/compute?api-version=2021-02-01", "/metadata/instance/compute", "/metadata/instance/compute?api-version=2030-01-02"
	for _, tc := range []struct {
		name    string
		answers []answer
		want    string // "" is an error
		asked   []string
		pauses  []time.Duration
	}{
		{"at once", []answer{good}, "westeurope", []string{known}, nil},
		{"capitals", []answer{{status: 200, body: `{"location":"WestEurope"}`}}, "westeurope", []string{known}, nil},
		{"410", []answer{{status: 410}, good}, "westeurope", []string{known, known}, []time.Duration{pause}},
		{"429", []answer{{status: 429}, good}, "westeurope", []string{known, known}, []time.Duration{pause}},
		{"503 for long", []answer{{status: 503}}, "", []string{known, known, known, known}, []time.Duration{pause, pause, pause}},
		{"404 is final", []answer{{status: 404}, good}, "", []string{known}, nil},
		{"408 is final", []answer{{status: 408}, good}, "", []string{known}, nil},
		{"a version too old", []answer{{status: 400}, versions, good}, "westeurope", []string{known, unversioned, newest}, nil},
		{"every version refused", []answer{{status: 400}, versions, {status: 400}}, "", []string{known, unversioned, newest}, nil},
		{"no versions listed", []answer{{status: 400, body: "{}"}}, "", []string{known, unversioned}, nil},
		{"a version that is none", []answer{{status: 400, body: `{"newest-versions":["x&resource=y"]}`}}, "", []string{known, unversioned}, nil},
		{"another server", []answer{{status: 200, server: "nginx", body: good.body}}, "", []string{known}, nil},
		{"no location", []answer{{status: 200, body: "{}"}}, "", []string{known}, nil},
		{"a location that leads elsewhere", []answer{{status: 200, body: `{"location":"evil.example/"}`}}, "", []string{known}, nil},
		{"no JSON", []answer{{status: 200, body: "<html>"}}, "", []string{known}, nil},
	} {
		s := &stub{answers: tc.answers}
		client, pauses := newClient(t, s)
		got, err := client.Region(t.Context())
		if got != tc.want || (err == nil) != (tc.want != "") {
			t.Errorf("%s: got %q, %v; want %q", tc.name, got, err, tc.want)
		}
		if diff := cmp.Diff(tc.asked, s.uris()); diff != "" || !slices.Equal(*pauses, tc.pauses) {
			t.Errorf("%s: got pauses %v, want %v; requests differ (-want +got):\n%s", tc.name, *pauses, tc.pauses, diff)
		}
	}
}

func TestRegionHasABudget(t *testing.T) {
	server := httptest.NewServer(&stub{answers: []answer{{status: 503}}})
	defer server.Close()
	client, err := imds.New(imds.Config{Endpoint: server.URL, Sleep: func(ctx context.Context, _ time.Duration) error {
		if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > 2*time.Second {
			t.Errorf("the search may last until %v", deadline)
		}
		return context.DeadlineExceeded // the budget is spent
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	_, err = client.Region(t.Context())
	if e, ok := errors.AsType[*imds.Error](err); !ok || e.Status != 503 {
		t.Errorf("got %v, want the server's last word", err)
	}
}

func FuzzRegion(f *testing.F) {
	f.Add(200, []byte(`{"location":"westeurope"}`))
	f.Add(400, []byte(`{"newest-versions":["2030-01-02"]}`))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		if status < 200 || status > 599 {
			return
		}
		s := &stub{answers: []answer{{status: status, body: string(body)}}}
		server := httptest.NewServer(s)
		defer server.Close()
		client, err := imds.New(imds.Config{Endpoint: server.URL, Sleep: func(context.Context, time.Duration) error { return nil }})
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		got, err := client.Region(t.Context())
		if (got == "") == (err == nil) || strings.ContainsAny(got, "./:@?# ") || len(s.seen) > 4 {
			t.Errorf("got %q, %v after %d requests", got, err, len(s.seen))
		}
	})
}

// Whatever answers at IMDS' address and is not IMDS can neither refuse nor say that the host has no
// binding certificates. Its statuses are retried like IMDS' own: a proxy before IMDS gives them,
// too.
func TestAStrangersStatusIsNoRefusal(t *testing.T) {
	const s = time.Second
	often := []time.Duration{s, 2 * s, 4 * s}
	for _, tc := range []struct {
		status int
		want   error
		pauses []time.Duration
	}{
		{302, imds.ErrBadAnswer, nil},
		{400, imds.ErrBadAnswer, nil},
		{401, imds.ErrBadAnswer, nil},
		{403, imds.ErrBadAnswer, nil},
		{404, imds.ErrBadAnswer, often},
		{408, imds.ErrUnreachable, often},
		{410, imds.ErrUnreachable, slices.Repeat([]time.Duration{10 * s}, 7)},
		{429, imds.ErrUnreachable, often},
		{502, imds.ErrUnreachable, often},
		{503, imds.ErrUnreachable, often},
	} {
		for _, server := range []string{"-", "nginx"} {
			stub := &stub{answers: []answer{{status: tc.status, server: server, body: `{"error":"invalid_request"}`}}}
			client, pauses := newClient(t, stub)
			_, metadataErr := client.PlatformMetadata(t.Context(), imds.Selector{})
			if !slices.Equal(*pauses, tc.pauses) {
				t.Errorf("%d by %q: got pauses %v, want %v", tc.status, server, *pauses, tc.pauses)
			}
			_, credentialErr := client.IssueCredential(t.Context(), imds.Selector{}, imds.CredentialRequest{BypassCache: true})
			_, tokenErr := client.Token(t.Context(), imds.Selector{}, imds.TokenRequest{Resource: "https://vault.azure.net"})
			for _, err := range []error{metadataErr, credentialErr, tokenErr} {
				_, refused := errors.AsType[*imds.Error](err)
				if refused || errors.Is(err, imds.ErrNotSupported) || !errors.Is(err, tc.want) {
					t.Errorf("%d by %q: got %v, want %v", tc.status, server, err, tc.want)
				}
			}
		}
	}
}
