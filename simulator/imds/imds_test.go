package imds_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/keyagent/keyagent/simulator/fault"
	"github.com/keyagent/keyagent/simulator/imds"
	"github.com/keyagent/keyagent/simulator/internal/endpoint"
	"github.com/keyagent/keyagent/simulator/journal"
	"github.com/keyagent/keyagent/simulator/pki"
)

const (
	tenantID       = "1f2e3d4c-0000-4000-8000-0000000077e1"
	vmID           = "5a6b7c8d-0000-4000-8000-000000000e01"
	systemClientID = "8b0c3d0e-0000-4000-8000-00000000c1d1"
	userClientID   = "8b0c3d0e-0000-4000-8000-00000000c1d2"
	userObjectID   = "9d0c3d0e-0000-4000-8000-0000000000b2"
	userResourceID = "/subscriptions/s/resourcegroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/u"
	maaURL         = "https://127.0.0.1:9"
	vault          = "https://vault.azure.net"
	requestID      = "0b0c3d0e-1111-4000-8000-00000000c1d1"
)

func epoch() time.Time { return time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC) }

// world is an IMDS with the attestation service's key in the test's hands.
type world struct {
	url     string
	maaKey  *rsa.PrivateKey
	key     *rsa.PrivateKey // the VM's binding key
	issuer  *pki.IdentityIssuer
	journal *journal.Journal
	server  *imds.Server

	mu       sync.Mutex // guards what follows
	at       time.Time
	gotten   int      // tokens from Entra
	rejected []string // thumbprints
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.at
}

func (w *world) advance(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at = w.at.Add(d)
}

// accessToken is Entra: it knows one resource.
func (w *world) accessToken(clientID, resource string) (string, time.Duration, error) {
	if !strings.HasPrefix(resource, vault) {
		return "", 0, errors.New("AADSTS500011: no such resource")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gotten++
	return fmt.Sprintf("%s|%s|%d", clientID, resource, w.gotten), 24 * time.Hour, nil
}

func (w *world) reject(thumbprint string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rejected = append(w.rejected, thumbprint)
}

// Making keys is most of the work in these tests. One of each serves all of them.
var (
	maaKey    = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })
	vmKey     = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })
	issuer    = sync.OnceValues(func() (*pki.IdentityIssuer, error) { return pki.NewIdentityIssuer(epoch()) })
	processor = sync.OnceValues(func() (*pki.Processor, error) { return pki.NewProcessor(pki.Milan(), epoch()) })
)

// must is for the above.
func must[T any](t *testing.T, made func() (T, error)) T {
	t.Helper()
	v, err := made()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldWith(t, func(*imds.Config) {})
}

func newWorldWith(t *testing.T, change func(*imds.Config)) *world {
	t.Helper()
	w := &world{at: epoch(), maaKey: must(t, maaKey), key: must(t, vmKey), issuer: must(t, issuer), journal: journal.New(100, epoch)}
	cfg := imds.Config{
		TenantID: tenantID, VMID: vmID, Location: "westeurope", Token: w.accessToken, Reject: w.reject,
		Identities: []imds.Identity{
			{ClientID: systemClientID, ObjectID: "9d0c3d0e-0000-4000-8000-0000000000b1", SystemAssigned: true},
			{ClientID: userClientID, ObjectID: userObjectID, ResourceID: userResourceID},
		},
		AttestationEndpoint: maaURL,
		AttestationKeys:     jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{KeyID: "maa", Key: w.maaKey.Public()}}},
		MTLSEndpoint:        "https://127.0.0.1:10",
		Issuer:              w.issuer, Processor: must(t, processor), Now: w.now,
		Recorder: endpoint.Recorder{Journal: w.journal, Faults: fault.NewSet()},
	}
	change(&cfg)
	w.server = must(t, func() (*imds.Server, error) { return imds.New(cfg) })
	server := httptest.NewServer(w.server)
	t.Cleanup(server.Close)
	w.url = server.URL
	return w
}

