package resource_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/keyagent/keyagent/simulator/fault"
	"github.com/keyagent/keyagent/simulator/internal/endpoint"
	"github.com/keyagent/keyagent/simulator/journal"
	"github.com/keyagent/keyagent/simulator/pki"
	"github.com/keyagent/keyagent/simulator/resource"
)

func epoch() time.Time { return time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC) }

func sign(t *testing.T, key any, algorithm jose.SignatureAlgorithm, claims map[string]any) string {
	t.Helper()
	return signAs(t, "1", key, algorithm, claims)
}

func signAs(t *testing.T, keyID string, key any, algorithm jose.SignatureAlgorithm, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", keyID))
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func rsaKey(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// world is a resource behind TLS, with the token service's key in the test's hands.
type world struct {
	url     string
	server  *resource.Server
	roots   *x509.CertPool
	key     *rsa.PrivateKey
	journal *journal.Journal
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{key: rsaKey(t), journal: journal.New(100, epoch), roots: x509.NewCertPool()}
	w.server = resource.New(resource.Config{
		Audience: "https://vault.azure.net", Graph: "https://graph.microsoft.com", Issuer: "https://sts/", Now: epoch,
		Keys:     jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{KeyID: "1", Key: w.key.Public()}}},
		Recorder: endpoint.Recorder{Journal: w.journal, Faults: fault.NewSet()},
	})
	authority, err := pki.NewServerAuthority(epoch())
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := authority.Certificate(epoch())
	if err != nil {
		t.Fatal(err)
	}
	w.roots.AddCert(authority.Root)
	s := httptest.NewUnstartedServer(w.server)
	s.TLS = resource.TLSConfig(certificate)
	s.StartTLS()
	t.Cleanup(s.Close)
	w.url = s.URL
	return w
}

// claims are those of a good token, with one changed; nil takes it away.
func claims(name string, value any) map[string]any {
	changed := map[string]any{
		"iss": "https://sts/", "aud": "https://vault.azure.net", "nbf": epoch().Unix(), "exp": epoch().Add(time.Hour).Unix(),
		"appid": "app", "oid": "oid", "tid": "tid", "xms_mirid": "mirid",
	}
	maps.Copy(changed, map[string]any{name: value})
	maps.DeleteFunc(changed, func(_ string, v any) bool { return v == nil })
	return changed
}

// clientCertificate is one over a key of its own.
func clientCertificate(t *testing.T) *tls.Certificate {
	t.Helper()
	key := rsaKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: epoch(), NotAfter: epoch().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

type answer struct {
	status int
	header string // WWW-Authenticate
	caller resource.Caller
	refusal
}

// refusal is what Key Vault and Graph call an error.
type refusal struct {
	Error struct{ Code, Message string }
}

// call makes a request with this Authorization header over a connection by this certificate; nil
// means none.
func (w *world) call(t *testing.T, authorization string, certificate *tls.Certificate) answer {
	t.Helper()
	return w.callAt(t, "/secrets/x", authorization, certificate)
}

func (w *world) callAt(t *testing.T, path, authorization string, certificate *tls.Certificate) answer {
	t.Helper()
	return w.callWith(t, path, authorization, certificate, "")
}

// callWith is callAt with the header that says that the token is bound; "" means without.
func (w *world) callWith(t *testing.T, path, authorization string, certificate *tls.Certificate, bound string) answer {
	t.Helper()
	cfg := &tls.Config{RootCAs: w.roots, Time: epoch, MinVersion: tls.VersionTLS12, Renegotiation: tls.RenegotiateOnceAsClient}
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if certificate == nil {
			return &tls.Certificate{}, nil
		}
		return certificate, nil
	}
	transport := &http.Transport{TLSClientConfig: cfg}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	if bound != "" {
		req.Header.Set("x-ms-tokenboundauth", bound)
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	a := answer{status: resp.StatusCode, header: resp.Header.Get("WWW-Authenticate")}
	data, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, json.Unmarshal(data, &a.caller), json.Unmarshal(data, &a.refusal)); err != nil {
		t.Fatal(err)
	}
	return a
}

