package simulator_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/simulator"
	"github.com/keyagent/keyagent/simulator/entra"
	"github.com/keyagent/keyagent/simulator/fault"
	"github.com/keyagent/keyagent/simulator/imds"
	"github.com/keyagent/keyagent/simulator/internal/endpoint"
	"github.com/keyagent/keyagent/simulator/resource"
)

// operator has a certificate for an application, and a client that shows it.
type operator struct {
	info        simulator.Info
	key         *rsa.PrivateKey
	certificate *x509.Certificate // that was merely uploaded, or not even that
	shown       *tls.Certificate
	client      *http.Client
}

func newOperator(t *testing.T, p *simulator.Platform) *operator {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	now := p.Clock().Now()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	o := &operator{info: p.Info(), key: key, shown: &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}}
	if o.certificate, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(o.info.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{
		RootCAs: roots, MinVersion: tls.VersionTLS12,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return o.shown, nil },
	}}
	t.Cleanup(transport.CloseIdleConnections)
	o.client = &http.Client{Transport: transport}
	return o
}

// present shows another certificate over the same key from now on.
func (o *operator) present(certificate *x509.Certificate) {
	o.shown = &tls.Certificate{Certificate: [][]byte{certificate.Raw}, PrivateKey: o.key}
	o.client.CloseIdleConnections()
}

// request is a certificate request over the operator's key.
func (o *operator) request(t *testing.T, name string) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, o.key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// authority is the certificate of the platform's authority for applications.
func (o *operator) authority(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(o.info.AppCAFile)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (o *operator) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: o.certificate.Raw}))
}

// reply is what a service answered.
type reply struct {
	status int
	proto  int
	header http.Header
	fields struct {
		AccessToken string `json:"access_token"`
		Codes       []int  `json:"error_codes"`
	}
}

func (o *operator) do(t *testing.T, req *http.Request) reply {
	t.Helper()
	resp, err := o.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	r := reply{status: resp.StatusCode, proto: resp.ProtoMajor, header: resp.Header}
	if err := json.Unmarshal(data, &r.fields); err != nil {
		t.Fatalf("%s: %v", data, err)
	}
	return r
}

// token asks for a token for app-cert, bound or not.
func (o *operator) token(t *testing.T, tokenType string) reply {
	t.Helper()
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {o.info.Applications[1].ClientID}, "scope": {o.info.ResourceAudience + "/.default"}}
	if tokenType != "" {
		form.Set("token_type", tokenType)
	}
	target := o.info.MTLSAuth + "/" + o.info.TenantID + "/oauth2/v2.0/token"
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, target, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return o.do(t, req)
}

func (o *operator) callResource(t *testing.T, authorization string) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, o.info.Resource, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", authorization)
	return o.do(t, req)
}

func (r reply) is(status, code int) bool {
	return r.status == status && (code == 0 || slices.Equal(r.fields.Codes, []int{code}))
}