func rsaKey(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// tokenClaims are the claims of an attestation token that the issuer takes.
func tokenClaims(key *rsa.PublicKey) map[string]any {
	b64 := base64.RawURLEncoding.EncodeToString
	return map[string]any{
		"iss": maaURL, "iat": epoch().Unix(), "nbf": epoch().Unix(), "exp": epoch().Add(8 * time.Hour).Unix(),
		"x-ms-attestation-type": "azurevm", "x-ms-azurevm-vmid": strings.ToUpper(vmID),
		"x-ms-isolation-tee": map[string]any{"x-ms-attestation-type": "sevsnpvm", "x-ms-compliance-status": "azure-compliant-cvm"},
		"x-ms-runtime": map[string]any{"keys": []map[string]any{
			{"kid": "BindingKey", "kty": "RSA", "n": b64(key.N.Bytes()), "e": "AQAB"},
		}},
	}
}

// token signs claims as the attestation service does.
func (w *world) token(t *testing.T, key *rsa.PrivateKey, jku string, claims map[string]any) string {
	t.Helper()
	options := (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", "maa").WithHeader("jku", jku)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: key}, options)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// answer is what came back, with every member that any answer has.
type answer struct {
	status int
	server string
	fields map[string]any
}

func (a answer) text(name string) string { s, _ := a.fields[name].(string); return s }

// do makes a request with the headers that every good one has; an empty value in headers removes
// one.
func (w *world) do(t *testing.T, method, target string, headers map[string]string, body []byte) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, w.url+target, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{"Metadata": "true", "x-ms-client-request-id": requestID, "Content-Type": "application/json; charset=utf-8"}
	maps.Copy(all, headers)
	for name, value := range all {
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	a := answer{status: resp.StatusCode, server: resp.Header.Get("Server")}
	if err := json.Unmarshal(data, &a.fields); err != nil {
		t.Fatalf("answer %q: %v", data, err)
	}
	return a
}

const (
	metadataPath   = "/metadata/identity/getplatformmetadata?cred-api-version=2.0"
	credentialPath = "/metadata/identity/issuecredential?cred-api-version=2.0"
)

func (w *world) issue(t *testing.T, target string, csr []byte, token string) answer {
	t.Helper()
	body, err := json.Marshal(map[string]string{"csr": base64.StdEncoding.EncodeToString(csr), "attestation_token": token})
	if err != nil {
		t.Fatal(err)
	}
	return w.do(t, http.MethodPost, target, nil, body)
}

func TestPlatformMetadataOfEachSelector(t *testing.T) {
	w := newWorld(t)
	for selector, want := range map[string]string{
		"":                           systemClientID,
		"&client_id=" + userClientID: userClientID,
		"&object_id=" + userObjectID: userClientID,
		"&mi_res_id=" + strings.ReplaceAll(userResourceID, "/", "%2F"): userClientID,
	} {
		a := w.do(t, http.MethodGet, metadataPath+selector, nil, nil)
		if a.status != 200 || a.text("clientId") != want || a.text("tenantId") != tenantID || a.text("attestationEndpoint") != maaURL {
			t.Errorf("selector %q: %d %v", selector, a.status, a.fields)
		}
		unit, _ := a.fields["cuId"].(map[string]any)
		if len(unit) != 1 || unit["vmId"] != vmID || !strings.HasPrefix(a.server, "IMDS/") {
			t.Errorf("cuId %v, Server %q", unit, a.server)
		}
	}
}

func TestRequestsWithAWrongEnvelopeAreRefused(t *testing.T) {
	w := newWorld(t)
	const path = "/metadata/identity/getplatformmetadata"
	for name, c := range map[string]struct {
		target  string
		method  string
		headers map[string]string
		status  int
		code    string
	}{
		"without Metadata, as a probe sends it": {target: metadataPath, headers: map[string]string{"Metadata": ""}, status: 400, code: "invalid_request"},
		"Metadata in another spelling":          {target: metadataPath, headers: map[string]string{"Metadata": "True"}, status: 400, code: "invalid_request"},
		"forwarded":                             {target: metadataPath, headers: map[string]string{"X-Forwarded-For": "10.0.0.1"}, status: 400, code: "invalid_request"},
		"without request id":                    {target: metadataPath, headers: map[string]string{"x-ms-client-request-id": ""}, status: 400, code: "invalid_request"},
		"request id that is no GUID":            {target: metadataPath, headers: map[string]string{"x-ms-client-request-id": "7"}, status: 400, code: "invalid_request"},
		"without version":                       {target: path, status: 400, code: "invalid_request"},
		"another version":                       {target: path + "?cred-api-version=1.0", status: 400, code: "invalid_request"},
		"version given twice":                   {target: metadataPath + "&cred-api-version=2.0", status: 400, code: "invalid_request"},
		"two selectors":                         {target: metadataPath + "&client_id=" + userClientID + "&object_id=" + userObjectID, status: 400, code: "invalid_request"},
		"one selector twice":                    {target: metadataPath + "&client_id=" + userClientID + "&client_id=" + userClientID, status: 400, code: "invalid_request"},
		"a variable that nobody knows":          {target: metadataPath + "&unknown=parameter", status: 400, code: "invalid_request"},
		"a variable without a value":            {target: metadataPath + "&x", status: 400, code: "invalid_request"},
		"the resource of managed identity v1":   {target: metadataPath + "&resource=https%3A%2F%2Fvault.azure.net", status: 400, code: "invalid_request"},
		"the version of managed identity v1":    {target: metadataPath + "&api-version=2018-02-01", status: 400, code: "invalid_request"},
		"a cache that it does not have":         {target: metadataPath + "&bypass_cache=true", status: 400, code: "invalid_request"},
		"a selector in other letters":           {target: metadataPath + "&Client_Id=" + userClientID, status: 400, code: "invalid_request"},
		"selector of managed identity v1":       {target: metadataPath + "&msi_res_id=" + userResourceID, status: 400, code: "invalid_request"},
		"identity that the VM does not have":    {target: metadataPath + "&client_id=" + requestID, status: 400, code: "identity_not_found"},
		"POST":                                  {target: metadataPath, method: http.MethodPost, status: 405, code: "invalid_request"},
		"path in other letter case":             {target: "/metadata/identity/getPlatformMetadata?cred-api-version=2.0", status: 404, code: "not_found"},
		"another path":                          {target: "/metadata/identity/info", status: 404, code: "not_found"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.method == "" {
				c.method = http.MethodGet
			}
			a := w.do(t, c.method, c.target, c.headers, nil)
			if a.status != c.status || a.text("error") != c.code || a.text("error_description") == "" || !strings.HasPrefix(a.server, "IMDS/") {
				t.Errorf("answer %d %v, want %d %s", a.status, a.fields, c.status, c.code)
			}
		})
	}
}

func TestIssueCredential(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct {
		selector, client, identityType string
	}{
		"system-assigned": {"", systemClientID, "SystemAssigned"},
		"user-assigned":   {"&client_id=" + userClientID, userClientID, "UserAssigned"},
	} {
		t.Run(name, func(t *testing.T) {
			r := goodCSR()
			r.client = c.client
			token := w.token(t, w.maaKey, maaURL+"/certs", tokenClaims(&w.key.PublicKey))
			a := w.issue(t, credentialPath+c.selector, r.sign(t, w.key), token)
			if a.status != 200 || a.text("client_id") != c.client || a.text("tenant_id") != tenantID ||
				a.text("identity_type") != c.identityType || a.text("mtls_authentication_endpoint") != "https://127.0.0.1:10" {
				t.Fatalf("answer %d %v", a.status, a.fields)
			}
			der, err := base64.StdEncoding.DecodeString(a.text("certificate"))
			if err != nil {
				t.Fatal(err)
			}
			cert, err := x509.ParseCertificate(der)
			if err != nil {
				t.Fatal(err)
			}
			if err := cert.CheckSignatureFrom(w.issuer.Certificate); err != nil || cert.Subject.CommonName != c.client || !w.key.PublicKey.Equal(cert.PublicKey) {
				t.Errorf("certificate of %v: %v", cert.Subject, err)
			}
		})
	}
	for _, e := range w.journal.Operation(imds.OpCredential) {
		if e.Outcome != journal.OK || e.Detail["certificate_thumbprint"] == nil {
			t.Errorf("journal: %+v", e)
		}
	}
}

func TestCertificateRequestsAreRefused(t *testing.T) {
	w := newWorld(t)
	token := w.token(t, w.maaKey, maaURL+"/certs", tokenClaims(&w.key.PublicKey))
	for name, c := range badCSRs(t) {
		t.Run(name, func(t *testing.T) {
			r := goodCSR()
			c.change(&r)
			a := w.issue(t, credentialPath, r.sign(t, w.key), token)
			if a.status != 400 || a.text("error") != "invalid_request" || !strings.Contains(a.text("error_description"), c.why) {
				t.Errorf("answer %d %v, want 400 naming %q", a.status, a.fields, c.why)
			}
		})
	}
	if entries := w.journal.Operation(imds.OpCredential); entries[0].Outcome != journal.Refused || entries[0].Error == "" {
		t.Errorf("journal: %+v", entries[0])
	}
}

func TestAttestationTokensAreRefused(t *testing.T) {
	w := newWorld(t)
	other := rsaKey(t, 2048)
	for name, c := range map[string]struct {
		change func(claims map[string]any)
		signer *rsa.PrivateKey
		jku    string
		why    string
	}{
		"for another key": {
			change: func(m map[string]any) { m["x-ms-runtime"] = tokenClaims(&other.PublicKey)["x-ms-runtime"] },
			why:    "another key",
		},
		"for no key":              {change: func(m map[string]any) { delete(m, "x-ms-runtime") }, why: "no binding key"},
		"signed by somebody else": {signer: other, why: "signature"},
		"with a jku of its own":   {jku: "https://attacker.example/certs", why: "jku"},
		"of another issuer":       {change: func(m map[string]any) { m["iss"] = "https://attacker.example" }, why: "issuer"},
		"expired":                 {change: func(m map[string]any) { m["exp"] = epoch().Add(-2 * time.Minute).Unix() }, why: "validity"},
		"not yet valid":           {change: func(m map[string]any) { m["nbf"] = epoch().Add(2 * time.Minute).Unix() }, why: "validity"},
		"without expiry":          {change: func(m map[string]any) { delete(m, "exp") }, why: "no exp"},
		"of another type":         {change: func(m map[string]any) { m["x-ms-attestation-type"] = "sevsnpvm" }, why: "attestation type"},
		"of another VM":           {change: func(m map[string]any) { m["x-ms-azurevm-vmid"] = tenantID }, why: "another VM"},
		"of a VM without a TEE":   {change: func(m map[string]any) { delete(m, "x-ms-isolation-tee") }, why: "isolation type"},
		"of a VM not in compliance": {change: func(m map[string]any) {
			m["x-ms-isolation-tee"] = map[string]any{"x-ms-attestation-type": "sevsnpvm", "x-ms-compliance-status": "none"}
		}, why: "compliance status"},
	} {
		t.Run(name, func(t *testing.T) {
			claims := tokenClaims(&w.key.PublicKey)
			if c.change != nil {
				c.change(claims)
			}
			if c.signer == nil {
				c.signer = w.maaKey
			}
			if c.jku == "" {
				c.jku = maaURL + "/certs"
			}
			a := w.issue(t, credentialPath, goodCSR().sign(t, w.key), w.token(t, c.signer, c.jku, claims))
			if a.status != 400 || !strings.Contains(a.text("error_description"), c.why) {
				t.Errorf("answer %d %v, want 400 naming %q", a.status, a.fields, c.why)
			}
		})
	}
}

func TestCredentialRequestBodiesAreRefused(t *testing.T) {
	w := newWorld(t)
	good := base64.StdEncoding.EncodeToString(goodCSR().sign(t, w.key))
	for name, c := range map[string]struct {
		body, contentType, why string
	}{
		"no attestation token":    {body: `{"csr":"` + good + `"}`, why: "Attestation Token is missing or empty"},
		"empty attestation token": {body: `{"csr":"` + good + `","attestation_token":""}`, why: "Attestation Token is missing or empty"},
		"token that is no JWT":    {body: `{"csr":"` + good + `","attestation_token":"x.y.z"}`, why: "not a JWT"},
		"csr as PEM":              {body: `{"csr":"-----BEGIN CERTIFICATE REQUEST-----","attestation_token":"x"}`, why: "base64"},
		"no csr":                  {body: `{"attestation_token":"x"}`, why: "base64"},
		"unknown member":          {body: `{"csr":"` + good + `","scope":"x"}`, why: "not a credential request"},
		"two documents":           {body: `{"csr":"x"}{}`, why: "more than one"},
		"not JSON":                {body: `csr=x`, why: "not a credential request"},
		"form":                    {body: `{}`, contentType: "application/x-www-form-urlencoded", why: "Content-Type"},
	} {
		t.Run(name, func(t *testing.T) {
			headers := map[string]string{}
			if c.contentType != "" {
				headers["Content-Type"] = c.contentType
			}
			a := w.do(t, http.MethodPost, credentialPath, headers, []byte(c.body))
			if a.status != 400 || !strings.Contains(a.text("error_description"), c.why) {
				t.Errorf("answer %d %v, want 400 naming %q", a.status, a.fields, c.why)
			}
		})
	}
}

func TestProcessorCertificates(t *testing.T) {
	w := newWorld(t)
	a := w.do(t, http.MethodGet, "/metadata/THIM/amd/certification", nil, nil)
	if a.status != 200 || strings.Count(a.text("certificateChain"), "BEGIN CERTIFICATE") != 2 ||
		strings.Count(a.text("vcekCert"), "BEGIN CERTIFICATE") != 1 || a.text("tcbm") != "db18000000000004" {
		t.Errorf("answer %d %v", a.status, a.fields)
	}
	if a := w.do(t, http.MethodGet, "/metadata/THIM/amd/certification", map[string]string{"Metadata": ""}, nil); a.status != 400 {
		t.Errorf("without Metadata: %d", a.status)
	}
}
