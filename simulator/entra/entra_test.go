package entra_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/keyagent/keyagent/simulator/entra"
	"github.com/keyagent/keyagent/simulator/fault"
	"github.com/keyagent/keyagent/simulator/internal/endpoint"
	"github.com/keyagent/keyagent/simulator/journal"
	"github.com/keyagent/keyagent/simulator/pki"
)

const (
	tenantID   = "1f2e3d4c-0000-4000-8000-0000000077e1"
	clientID   = "8b0c3d0e-0000-4000-8000-00000000c1d1"
	otherID    = "8b0c3d0e-0000-4000-8000-00000000c1d2"
	objectID   = "9d0c3d0e-0000-4000-8000-0000000000b1"
	resourceID = "/subscriptions/s/resourcegroups/g/providers/Microsoft.Compute/virtualMachines/vm"
	vault      = "https://vault.azure.net"
	requestID  = "0b0c3d0e-1111-4000-8000-00000000c1d1"
	tokenPath  = "/" + tenantID + "/oauth2/v2.0/token"
	management = "https://management.azure.com"
)

func epoch() time.Time { return time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC) }

// world is a token endpoint, the issuer of its clients' certificates, and a client's key.
type world struct {
	url     string // of the mutual-TLS face
	login   string // of the login face
	server  *entra.Server
	issuer  *pki.IdentityIssuer
	servers *pki.ServerAuthority
	key     *rsa.PrivateKey
	clock   atomic.Int64 // seconds after epoch
	journal *journal.Journal
}

func (w *world) now() time.Time { return epoch().Add(time.Duration(w.clock.Load()) * time.Second) }

// Making keys is most of the work in these tests. One client's key and one issuer serve all of
// them.
var (
	clientKey      = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })
	identityIssuer = sync.OnceValues(func() (*pki.IdentityIssuer, error) { return pki.NewIdentityIssuer(epoch()) })
)

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldWith(t, func(*entra.Config) {})
}

// newWorldUnder is newWorld for clients whose certificates the test issues itself.
func newWorldUnder(t *testing.T, issuer *x509.Certificate) *world {
	t.Helper()
	return start(t, issuer, func(*entra.Config) {})
}

// newWorldWith is newWorld with another configuration.
func newWorldWith(t *testing.T, change func(*entra.Config)) *world {
	t.Helper()
	issuer, err := identityIssuer()
	if err != nil {
		t.Fatal(err)
	}
	w := start(t, issuer.Certificate, change)
	w.issuer = issuer
	return w
}

func start(t *testing.T, issuer *x509.Certificate, change func(*entra.Config)) *world {
	t.Helper()
	key, err := clientKey()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{key: key}
	w.journal = journal.New(100, w.now)
	if w.servers, err = pki.NewServerAuthority(epoch()); err != nil {
		t.Fatal(err)
	}
	certificate, err := w.servers.Certificate(epoch())
	if err != nil {
		t.Fatal(err)
	}
	mtls, login := httptest.NewUnstartedServer(nil), httptest.NewUnstartedServer(nil)
	w.url, w.login = "https://"+mtls.Listener.Addr().String(), "https://"+login.Listener.Addr().String()
	cfg := entra.Config{
		MTLSURL: w.url, LoginURL: w.login, TenantID: tenantID,
		Principals: []entra.Principal{
			{ClientID: clientID, ObjectID: objectID, ResourceID: resourceID},
			{ClientID: otherID, ObjectID: objectID},
		},
		Applications: []entra.Application{
			{ClientID: appID, ObjectID: appObjectID, Name: "app", ApplicationPolicy: plain()},
			{ClientID: otherAppID, ObjectID: otherAppObjectID, Name: "other", ApplicationPolicy: plain()},
		},
		Resources: []string{vault, management}, BearerOnly: []string{management}, Issuer: issuer, Now: w.now,
		Recorder: endpoint.Recorder{Journal: w.journal, Faults: fault.NewSet()},
	}
	change(&cfg)
	if w.server, err = entra.New(cfg); err != nil {
		t.Fatal(err)
	}
	serve(t, mtls, w.server.MTLS(), entra.TLSConfig(certificate))
	serve(t, login, w.server.Login(), entra.LoginTLSConfig(certificate))
	return w
}

// plain is the policy of an application whose uploaded certificates will do over mutual TLS, which
// is not the usual one.
func plain() entra.ApplicationPolicy {
	return entra.ApplicationPolicy{MTLSEnabled: true, PlainCertificates: true}
}

func serve(t *testing.T, s *httptest.Server, h http.Handler, cfg *tls.Config) {
	t.Helper()
	s.Config.Handler, s.TLS, s.EnableHTTP2 = h, cfg, true
	s.StartTLS()
	t.Cleanup(s.Close)
}