// From upload to revocation, all by way of the control endpoint.
func TestLifeOfAnApplicationsCertificate(t *testing.T) {
	p := start(t)
	o := newOperator(t, p)
	control, thumbprint := o.info.Control, endpoint.Thumbprint(o.certificate.Raw)
	if r := o.token(t, "mtls_pop"); !r.is(401, 700027) || r.proto != 2 {
		t.Errorf("before the upload: %+v", r)
	}
	if status, body := call(t, http.MethodPost, control+"/applications/app-cert/certificates", o.pem()); status != 200 || !strings.Contains(body, thumbprint) {
		t.Fatalf("upload: %d %s", status, body)
	}
	if r := o.token(t, "mtls_pop"); !r.is(400, 392189) {
		t.Errorf("after the upload: %+v", r)
	}
	if status, body := call(t, http.MethodPost, control+"/applications/app-cert", `{"plain_certificates":true}`); status != 200 {
		t.Fatalf("enabling: %d %s", status, body)
	}
	bound := o.token(t, "mtls_pop")
	if bound.status != 200 {
		t.Fatalf("after the upload, enabled for it: %+v", bound)
	}
	if r := o.callResource(t, "mtls_pop "+bound.fields.AccessToken); r.status != 200 {
		t.Errorf("resource: %+v", r)
	}
	steps := []struct {
		path, body   string
		tokenType    string
		status, code int
	}{
		{"/applications/app-cert", `{"assertion_over_mtls":"required"}`, "", 401, 7000218},
		{"/applications/app-cert", `{"assertion_over_mtls":"optional"}`, "", 200, 0},
		{"/applications/app-cert", `{"mtls_enabled":false}`, "", 412, 51000},
		{"/applications/app-cert", `{"mtls_refusal":700027}`, "", 401, 700027},
		{"/applications/app-cert", `{"mtls_enabled":true}`, "", 200, 0},
		{"/tenant", `{"deny_bound":true}`, "mtls_pop", 400, 3921996},
		{"/tenant", `{}`, "mtls_pop", 200, 0},
		{"/certificates/reject", `{"thumbprint":"` + thumbprint + `","code":1000612}`, "mtls_pop", 401, 1000612},
		{"/certificates/reject", `{"thumbprint":"` + thumbprint + `","code":0}`, "mtls_pop", 200, 0},
		{"/certificates/revoke", `{"thumbprint":"` + thumbprint + `"}`, "mtls_pop", 401, 7000214},
	}
	for _, s := range steps {
		if status, body := call(t, http.MethodPost, control+s.path, s.body); status != 200 {
			t.Fatalf("POST %s %s: %d %s", s.path, s.body, status, body)
		}
		if r := o.token(t, s.tokenType); !r.is(s.status, s.code) {
			t.Errorf("after POST %s %s: %+v", s.path, s.body, r)
		}
	}
}

// The way that works over mutual TLS: an authority issues the certificate, and the application
// trusts what it issues to a subject.
func TestACertificateThatIsTrustedBySubjectAndIssuer(t *testing.T) {
	p := start(t)
	o := newOperator(t, p)
	control := o.info.Control
	status, chain := call(t, http.MethodPost, control+"/authority", o.request(t, "app"))
	issued, err := attest.ParseCertificates([]byte(chain))
	if status != 200 || err != nil || len(issued) != 2 || issued[0].Subject.CommonName != "app" || issued[0].CheckSignatureFrom(issued[1]) != nil {
		t.Fatalf("POST /authority: %d %v: %s", status, err, chain)
	}
	o.present(issued[0])
	if r := o.token(t, "mtls_pop"); !r.is(401, 700027) {
		t.Errorf("before it is trusted: %+v", r)
	}
	for _, step := range []struct {
		subject      string
		status, code int
	}{{"other", 401, 700027}, {"app", 200, 0}} {
		if status, body := call(t, http.MethodPost, control+"/applications/app-cert/trusted?subject="+step.subject, o.authority(t)); status != 200 {
			t.Fatalf("POST trusted: %d %s", status, body)
		}
		if r := o.token(t, "mtls_pop"); !r.is(step.status, step.code) {
			t.Errorf("subject %s is trusted: %+v", step.subject, r)
		}
	}
	if status, body := call(t, http.MethodPost, control+"/certificates/revoke", `{"thumbprint":"`+endpoint.Thumbprint(issued[0].Raw)+`"}`); status != 200 {
		t.Errorf("revoking it: %d %s", status, body)
	}
	if r := o.token(t, "mtls_pop"); !r.is(401, 7000214) {
		t.Errorf("revoked: %+v", r)
	}
}

