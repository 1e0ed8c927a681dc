package imds_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/internal/secret"
)

const (
	clientID = "8b0c3d0e-0000-4000-8000-00000000c1d1"
	tenantID = "1f2e3d4c-0000-4000-8000-0000000077e1"
	metadata = `{"clientId":"` + clientID + `","tenantId":"` + tenantID + `","cuId":{"vmId":"5a6b7c8d-0000-4000-8000-000000000e01","vmssId":null},"attestationEndpoint":"https://sharedeus2e.eus2e.attest.azure.net/"}`
)

// stub answers with what the test says and records what arrived.
type stub struct {
	answers []answer
	seen    []*http.Request
	bodies  []string
}

type answer struct {
	status int
	server string // "-" means no Server header
	body   string
}

func (s *stub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.seen, s.bodies = append(s.seen, r), append(s.bodies, string(body))
	a := s.answers[min(len(s.seen), len(s.answers))-1]
	if a.server == "" {
		a.server = "IMDS/150.870.65.1854"
	}
	if a.server != "-" {
		w.Header().Set("Server", a.server)
	}
	w.WriteHeader(a.status)
	_, _ = io.WriteString(w, a.body)
}

// newClient returns a client of the stub that notes its pauses instead of sleeping.
func newClient(t *testing.T, s *stub) (*imds.Client, *[]time.Duration) {
	t.Helper()
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	pauses := new([]time.Duration)
	client, err := imds.New(imds.Config{
		Endpoint:         server.URL,
		MTLSHosts:        imds.MicrosoftMTLSHosts(),
		AttestationHosts: imds.MicrosoftAttestationHosts(),
		Version:          "1.2.3",
		Now:              func() time.Time { return now },
		Sleep: func(_ context.Context, d time.Duration) error {
			*pauses = append(*pauses, d)
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client, pauses
}

func TestPlatformMetadataRequestAndAnswer(t *testing.T) {
	s := &stub{answers: []answer{{status: 200, body: metadata}}}
	client, _ := newClient(t, s)
	got, err := client.PlatformMetadata(t.Context(), imds.Selector{})
	if err != nil {
		t.Fatal(err)
	}
	want := &imds.PlatformMetadata{
		ClientID:            clientID,
		TenantID:            tenantID,
		ComputeUnitID:       `{"vmId":"5a6b7c8d-0000-4000-8000-000000000e01"}`,
		AttestationEndpoint: "https://sharedeus2e.eus2e.attest.azure.net",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metadata differs (-want +got):\n%s", diff)
	}
	r := s.seen[0]
	if r.Method != "GET" || r.URL.RequestURI() != "/metadata/identity/getplatformmetadata?cred-api-version=2.0" {
		t.Errorf("got request %s %s", r.Method, r.URL.RequestURI())
	}
	if r.Header.Get("Metadata") != "true" || len(r.Header.Get("x-ms-client-request-id")) != 36 {
		t.Errorf("got headers %v, want Metadata: true and a request id", r.Header)
	}
}

func TestSelectorsBecomeQueryParameters(t *testing.T) {
	for _, tc := range []struct {
		name string
		sel  imds.Selector
		want string
	}{
		{"client id", imds.Selector{ClientID: clientID}, "client_id=" + clientID},
		{"object id", imds.Selector{ObjectID: tenantID}, "object_id=" + tenantID},
		{"resource id is escaped", imds.Selector{ResourceID: "/subscriptions/s/x&y=1"}, "mi_res_id=%2Fsubscriptions%2Fs%2Fx%26y%3D1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := &stub{answers: []answer{{status: 200, body: metadata}}}
			client, _ := newClient(t, s)
			if _, err := client.PlatformMetadata(t.Context(), tc.sel); err != nil {
				t.Fatal(err)
			}
			if got := s.seen[0].URL.RawQuery; !strings.Contains(got, tc.want) {
				t.Errorf("got query %q, want %q in it", got, tc.want)
			}
		})
	}
}

func TestAnswerAboutAnotherIdentityIsRefused(t *testing.T) {
	client, _ := newClient(t, &stub{answers: []answer{{status: 200, body: metadata}}})
	_, err := client.PlatformMetadata(t.Context(), imds.Selector{ClientID: "11111111-0000-4000-8000-000000000001"})
	if !errors.Is(err, imds.ErrBadAnswer) || !strings.Contains(err.Error(), clientID) {
		t.Errorf("got %v, want a refusal that names the identity that was answered", err)
	}
	if _, err := client.PlatformMetadata(t.Context(), imds.Selector{ClientID: strings.ToUpper(clientID)}); err != nil {
		t.Errorf("the same id in upper case: %v", err)
	}
}

func TestPlatformMetadataRefusesUnusableAnswers(t *testing.T) {
	alter := func(old, new string) string { return strings.Replace(metadata, old, new, 1) }
	for _, tc := range []struct {
		name string
		a    answer
		want string
	}{
		{"no Server header", answer{status: 200, server: "-", body: metadata}, "Server header"},
		{"another server", answer{status: 200, server: "nginx", body: metadata}, `"nginx"`},
		{"no JSON", answer{status: 200, body: "<html>"}, "not the JSON expected"},
		{"a redirect", answer{status: 302, body: ""}, "status 302"},
		{"a body without end", answer{status: 200, body: strings.Repeat(" ", 1<<20) + metadata}, "too large"},
		{"empty cuId", answer{status: 200, body: alter(`{"vmId":"5a6b7c8d-0000-4000-8000-000000000e01","vmssId":null}`, "{}")}, "neither vmId nor vmssId"},
		{"null vmId", answer{status: 200, body: alter(`"5a6b7c8d-0000-4000-8000-000000000e01"`, "null")}, "neither vmId nor vmssId"},
		{"cuId member given twice", answer{status: 200, body: alter(`"vmssId":null`, `"vmId":"x"`)}, "appears twice"},
		{"cuId is a string", answer{status: 200, body: alter(`{"vmId":"5a6b7c8d-0000-4000-8000-000000000e01","vmssId":null}`, `"x"`)}, "not a JSON object"},
		{"client id is no GUID", answer{status: 200, body: alter(clientID, "me")}, "clientId"},
		{"tenant id is a path", answer{status: 200, body: alter(tenantID, "../../../../../../../../../../../../")}, "tenantId"},
		{"cuId missing", answer{status: 200, body: alter(`"cuId"`, `"cuid"`)}, "no cuId"},
		{"client id is a number", answer{status: 200, body: alter(`"`+clientID+`"`, "7")}, "clientId is not a string"},
		{"tenant id twice", answer{status: 200, body: alter(`"`+tenantID+`"`, `"`+tenantID+`","tenantId":"`+clientID+`"`)}, "tenantId occurs twice"},
		{"attestation endpoint null", answer{status: 200, body: alter(`"https://sharedeus2e.eus2e.attest.azure.net/"`, "null")}, "no attestationEndpoint"},
		{"attestation over http", answer{status: 200, body: alter("https://shared", "http://shared")}, "is not https"},
		{"attestation somewhere else", answer{status: 200, body: alter("attest.azure.net", "attest.example.com")}, "not a trusted host"},
		{"attestation host that only ends alike", answer{status: 200, body: alter("sharedeus2e.eus2e.attest.azure.net", "evil-attest.azure.net")}, "not a trusted host"},
		{"attestation test service", answer{status: 200, body: alter("eus2e.attest", "eus2e.test.attest")}, "not a trusted host"},
		{"attestation with user information", answer{status: 200, body: alter("https://", "https://a@")}, "user information"},
		{"attestation with a query", answer{status: 200, body: alter(`azure.net/"`, `azure.net/?x"`)}, "query"},
		{"attestation at another port", answer{status: 200, body: alter(`azure.net/"`, `azure.net:8443/"`)}, "not a trusted host"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			client, _ := newClient(t, &stub{answers: []answer{tc.a}})
			got, err := client.PlatformMetadata(t.Context(), imds.Selector{})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %+v, %v; want an error with %q", got, err, tc.want)
			}
		})
	}
}