func rsaKey(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue makes a certificate over w.key; change may alter what is issued.
func (w *world) issue(t *testing.T, change func(*pki.BindingCertificate)) *x509.Certificate {
	t.Helper()
	b := pki.BindingCertificate{ClientID: clientID, Key: w.key.Public(), Now: epoch()}
	if change != nil {
		change(&b)
	}
	certificate, err := w.issuer.Issue(b)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

// client returns an HTTP client that presents the certificate, if there is one, with key.
func (w *world) client(t *testing.T, certificate *x509.Certificate, key *rsa.PrivateKey) *http.Client {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(w.servers.Root)
	cfg := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12, Time: epoch, ClientSessionCache: tls.NewLRUClientSessionCache(4)}
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if certificate == nil {
			return &tls.Certificate{}, nil
		}
		return &tls.Certificate{Certificate: [][]byte{certificate.Raw}, PrivateKey: key}, nil
	}
	transport := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// goodForm is a managed identity's request for a Bearer token.
func goodForm() url.Values {
	return url.Values{"grant_type": {"client_credentials"}, "client_id": {clientID}, "scope": {vault + "/.default"}, "token_type": {"bearer"}}
}

type answer struct {
	status int
	header http.Header
	body   []byte
	fields struct {
		TokenType     string `json:"token_type"`
		ExpiresIn     int    `json:"expires_in"`
		RefreshIn     int    `json:"refresh_in"`
		AccessToken   string `json:"access_token"`
		Error         string `json:"error"`
		Description   string `json:"error_description"`
		Codes         []int  `json:"error_codes"`
		CorrelationID string `json:"correlation_id"`
	}
}

// post sends form to path on the mutual-TLS face.
func (w *world) post(t *testing.T, c *http.Client, path string, form url.Values) (answer, error) {
	t.Helper()
	return send(t, c, w.url+path, form)
}

func send(t *testing.T, c *http.Client, target string, form url.Values) (answer, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, target, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	req.Header.Set("client-request-id", requestID)
	req.Header.Set("return-client-request-id", "true")
	resp, err := c.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	a := answer{status: resp.StatusCode, header: resp.Header, body: body}
	if err := json.Unmarshal(body, &a.fields); err != nil {
		t.Fatalf("answer %q: %v", body, err)
	}
	return a, nil
}

func TestTokenForTheRightCertificate(t *testing.T) {
	w := newWorld(t)
	certificate := w.issue(t, nil)
	a, err := w.post(t, w.client(t, certificate, w.key), tokenPath, goodForm())
	if err != nil || a.status != 200 || a.fields.TokenType != "Bearer" || a.fields.ExpiresIn != 86399 || a.fields.RefreshIn != 43199 {
		t.Fatalf("answer %d %s: %v", a.status, a.body, err)
	}
	if a.header.Get("client-request-id") != requestID || a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("headers %v", a.header)
	}
	claims := w.claims(t, a.fields.AccessToken)
	for name, want := range map[string]any{
		"aud": vault, "iss": w.url + "/" + tenantID + "/", "tid": tenantID, "appid": clientID, "azp": clientID, "oid": objectID,
		"xms_mirid": resourceID, "idtyp": "app", "appidacr": "2",
		"iat": float64(epoch().Unix()), "nbf": float64(epoch().Unix()), "exp": float64(epoch().Add(24 * time.Hour).Unix()),
	} {
		if claims[name] != want {
			t.Errorf("claim %s is %v, want %v", name, claims[name], want)
		}
	}
	e := w.journal.Operation(entra.OpToken)
	if len(e) != 1 || e[0].ClientCertThumbprint != endpoint.Thumbprint(certificate.Raw) || e[0].TLSVersion != "TLS 1.3" || strings.Contains(fmt.Sprint(e), a.fields.AccessToken) {
		t.Errorf("journal: %+v", e)
	}
}