// A change is answered with the state after it.
func TestControlAnswersWhatHolds(t *testing.T) {
	p := start(t)
	o := newOperator(t, p)
	thumbprint := endpoint.Thumbprint(o.certificate.Raw)
	for _, step := range []struct{ path, body, want string }{
		{"/applications/app-cert/certificates", o.pem(), `"certificates":["` + thumbprint + `"]`},
		{"/applications/app-cert", `{"mtls_enabled":false}`, `"mtls_enabled":false`},
		{"/applications/app-cert", `{"plain_certificates":true}`, `"plain_certificates":true`},
		{"/applications/app-cert/trusted?subject=app", o.authority(t), `"trusted":[{"subject":"app","issuer":"CN=Simulated Application CA"}]`},
		{"/applications/app-cert/federated", `{"issuer":"https://x","subject":"s","audience":"a"}`, `"federated":[{"issuer":"https://x","subject":"s","audience":"a"}]`},
		{"/applications/app-fic", `{}`, `"federated":[{"issuer":"` + o.info.AssertionIssuer + `"`},
		{"/certificates/reject", `{"thumbprint":"` + thumbprint + `","code":1000612}`, `{"rejected":{"` + thumbprint + `":1000612}}`},
		{"/certificates/reject", `{"thumbprint":"` + thumbprint + `"}`, `{"rejected":{}}`},
		{"/certificates/revoke", `{"thumbprint":"` + thumbprint + `"}`, `{"rejected":{"` + thumbprint + `":7000214}}`},
		{"/attestation/distrust", ``, `{"rejected":{"` + thumbprint + `":7000214}}`},
		{"/imds", `{"no_v2":true}`, `{"no_v2":true,"bypass_cache":"","limit":null}`},
		{"/tenant", `{"deny_bound":true}`, `{"deny_bound":true,"bound_bearer":false}`},
		{"/resource/challenge", `{"access_token": {}}`, `{"access_token":{}}`},
		{"/tpm/reset", ``, `{"reset_count":`},
	} {
		if status, answer := call(t, http.MethodPost, o.info.Control+step.path, step.body); status != 200 || !strings.Contains(answer, step.want) {
			t.Errorf("POST %s %s: %d %s, want %s", step.path, step.body, status, answer, step.want)
		}
	}
	for _, path := range []string{"/certificates/revoke", "/certificates/reject"} {
		if status, answer := call(t, http.MethodPost, o.info.Control+path, `{"thumbprint":"x"}`); status != 404 || !strings.Contains(answer, "x5t#S256") {
			t.Errorf("POST %s of an unknown certificate: %d %s", path, status, answer)
		}
	}
}

func TestControlRefusesWhatItCannotDo(t *testing.T) {
	p := start(t)
	o := newOperator(t, p)
	for path, bodies := range map[string][]string{
		"/applications/app-cert/certificates":        {"", "x", o.pem() + o.pem()},
		"/applications/none/certificates":            {o.pem()},
		"/applications/app-cert":                     {"", `{"mtls":true}`, `{"assertion_over_mtls":"never"}`, `{"mtls_refusal":1}`},
		"/applications/app-cert/trusted":             {o.authority(t)}, // no subject
		"/applications/none/trusted?subject=app":     {o.authority(t)},
		"/applications/app-cert/trusted?subject=app": {"", "x", o.pem()}, // no authority's
		"/authority":                   {"", "x", o.pem(), o.request(t, "app") + "x", strings.Replace(o.request(t, "app"), "M", "N", 1)},
		"/applications/none":           {`{"mtls_enabled":true}`},
		"/applications/none/federated": {`{"issuer":"https://x","subject":"s","audience":"a"}`},
		"/certificates/reject":         {"", `{}`, `{"code":1000612}`},
		"/imds":                        {"", `{"bypass_cache":"maybe"}`, `{"no_v1":true}`},
		"/resource/challenge":          {"", `{"access_token":{"x":{"value":"y"}}}`},
		"/tenant":                      {"", `{"deny":true}`},
	} {
		for _, body := range bodies {
			if status, answer := call(t, http.MethodPost, o.info.Control+path, body); status != 400 || !strings.Contains(answer, "error") {
				t.Errorf("POST %s %q: %d %s", path, body, status, answer)
			}
		}
	}
}

func TestControlOfIMDSAndResource(t *testing.T) {
	p := start(t)
	o := newOperator(t, p)
	metadata := o.info.IMDS + "/metadata/identity/getplatformmetadata"
	for body, want := range map[string]int{`{"no_v2":true}`: 404, `{"limit":{}}`: 400} {
		if status, _ := call(t, http.MethodPost, o.info.Control+"/imds", body); status != 200 {
			t.Fatalf("POST /imds %s: %d", body, status)
		}
		if status, _ := call(t, http.MethodGet, metadata, ""); status != want {
			t.Errorf("after POST /imds %s: %d, want %d", body, status, want)
		}
	}
	if err := p.SetIMDS(imds.Behaviour{}); err != nil {
		t.Fatal(err)
	}
	token := o.metadataToken(t)
	if r := o.callResource(t, "Bearer "+token); r.status != 200 {
		t.Fatalf("resource: %+v", r)
	}
	if status, body := call(t, http.MethodPost, o.info.Control+"/resource/challenge", `{"access_token":{"acrs":{"essential":true,"value":"c1"}}}`); status != 200 {
		t.Fatalf("POST /resource/challenge: %d %s", status, body)
	}
	if r := o.callResource(t, "Bearer "+token); r.status != 401 || !strings.Contains(r.header.Get("WWW-Authenticate"), "insufficient_claims") || !strings.Contains(r.header.Get("WWW-Authenticate"), "claims=") {
		t.Errorf("resource with a challenge: %+v", r)
	}
	if status, _ := call(t, http.MethodPost, o.info.Control+"/attestation/distrust", ""); status != 200 {
		t.Errorf("POST /attestation/distrust: %d", status)
	}
}