func TestBearerTokens(t *testing.T) {
	w := newWorld(t)
	key, other, good := w.key, rsaKey(t), claims("", nil)
	for name, c := range map[string]struct {
		authorization string
		status        int
	}{
		"a good token":            {"Bearer " + sign(t, key, jose.RS256, good), 200},
		"a scheme in lower case":  {"bearer " + sign(t, key, jose.RS256, good), 200},
		"no token":                {"", 401},
		"another scheme":          {"pop " + sign(t, key, jose.RS256, good), 401},
		"no JWT":                  {"Bearer x", 401},
		"an unknown key id":       {"Bearer " + signAs(t, "2", key, jose.RS256, good), 401},
		"a forged signature":      {"Bearer " + sign(t, other, jose.RS256, good), 401},
		"another algorithm":       {"Bearer " + sign(t, []byte("0123456789abcdef0123456789abcdef"), jose.HS256, good), 401},
		"another audience":        {"Bearer " + sign(t, key, jose.RS256, claims("aud", "https://graph.microsoft.com")), 401},
		"another issuer":          {"Bearer " + sign(t, key, jose.RS256, claims("iss", "https://other/")), 401},
		"an expired token":        {"Bearer " + sign(t, key, jose.RS256, claims("exp", epoch().Add(-2*time.Minute).Unix())), 401},
		"a token without expiry":  {"Bearer " + sign(t, key, jose.RS256, claims("exp", nil)), 401},
		"a token of the future":   {"Bearer " + sign(t, key, jose.RS256, claims("nbf", epoch().Add(2*time.Minute).Unix())), 401},
		"a token for no audience": {"Bearer " + sign(t, key, jose.RS256, claims("aud", nil)), 401},
	} {
		t.Run(name, func(t *testing.T) {
			a := w.call(t, c.authorization, nil)
			if a.status != c.status || (a.caller.ClientID == "app") != (c.status == 200) || (a.header != "") != (c.status == 401) || a.caller.Bound {
				t.Errorf("status %d, want %d; caller %+v", a.status, c.status, a.caller)
			}
		})
	}
}

func TestBoundTokens(t *testing.T) {
	w := newWorld(t)
	own, other := clientCertificate(t), clientCertificate(t)
	cnf := map[string]any{"x5t#S256": endpoint.Thumbprint(own.Certificate[0])}
	bound := sign(t, w.key, jose.RS256, claims("cnf", cnf))
	unbound := sign(t, w.key, jose.RS256, claims("", nil))
	for name, c := range map[string]struct {
		authorization string
		certificate   *tls.Certificate
		status        int
	}{
		"with its certificate":                     {"mtls_pop " + bound, own, 200},
		"in other letters":                         {"MTLS_POP " + bound, own, 200},
		"as Bearer with its certificate":           {"Bearer " + bound, own, 200},
		"with another certificate":                 {"mtls_pop " + bound, other, 401},
		"without certificate":                      {"mtls_pop " + bound, nil, 401},
		"as Bearer with another certificate":       {"Bearer " + bound, other, 401},
		"as Bearer without certificate":            {"Bearer " + bound, nil, 401},
		"unbound as mtls_pop":                      {"mtls_pop " + unbound, own, 401},
		"bound to nothing":                         {"mtls_pop " + sign(t, w.key, jose.RS256, claims("cnf", map[string]any{})), own, 401},
		"bound to nothing, without anything":       {"Bearer " + sign(t, w.key, jose.RS256, claims("cnf", map[string]any{})), nil, 401},
		"bound in a way that cannot be read":       {"Bearer " + sign(t, w.key, jose.RS256, claims("cnf", "x")), own, 401},
		"forged, with the right certificate":       {"mtls_pop " + sign(t, rsaKey(t), jose.RS256, claims("cnf", cnf)), own, 401},
		"unbound as Bearer, with some certificate": {"Bearer " + unbound, other, 200},
	} {
		t.Run(name, func(t *testing.T) {
			a := w.call(t, c.authorization, c.certificate)
			if a.status != c.status || (a.caller.ClientID == "app") != (c.status == 200) {
				t.Errorf("status %d, want %d; caller %+v", a.status, c.status, a.caller)
			}
			if a.status == 200 && a.caller.Bound != strings.HasSuffix(c.authorization, bound) {
				t.Errorf("bound: %t", a.caller.Bound)
			}
		})
	}
}