// claims returns what a token of the server says, after verification.
func (w *world) claims(t *testing.T, token string) map[string]any {
	t.Helper()
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := parsed.Claims(w.server.Keys(), &claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

func TestClientsAreRefused(t *testing.T) {
	w := newWorld(t)
	impostor, err := pki.NewIdentityIssuer(epoch()) // same name, another key
	if err != nil {
		t.Fatal(err)
	}
	byImpostor, err := impostor.Issue(pki.BindingCertificate{ClientID: clientID, Key: w.key.Public(), Now: epoch()})
	if err != nil {
		t.Fatal(err)
	}
	revoked := w.issue(t, nil)
	w.server.Revoke(endpoint.Thumbprint(revoked.Raw))
	rejected := w.issue(t, nil)
	w.server.Reject(endpoint.Thumbprint(rejected.Raw), 1000612)
	mismatched := w.issue(t, nil)
	w.server.Reject(endpoint.Thumbprint(mismatched.Raw), 500181)
	for name, c := range map[string]struct {
		certificate *x509.Certificate
		form        func(url.Values)
		status      int
		oauth       string
		code        int
	}{
		"no certificate": {status: 401, oauth: "invalid_client", code: 7000218},
		"another client's certificate": {
			certificate: w.issue(t, func(b *pki.BindingCertificate) { b.ClientID = otherID }), status: 401, oauth: "invalid_client", code: 700027,
		},
		"an expired certificate": {
			certificate: w.issue(t, func(b *pki.BindingCertificate) { b.Now = epoch().Add(-15 * 24 * time.Hour) }), status: 401, oauth: "invalid_client", code: 1000502,
		},
		"a certificate that is not valid yet": {
			certificate: w.issue(t, func(b *pki.BindingCertificate) { b.Now = epoch().Add(time.Hour) }), status: 401, oauth: "invalid_client", code: 1000502,
		},
		"a certificate whose token_not_after has passed": {
			certificate: w.issue(t, func(b *pki.BindingCertificate) { b.Now = epoch().Add(-8 * 24 * time.Hour) }), status: 400, oauth: "invalid_request", code: 1000901,
		},
		"the right key under an issuer of the same name": {certificate: byImpostor, status: 401, oauth: "invalid_client", code: 7000277},
		"the right key, self-signed":                     {certificate: selfSigned(t, w.key), status: 401, oauth: "invalid_client", code: 7000277},
		"a revoked certificate":                          {certificate: revoked, status: 401, oauth: "invalid_client", code: 7000214},
		"a certificate whose attestation is rejected":    {certificate: rejected, status: 401, oauth: "invalid_client", code: 1000612},
		"a certificate that is rejected with a code of invalid_request": {
			certificate: mismatched, status: 400, oauth: "invalid_request", code: 500181,
		},
		"a client that the tenant does not have": {
			certificate: w.issue(t, nil), form: func(f url.Values) { f.Set("client_id", requestID) }, status: 400, oauth: "unauthorized_client", code: 700016,
		},
	} {
		t.Run(name, func(t *testing.T) {
			form := goodForm()
			if c.form != nil {
				c.form(form)
			}
			a, err := w.post(t, w.client(t, c.certificate, w.key), tokenPath, form)
			if err != nil {
				t.Fatal(err)
			}
			checkRefusal(t, a, c.status, c.oauth, c.code)
		})
	}
	for _, e := range w.journal.Entries() {
		if e.Outcome != journal.Refused || e.Error == "" {
			t.Errorf("journal: %+v", e)
		}
	}
}

func checkRefusal(t *testing.T, a answer, status int, oauth string, code int) {
	t.Helper()
	f := a.fields
	if a.status != status || f.Error != oauth || len(f.Codes) != 1 || f.Codes[0] != code || f.AccessToken != "" {
		t.Errorf("answer %d %s, want %d %s %d", a.status, a.body, status, oauth, code)
	}
	if !strings.HasPrefix(f.Description, fmt.Sprintf("AADSTS%d: ", code)) || f.CorrelationID != requestID {
		t.Errorf("description %q, correlation id %q", f.Description, f.CorrelationID)
	}
}

func selfSigned(t *testing.T, key *rsa.PrivateKey) *x509.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62)) // each another certificate
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, NotBefore: epoch(), NotAfter: epoch().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	template.Subject.CommonName = clientID
	template.Issuer.CommonName = pki.IdentityIssuerName
	return signed(t, template, template, key, key)
}

func TestTheCertificateWithoutItsKeyOpensNoConnection(t *testing.T) {
	w := newWorld(t)
	_, err := w.post(t, w.client(t, w.issue(t, nil), rsaKey(t)), tokenPath, goodForm())
	if err == nil {
		t.Fatal("the handshake succeeded with a key that is not the certificate's")
	}
	if len(w.journal.Entries()) != 0 {
		t.Error("a request got through")
	}
}

func TestCertificateAgesOnThePlatformsClock(t *testing.T) {
	w := newWorld(t)
	c := w.client(t, w.issue(t, nil), w.key)
	for _, step := range []struct {
		after  time.Duration
		status int
		code   int
	}{
		{6 * 24 * time.Hour, 200, 0}, {8 * 24 * time.Hour, 400, 1000901}, {15 * 24 * time.Hour, 401, 1000502},
	} {
		w.clock.Store(int64(step.after / time.Second))
		a, err := w.post(t, c, tokenPath, goodForm())
		if err != nil || a.status != step.status || (step.code != 0 && a.fields.Codes[0] != step.code) {
			t.Errorf("after %v: %d %s: %v", step.after, a.status, a.body, err)
		}
	}
}

func TestSessionsAreNotResumed(t *testing.T) {
	w := newWorld(t)
	// TLS itself goes by the real time, and would not resume a session of an expired certificate
	// anyway.
	c := w.client(t, w.issue(t, func(b *pki.BindingCertificate) { b.Now, b.Life = time.Now(), time.Hour }), w.key)
	for range 2 {
		resp, err := c.Get(w.url + "/" + tenantID + "/discovery/v2.0/keys")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 || resp.TLS.DidResume {
			t.Errorf("status %d, resumed: %t", resp.StatusCode, resp.TLS.DidResume)
		}
		c.CloseIdleConnections()
	}
}

func TestOtherMethodsAndPaths(t *testing.T) {
	w := newWorld(t)
	c := w.client(t, w.issue(t, nil), w.key)
	for path, want := range map[string]int{tokenPath: 400, "/": 404, "/x" + tokenPath: 404} {
		resp, err := c.Get(w.url + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("GET %s: %d, want %d", path, resp.StatusCode, want)
		}
	}
}
