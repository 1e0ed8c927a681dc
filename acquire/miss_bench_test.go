package acquire_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/acquire/binding"
	"github.com/keyagent/keyagent/acquire/entra"
	"github.com/keyagent/keyagent/tlsbridge"

	simulated "github.com/keyagent/keyagent/simulator/entra"
	"github.com/keyagent/keyagent/simulator/fault"
	"github.com/keyagent/keyagent/simulator/journal"
	"github.com/keyagent/keyagent/simulator/pki"
)

const (
	benchTenant = "11111111-2222-4333-8444-555555555555"
	benchClient = "66666666-7777-4888-8999-aaaaaaaaaaaa"
	// maxMisses is how many resources the simulated tenant has: each is missed once.
	maxMisses = 10_000
)

// BenchmarkTokenMiss compares a token that the cache does not have with a bare net/http client that
// posts the same form to the same simulated endpoint over a connection of the same kind: mutual
// TLS, HTTP/2, the same certificate and key, kept open. The endpoint signs a token for each
// request, as Entra does; beyond that it costs nothing, neither distance nor load.
func BenchmarkTokenMiss(b *testing.B) {
	on := newMissBench(b)
	acquirer, bare := on.acquirer(b), on.bareClient(b)
	var mine, theirs times
	turns := []func(n int){
		func(n int) {
			req := acquire.Request{Identity: "vm", Resource: missed(n), Type: acquire.TypeBearer}
			mine.add(b, func() error { _, err := acquirer.Token(b.Context(), req); return err })
		},
		func(n int) { theirs.add(b, func() error { return on.post(b.Context(), bare, missed(n)) }) },
	}
	turns[0](0) // the connections
	turns[1](0)
	mine, theirs = nil, nil
	for n := 1; b.Loop(); n++ {
		turns[n%2](n)
		turns[1-n%2](n)
	}
	b.ReportMetric(mine.median(), "ours-ns")
	b.ReportMetric(theirs.median(), "reference-ns")
	b.ReportMetric(mine.median()/theirs.median(), "ratio")
}

func missed(n int) string { return fmt.Sprintf("https://resource-%05d", n) }

// missBench is a simulated token endpoint, and a certificate that it takes.
type missBench struct {
	*world
	server *httptest.Server
	roots  *x509.CertPool
}

func newMissBench(b *testing.B) *missBench {
	on := &missBench{world: &world{t: b, clock: time.Now(), key: testKeys(b)[0]}, roots: x509.NewCertPool()}
	issuer, err := pki.NewIdentityIssuer(on.clock)
	if err != nil {
		b.Fatal(err)
	}
	on.server = httptest.NewUnstartedServer(nil)
	address := "https://" + on.server.Listener.Addr().String()
	leaf, err := issuer.Issue(pki.BindingCertificate{ClientID: benchClient, Key: on.key.Public(), Now: on.clock})
	if err != nil {
		b.Fatal(err)
	}
	on.current = &binding.Certificate{Leaf: leaf, ClientID: benchClient, TenantID: benchTenant, MTLSEndpoint: address, Attested: true}
	on.serve(b, address, issuer.Certificate)
	return on
}

// serve starts the endpoint.
func (on *missBench) serve(b *testing.B, address string, issuer *x509.Certificate) {
	authority, err := pki.NewServerAuthority(on.clock)
	if err != nil {
		b.Fatal(err)
	}
	on.roots.AddCert(authority.Root)
	certificate, err := authority.Certificate(on.clock)
	if err != nil {
		b.Fatal(err)
	}
	cfg := simulated.Config{
		MTLSURL: address, LoginURL: address, TenantID: benchTenant, Issuer: issuer, Now: on.now,
		Principals: []simulated.Principal{{ClientID: benchClient, ObjectID: benchClient}},
	}
	for n := range maxMisses {
		cfg.Resources = append(cfg.Resources, missed(n))
	}
	cfg.Recorder.Journal, cfg.Recorder.Faults = journal.New(1, on.now), fault.NewSet()
	endpoint, err := simulated.New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	on.server.Config.Handler, on.server.TLS, on.server.EnableHTTP2 = endpoint.MTLS(), simulated.TLSConfig(certificate), true
	on.server.StartTLS()
	b.Cleanup(on.server.Close)
}

func (on *missBench) acquirer(b *testing.B) *acquire.Acquirer {
	acquirer, err := acquire.New(acquire.Config{
		Identities: []acquire.Identity{managed("vm")},
		Bindings:   on,
		Key:        acquire.BindingKey{Signer: on.signer, Strength: acquire.StrengthTPM},
		Entra:      entra.New(entra.Config{Now: on.now}),
		TLS:        tlsbridge.Config{RootCAs: on.roots, Now: on.now},
		Now:        on.now,
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = acquirer.Close() })
	return acquirer
}

func (on *missBench) bareClient(b *testing.B) *http.Client {
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{
		RootCAs: on.roots, Certificates: []tls.Certificate{{Certificate: [][]byte{on.current.Leaf.Raw}, PrivateKey: on.key}},
	}}
	b.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func (on *missBench) post(ctx context.Context, client *http.Client, resource string) error {
	form := url.Values{
		"grant_type": {"client_credentials"}, "client_id": {benchClient}, "scope": {resource + "/.default"}, "token_type": {"bearer"},
	}
	target := on.current.MTLSEndpoint + "/" + benchTenant + "/oauth2/v2.0/token"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %s", resp.StatusCode, body)
	}
	return err
}

// times are what the rounds took.
type times []time.Duration

func (t *times) add(b *testing.B, f func() error) {
	start := time.Now()
	err := f()
	*t = append(*t, time.Since(start))
	if err != nil {
		b.Fatal(err)
	}
}

// median is in nanoseconds.
func (t times) median() float64 {
	sorted := slices.Sorted(slices.Values(t))
	return float64(sorted[len(sorted)/2])
}