// The codes are those of the services, which clients go by.
func TestTheCodesOfRefusals(t *testing.T) {
	w := newWorld(t)
	own, other := clientCertificate(t), clientCertificate(t)
	token := func(audience string) string {
		c := claims("cnf", map[string]any{"x5t#S256": endpoint.Thumbprint(own.Certificate[0])})
		c["aud"] = audience
		return "mtls_pop " + sign(t, w.key, jose.RS256, c)
	}
	const vault, graph = "https://vault.azure.net", "https://graph.microsoft.com"
	for name, c := range map[string]struct {
		path, authorization string
		certificate         *tls.Certificate
		code                string // "": taken
	}{
		"Key Vault, its certificate":         {"/secrets/x", token(vault), own, ""},
		"Key Vault, no certificate":          {"/secrets/x", token(vault), nil, "MissingClientCertificate"},
		"Key Vault, another certificate":     {"/secrets/x", token(vault), other, "MtlsCnfClaimRequestDataValidationFailed"},
		"Key Vault, a token for Graph":       {"/secrets/x", token(graph), own, "Unauthorized"},
		"Key Vault, no token":                {"/secrets/x", "", nil, "Unauthorized"},
		"Graph, its certificate":             {"/v1.0/users", token(graph), own, ""},
		"Graph, no certificate":              {"/v1.0/users", token(graph), nil, "MtlsMissingClientCertificate"},
		"Graph, no certificate, as Bearer":   {"/v1.0/users", strings.Replace(token(graph), "mtls_pop", "Bearer", 1), nil, "MtlsMissingClientCertificate"},
		"Graph, another certificate":         {"/v1.0/users", token(graph), other, "MtlsCnfClaimRequestDataValidationFailed"},
		"Graph, a token for Key Vault":       {"/v1.0/users", token(vault), own, "InvalidAuthenticationToken"},
		"a path that begins like one of its": {"/v1.0", token(vault), own, ""},
	} {
		t.Run(name, func(t *testing.T) {
			a := w.callAt(t, c.path, c.authorization, c.certificate)
			if (a.status == 200) != (c.code == "") || (c.code != "" && a.status != 401) || a.Error.Code != c.code {
				t.Fatalf("answer %d %+v, want %q", a.status, a.refusal, c.code)
			}
			if c.code != "" && !strings.HasPrefix(a.Error.Message, "["+c.code+"] ") {
				t.Errorf("message %q", a.Error.Message)
			}
		})
	}
}

func TestClaimsChallenge(t *testing.T) {
	w := newWorld(t)
	old := "Bearer " + sign(t, w.key, jose.RS256, claims("", nil))
	later := "Bearer " + sign(t, w.key, jose.RS256, claims("nbf", epoch().Unix()+30))
	stepped := "Bearer " + sign(t, w.key, jose.RS256, claims("acrs", []string{"c1"}))
	for name, c := range map[string]struct {
		challenge string
		met       string
	}{
		"another time":    {`{"access_token":{"nbf":{"essential":true,"value":"1780315201"}}}`, later},
		"another context": {`{"access_token":{"acrs":{"essential":true,"values":["c1","c2"]}}}`, stepped},
	} {
		t.Run(name, func(t *testing.T) {
			if err := w.server.Challenge(c.challenge); err != nil {
				t.Fatal(err)
			}
			a := w.call(t, old, nil)
			want := `Bearer realm="", error="insufficient_claims", claims="` + base64.StdEncoding.EncodeToString([]byte(c.challenge)) + `"`
			if a.status != 401 || a.header != want {
				t.Errorf("status %d, header %s, want %s", a.status, a.header, want)
			}
			if a = w.call(t, c.met, nil); a.status != 200 {
				t.Errorf("a token that carries the claims: %d %s", a.status, a.header)
			}
			if a = w.call(t, "Bearer x", nil); !strings.Contains(a.header, "invalid_token") {
				t.Errorf("a token that is none: %d %s", a.status, a.header)
			}
		})
	}
	if err := w.server.Challenge(`{}`); err != nil {
		t.Fatal(err)
	}
	if a := w.call(t, old, nil); a.status != 200 {
		t.Errorf("after the challenge: %d", a.status)
	}
}

func TestChallengesThatNothingCouldMeet(t *testing.T) {
	w := newWorld(t)
	for _, claims := range []string{
		``, `x`, `[]`, `{"id_token":{}}`, `{"access_token":{"nbf":{"value":"soon"}}}`, `{"access_token":{"nbf":{"values":["1","2"]}}}`,
		`{"access_token":{"acrs":{"essential":true}}}`, `{"access_token":{"xms_mirid":{"value":"x"}}}`, `{"access_token":{"acrs":{"value":1}}}`,
	} {
		if err := w.server.Challenge(claims); err == nil {
			t.Errorf("%s was taken", claims)
		}
	}
}