func TestIssueCredential(t *testing.T) {
	good := `{"client_id":"` + clientID + `","tenant_id":"` + tenantID + `","certificate":"AQID","identity_type":"SystemAssigned","mtls_authentication_endpoint":"https://centralus.mtlsauth.microsoft.com/"}`
	s := &stub{answers: []answer{{status: 200, body: good}}}
	client, _ := newClient(t, s)
	got, err := client.IssueCredential(t.Context(), imds.Selector{}, imds.CredentialRequest{CSR: []byte{0x30, 0xff}, AttestationToken: secret.New("a.b.c")})
	if err != nil {
		t.Fatal(err)
	}
	want := &imds.Credential{ClientID: clientID, TenantID: tenantID, Certificate: []byte{1, 2, 3}, IdentityType: "SystemAssigned", MTLSEndpoint: "https://centralus.mtlsauth.microsoft.com"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("credential differs (-want +got):\n%s", diff)
	}
	if got, want := s.bodies[0], `{"csr":"MP8=","attestation_token":"a.b.c"}`; got != want {
		t.Errorf("got body %s, want %s", got, want)
	}
	if got := s.seen[0].Header.Get("Content-Type"); got != "application/json; charset=utf-8" {
		t.Errorf("got content type %q", got)
	}
	if _, err := client.IssueCredential(t.Context(), imds.Selector{}, imds.CredentialRequest{CSR: []byte{1}}); err != nil || strings.Contains(s.bodies[1], "attestation_token") {
		t.Errorf("without attestation: got body %s, %v; want no attestation_token member", s.bodies[1], err)
	}
	for name, change := range map[string][2]string{
		"endpoint over http":          {"https://centralus", "http://centralus"},
		"endpoint somewhere else":     {"mtlsauth.microsoft.com", "mtlsauth.example.com"},
		"endpoint that contains ours": {"mtlsauth.microsoft.com", "mtlsauth.microsoft.com.example.com"},
		"certificate not base64":      {"AQID", "%%"},
		"certificate missing":         {`"AQID"`, `""`},
		"client id missing":           {clientID, ""},
		"identity type missing":       {"SystemAssigned", ""},
	} {
		client, _ := newClient(t, &stub{answers: []answer{{status: 200, body: strings.Replace(good, change[0], change[1], 1)}}})
		if got, err := client.IssueCredential(t.Context(), imds.Selector{}, imds.CredentialRequest{}); !errors.Is(err, imds.ErrBadAnswer) {
			t.Errorf("%s: got %+v, %v; want ErrBadAnswer", name, got, err)
		}
	}
}