// metadataToken gets a token for the resource by managed identity v1.
func (o *operator) metadataToken(t *testing.T) string {
	t.Helper()
	target := o.info.IMDS + "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=" + o.info.ResourceAudience
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Metadata", "true")
	r := o.do(t, req)
	if r.status != 200 {
		t.Fatalf("managed identity v1: %+v", r)
	}
	return r.fields.AccessToken
}

func TestFederationOfThePlatform(t *testing.T) {
	p := start(t)
	o := newOperator(t, p)
	vmUser := o.info.Identities[1]
	target := o.info.IMDS + "/metadata/identity/oauth2/token?api-version=2018-02-01&client_id=" + vmUser.ClientID + "&resource=" + entra.TokenExchange
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Metadata", "true")
	assertion := o.do(t, req).fields.AccessToken
	ask := func(application int) reply {
		form := url.Values{
			"grant_type": {"client_credentials"}, "client_id": {o.info.Applications[application].ClientID}, "scope": {o.info.ResourceAudience + "/.default"},
			"client_assertion": {assertion}, "client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
		}
		login := o.info.Login + "/" + o.info.TenantID + "/oauth2/v2.0/token"
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, login, strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		return o.do(t, req)
	}
	r := ask(0)
	if r.status != 200 || r.proto != 2 || o.callResource(t, "Bearer "+r.fields.AccessToken).status != 200 {
		t.Fatalf("app-fic: %+v", r)
	}
	if r := ask(1); !r.is(401, 70022204) {
		t.Errorf("app-cert, before it trusts: %+v", r)
	}
	body, err := json.Marshal(entra.FederatedCredential{Issuer: o.info.Login + "/" + o.info.TenantID + "/v2.0", Subject: vmUser.ObjectID, Audience: entra.TokenExchange})
	if err != nil {
		t.Fatal(err)
	}
	if status, answer := call(t, http.MethodPost, o.info.Control+"/applications/app-cert/federated", string(body)); status != 200 {
		t.Fatalf("POST federated: %d %s", status, answer)
	}
	if r := ask(1); r.status != 200 {
		t.Errorf("app-cert, which trusts now: %+v", r)
	}
}

func TestFaultsActOnEveryOperation(t *testing.T) {
	p := start(t)
	for _, name := range []string{
		imds.OpMetadata, imds.OpCredential, imds.OpToken, imds.OpCompute, imds.OpTHIM, imds.OpTDQuote, imds.OpUnknown,
		entra.OpToken, entra.OpLogin, entra.OpKeys, entra.OpDiscovery, entra.OpUnknown, resource.Operation,
	} {
		if err := p.Faults().Add(fault.Fault{Operation: name, Kind: fault.Reset, Count: 1}); err != nil {
			t.Error(err)
		}
	}
}

// Tests may dial Entra's names in the public cloud to here.
func TestServerCertificateOfEntra(t *testing.T) {
	p := start(t)
	o := newOperator(t, p)
	ca, err := os.ReadFile(o.info.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(bytes.TrimSpace(ca))
	for base, names := range map[string][]string{
		o.info.Login:    {"127.0.0.1", "localhost", "login.microsoftonline.com", "westeurope.login.microsoft.com"},
		o.info.MTLSAuth: {"127.0.0.1", "mtlsauth.microsoft.com", "westeurope.mtlsauth.microsoft.com"},
	} {
		for _, name := range names {
			conn, err := tls.Dial("tcp", strings.TrimPrefix(base, "https://"), &tls.Config{RootCAs: roots, ServerName: name, MinVersion: tls.VersionTLS12})
			if err != nil {
				t.Errorf("%s as %s: %v", base, name, err)
				continue
			}
			conn.Close()
		}
	}
}