func TestRetrySchedule(t *testing.T) {
	const s = time.Second
	repeat := func(n, status int) []answer {
		list := make([]answer, n)
		for i := range list {
			list[i] = answer{status: status, body: "{}"}
		}
		return list
	}
	good := answer{status: 200, body: metadata}
	for _, tc := range []struct {
		name    string
		answers []answer
		pauses  []time.Duration
		ok      bool
	}{
		{"success needs no retry", []answer{good}, nil, true},
		{"400 is final", repeat(1, 400), nil, false},
		{"403 is final", repeat(1, 403), nil, false},
		{"500 once, then success", append(repeat(1, 500), good), []time.Duration{s}, true},
		{"429 is retried three times", repeat(9, 429), []time.Duration{s, 2 * s, 4 * s}, false},
		{"404 is retried three times", repeat(9, 404), []time.Duration{s, 2 * s, 4 * s}, false},
		{"410 seven times, then success, is 70 seconds", append(repeat(7, 410), good), []time.Duration{10 * s, 10 * s, 10 * s, 10 * s, 10 * s, 10 * s, 10 * s}, true},
		{"410 for ever ends", repeat(20, 410), []time.Duration{10 * s, 10 * s, 10 * s, 10 * s, 10 * s, 10 * s, 10 * s}, false},
		{"the first failure chooses the schedule", append(repeat(1, 503), repeat(9, 410)...), []time.Duration{s, 2 * s, 4 * s}, false},
		{"a final answer ends the retries", append(repeat(1, 503), repeat(1, 400)...), []time.Duration{s}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			client, pauses := newClient(t, &stub{answers: tc.answers})
			_, err := client.PlatformMetadata(t.Context(), imds.Selector{})
			if (err == nil) != tc.ok {
				t.Errorf("got error %v, want success: %v", err, tc.ok)
			}
			if diff := cmp.Diff(tc.pauses, *pauses); diff != "" {
				t.Errorf("pauses differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTimeOutIsRetriedThreeTimes(t *testing.T) {
	want := []time.Duration{time.Second, 2 * time.Second, 4 * time.Second}
	if diff := cmp.Diff(want, imds.Pauses(0)); diff != "" {
		t.Errorf("pauses differ (-want +got):\n%s", diff)
	}
}

func TestErrorsTellWhatIMDSSaid(t *testing.T) {
	client, _ := newClient(t, &stub{answers: []answer{{status: 400, body: `{"error":"identity_not_found","error_description":"Identity not\nfound","correlationId":"c-1"}`}}})
	_, err := client.PlatformMetadata(t.Context(), imds.Selector{})
	e, ok := errors.AsType[*imds.Error](err)
	if !ok {
		t.Fatalf("got %v, want an *imds.Error", err)
	}
	want := imds.Error{Operation: "getplatformmetadata", Status: 400, Code: "identity_not_found", Description: "Identity not found", CorrelationID: "c-1"}
	if *e != want || e.Temporary() {
		t.Errorf("got %+v, want %+v, not temporary", *e, want)
	}
	client, _ = newClient(t, &stub{answers: []answer{{status: 404}}})
	if _, err := client.PlatformMetadata(t.Context(), imds.Selector{}); !errors.Is(err, imds.ErrNotSupported) {
		t.Errorf("404: got %v, want ErrNotSupported", err)
	}
}

func TestNobodyThereIsOneClearErrorAtOnce(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	client, err := imds.New(imds.Config{Endpoint: "http://" + address, Sleep: func(context.Context, time.Duration) error {
		t.Error("a refused connection was retried")
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.PlatformMetadata(t.Context(), imds.Selector{}); !errors.Is(err, imds.ErrUnreachable) {
		t.Errorf("got %v, want ErrUnreachable", err)
	}
}

func TestNoProxyAndNoRedirect(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	var target *httptest.Server
	target = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/elsewhere" {
			t.Error("a redirect was followed")
		}
		http.Redirect(w, r, target.URL+"/elsewhere", http.StatusTemporaryRedirect)
	}))
	defer target.Close()
	client, err := imds.New(imds.Config{Endpoint: target.URL})
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.PlatformMetadata(t.Context(), imds.Selector{})
	if !errors.Is(err, imds.ErrBadAnswer) || !strings.Contains(err.Error(), "status 307") {
		t.Errorf("got %v, want the redirect itself as an error", err)
	}
}

func FuzzPlatformMetadata(f *testing.F) {
	f.Add([]byte(metadata))
	f.Add([]byte(`{"cuId":{"vmId":"a","vmId":"b"}}`))
	f.Add([]byte(`{"cuId":{"vmssId":{"deep":[1,2]},"vmId":"<&>"}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		server := httptest.NewServer(&stub{answers: []answer{{status: 200, body: string(body)}}})
		defer server.Close()
		client, err := imds.New(imds.Config{Endpoint: server.URL, AttestationHosts: imds.MicrosoftAttestationHosts()})
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		got, err := client.PlatformMetadata(t.Context(), imds.Selector{})
		if err != nil {
			return
		}
		// What goes into the certificate request must be JSON, and compact.
		var compacted map[string]json.RawMessage
		if err := json.Unmarshal([]byte(got.ComputeUnitID), &compacted); err != nil || strings.ContainsAny(got.ComputeUnitID, "\n\t") {
			t.Errorf("got cuId %q: %v", got.ComputeUnitID, err)
		}
	})
}
