package maa_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/simulator/internal/endpoint"
	"github.com/keyagent/keyagent/simulator/journal"
	"github.com/keyagent/keyagent/simulator/maa"
	"github.com/keyagent/keyagent/simulator/pki"
)

// The TPM simulator exists once per process: every test of the service shares one machine.
func TestAzureGuest(t *testing.T) {
	m := newMachine(t)
	t.Run("good evidence gets a token", m.testToken)
	t.Run("evidence is refused", m.testEvidenceRefused)
	t.Run("firmware of an unknown party is refused", m.testLaunchRefused)
	t.Run("requests of another form are refused", m.testRequestsRefused)
	t.Run("the journal has every check", m.testJournal)
	t.Run("metadata names issuer and keys", m.testMetadata)
}

func (m *machine) testToken(t *testing.T) {
	e := m.evidence(t, m.challenge(t))
	info := m.info(t, e)
	a := m.attest(t, info)
	if a.status != http.StatusOK {
		t.Fatalf("refused: %+v", a)
	}
	token := m.open(t, a.token)
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := parsed.Claims(m.signingKey(t, parsed.Headers[0].KeyID), &claims); err != nil {
		t.Fatalf("signature: %v", err)
	}
	if jku := parsed.Headers[0].ExtraHeaders["jku"]; jku != m.url+"/certs" {
		t.Errorf("jku %v", jku)
	}
	m.checkClaims(t, claims, e)

	if again := m.attest(t, info); again.status != http.StatusBadRequest || !again.mentions("stale nonce") || !slices.Equal(again.failed, []string{"nonce.unused"}) {
		t.Errorf("the same evidence again: %+v, want a refusal of the stale nonce", again)
	}
}

func (m *machine) checkClaims(t *testing.T, claims map[string]any, e *attest.Evidence) {
	t.Helper()
	now := time.Now().Unix()
	expires, _ := claims["exp"].(float64)
	issued, _ := claims["iat"].(float64)
	if claims["iss"] != m.url || expires-issued != 8*3600 || int64(expires) < now {
		t.Errorf("iss %v, iat %v, exp %v", claims["iss"], claims["iat"], claims["exp"])
	}
	isolation, _ := claims["x-ms-isolation-tee"].(map[string]any)
	if claims["x-ms-attestation-type"] != "azurevm" || isolation["x-ms-attestation-type"] != "sevsnpvm" ||
		isolation["x-ms-compliance-status"] != "azure-compliant-cvm" || isolation["x-ms-sevsnpvm-idkeydigest"] != m.platform.Info().IDKeyDigest {
		t.Errorf("isolation: %v", isolation)
	}
	if claims["x-ms-azurevm-vmid"] != m.platform.Info().VMID {
		t.Errorf("vmid %v, want %v", claims["x-ms-azurevm-vmid"], m.platform.Info().VMID)
	}
	runtime, _ := claims["x-ms-runtime"].(map[string]any)
	payload, _ := runtime["client-payload"].(map[string]any)
	if payload["nonce"] != base64.StdEncoding.EncodeToString(e.Nonce) {
		t.Errorf("client payload: %v", payload)
	}
	public, _ := m.key.PublicKey().(*rsa.PublicKey)
	var found bool
	keys, _ := runtime["keys"].([]any)
	for _, k := range keys {
		key, _ := k.(map[string]any)
		if key["kid"] == "BindingKey" {
			found = key["n"] == base64.RawURLEncoding.EncodeToString(public.N.Bytes()) && key["e"] == "AQAB"
		}
	}
	if !found || len(keys) != 2 {
		t.Errorf("keys: %v", keys)
	}
}

// open decrypts an answer with the TPM.
func (m *machine) open(t *testing.T, token string) string {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		t.Fatal(err)
	}
	var envelope struct {
		EncryptedInnerKey, AuthenticationData, Jwt []byte
		EncryptionParams                           struct {
			Cipher, BlockMode, BlockPadding string
			KeySizeInBits                   int
			Iv                              []byte
		}
	}
	if err := json.Unmarshal(raw, &envelope); err != nil {
		t.Fatal(err)
	}
	if p := envelope.EncryptionParams; p.Cipher != "AES" || p.BlockMode != "ChainingModeGCM" || p.BlockPadding != "PKCS7" || p.KeySizeInBits != 256 {
		t.Errorf("parameters %+v", p)
	}
	key, err := m.transport.Decrypt(t.Context(), envelope.EncryptedInnerKey)
	if err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := gcm.Open(nil, envelope.EncryptionParams.Iv, slices.Concat(envelope.Jwt, envelope.AuthenticationData), []byte("Transport Key"))
	if err != nil {
		t.Fatal(err)
	}
	return string(plain)
}

// signingKey fetches the service's key: it is in x5c, as at the real one.
func (m *machine) signingKey(t *testing.T, id string) any {
	t.Helper()
	var set struct {
		Keys []struct {
			KeyID string   `json:"kid"`
			Chain [][]byte `json:"x5c"`
		} `json:"keys"`
	}
	m.get(t, "/certs", &set)
	if len(set.Keys) != 1 || set.Keys[0].KeyID != id {
		t.Fatalf("keys %+v, want one called %q", set, id)
	}
	certificate, err := x509.ParseCertificate(set.Keys[0].Chain[0])
	if err != nil {
		t.Fatal(err)
	}
	return certificate.PublicKey
}

func (m *machine) get(t *testing.T, path string, into any) {
	t.Helper()
	resp, err := m.http.Get(m.url + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %d, %v", path, resp.StatusCode, err)
	}
}

func (m *machine) testEvidenceRefused(t *testing.T) {
	c := m.contested
	good := m.evidence(t, c)
	otherQuote := m.quoteByOtherAK(t, c.QuoteData(m.key.Name()))
	old := m.evidence(t, m.challenge(t))
	elsewhere := m.evidence(t, attest.Challenge{Nonce: c.Nonce, Audience: "https://elsewhere.example"})

	for name, x := range map[string]struct {
		change func(*attest.Evidence)
		info   func(object)
		failed []string // checks that must be among those that the answer names
	}{
		"made for an older nonce": {
			change: func(e *attest.Evidence) { *e = *old; e.Nonce = c.Nonce },
			failed: []string{"key.certify.nonce", "quote.nonce"},
		},
		"made for another audience": {
			change: func(e *attest.Evidence) { *e = *elsewhere },
			failed: []string{"key.certify.nonce", "quote.nonce"},
		},
		"certify of another key": {
			change: func(e *attest.Evidence) {
				e.Certify, e.CertifySignature = m.otherCertify.Attest, m.otherCertify.Signature
			},
			failed: []string{"key.certify.name"},
		},
		"another key beside this one's certify": {
			change: func(e *attest.Evidence) { e.KeyPublic = m.otherKey },
			failed: []string{"key.certify.name"},
		},
		"no binding key": {
			change: func(e *attest.Evidence) { e.KeyPublic, e.Certify, e.CertifySignature = nil, nil, nil },
			failed: []string{"key.public", "key.certify.signature"},
		},
		"quote by another AK": {
			change: func(e *attest.Evidence) { e.Quote, e.QuoteSignature = otherQuote.Attest, otherQuote.Signature },
			failed: []string{"quote.signature", "quote.signer"},
		},
		"a PCR other than quoted": {
			change: func(e *attest.Evidence) { e.PCRs[4] = bytes.Repeat([]byte{1}, 32) },
			failed: []string{"quote.digest"},
		},
		"claims that report_data does not match": {
			info: func(o object) {
				isolated := o["IsolationInfo"].(object)["Evidence"].(object)
				claims := isolated["RunTimeData"].([]byte)
				isolated["RunTimeData"] = bytes.Replace(claims, []byte(`"secure-boot":true`), []byte(`"secure-boot":null`), 1)
			},
			failed: []string{"hcl.binding"},
		},
		"a report of somebody else's processor": {
			info:   func(o object) { replaceReport(t, o) },
			failed: []string{"snp.chain"},
		},
		"no AK certificate": {
			change: func(e *attest.Evidence) { e.AKCertificate = nil },
			failed: []string{"ak.certificate"},
		},
		"a transport key that nobody certified": {
			info: func(o object) {
				o["TpmInfo"].(object)["EncKeyCertifyInfo"] = good.Certify
				o["TpmInfo"].(object)["EncKeyCertifyInfoSignature"] = bare(good.CertifySignature)
			},
			failed: []string{"transport-key"},
		},
		"the binding key as transport key": {
			info:   func(o object) { o["TpmInfo"].(object)["EncKeyPub"] = sized(good.KeyPublic) },
			failed: []string{"transport-key"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := *good
			e.PCRs = map[int][]byte{}
			for i, digest := range good.PCRs {
				e.PCRs[i] = digest
			}
			if x.change != nil {
				x.change(&e)
			}
			info := m.info(t, &e)
			if x.info != nil {
				x.info(info)
			}
			a := m.attest(t, info)
			if a.status != http.StatusBadRequest || a.code != "PolicyEvaluationError" || a.token != "" {
				t.Fatalf("answer %+v", a)
			}
			for _, check := range x.failed {
				if !slices.Contains(a.failed, check) || !a.mentions(check) {
					t.Errorf("failed checks %v, want %s among them", a.failed, check)
				}
			}
		})
	}
	if a := m.attest(t, m.info(t, good)); a.status != http.StatusOK {
		t.Errorf("refused evidence has used the nonce up: %+v", a)
	}
}

// An instance that knows another launch identity: to it, this VM runs firmware of an unknown party
// on a genuine processor.
func (m *machine) testLaunchRefused(t *testing.T) {
	other := httptest.NewUnstartedServer(nil)
	url := "https://" + other.Listener.Addr().String()
	service, err := maa.New(maa.Config{
		BaseURL: url, Anchors: anchors(t, m.platform.Info()), IDKeyDigests: [][]byte{make([]byte, 48)},
		Recorder: endpoint.Recorder{Journal: m.platform.Journal(), Faults: m.platform.Faults()},
	})
	if err != nil {
		t.Fatal(err)
	}
	other.Config.Handler = service
	other.StartTLS()
	t.Cleanup(other.Close)
	there := *m
	there.url, there.http = url, other.Client()
	a := there.attest(t, there.info(t, there.evidence(t, there.challenge(t))))
	if a.status != http.StatusBadRequest || !slices.Equal(a.failed, []string{"snp.launch"}) {
		t.Errorf("answer %+v, want a refusal of the launch identity alone", a)
	}
}

// replaceReport puts in a well-formed report about the same claims, by a processor under a root
// that nobody trusts: an attacker's own machine.
func replaceReport(t *testing.T, info object) {
	t.Helper()
	processor, err := pki.NewProcessor(pki.Milan(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	isolated := info["IsolationInfo"].(object)["Evidence"].(object)
	report, err := processor.Report(pki.Launch{}, pki.ReportData(isolated["RunTimeData"].([]byte)))
	if err != nil {
		t.Fatal(err)
	}
	proof, err := json.Marshal(object{
		"SnpReport":     base64.RawURLEncoding.EncodeToString(report),
		"VcekCertChain": base64.StdEncoding.EncodeToString(append(processor.VCEKPEM(), processor.RootsPEM()...)),
	})
	if err != nil {
		t.Fatal(err)
	}
	isolated["Proof"] = proof
}

func (m *machine) testRequestsRefused(t *testing.T) {
	good := m.evidence(t, m.challenge(t))
	for name, x := range map[string]struct {
		change      func(object)
		method      string
		path        string
		contentType string
		body        string
		status      int
		why         string
	}{
		"GET":                      {method: http.MethodGet, status: 405, why: "POST"},
		"another api-version":      {path: "/attest/AzureGuest?api-version=2025-06-01", why: "api-version"},
		"another operation":        {path: "/attest/SevSnpVm?api-version=2020-10-01", status: 404, why: "operation"},
		"a form":                   {contentType: "application/x-www-form-urlencoded", status: 415, why: "Content-Type"},
		"no JSON":                  {body: "x", why: "not JSON"},
		"padded base64url":         {body: `{"AttestationInfo":"e30="}`, why: "base64url"},
		"nothing inside":           {body: `{"AttestationInfo":"e30"}`, why: "AttestationProtocolVersion"},
		"base64url inside":         {change: func(o object) { o["OSType"] = "Lin-x" }, why: "base64"},
		"an older protocol":        {change: func(o object) { o["AttestationProtocolVersion"] = "1.0" }, why: "1.0"},
		"no event log at all":      {change: func(o object) { delete(o, "TcgLogs") }, why: "TcgLogs"},
		"another isolation":        {change: func(o object) { o["IsolationInfo"].(object)["Type"] = "TrustedLaunch" }, why: "TrustedLaunch"},
		"a nonce too short":        {change: func(o object) { o["ClientPayload"].(object)["nonce"] = []byte("short") }, why: "nonce"},
		"no nonce":                 {change: func(o object) { delete(o["ClientPayload"].(object), "nonce") }, why: "nonce"},
		"PCRs that are not listed": {change: func(o object) { o["TpmInfo"].(object)["PcrSet"] = []int{0} }, why: "PcrSet"},
		"a PCR that is missing":    {change: func(o object) { o["TpmInfo"].(object)["PcrSet"] = []int{0, 1, 2, 3, 4, 5, 6, 7, 8} }, why: "PcrSet"},
		"a public area without size": {
			change: func(o object) { o["TpmInfo"].(object)["AikPub"] = good.AKPublic }, why: "TPM2B",
		},
		"a TPMT_SIGNATURE where a bare one belongs": {
			change: func(o object) { o["TpmInfo"].(object)["PcrSignature"] = good.QuoteSignature }, why: "signature of 262 bytes",
		},
	} {
		t.Run(name, func(t *testing.T) {
			body := []byte(x.body)
			if x.body == "" {
				info := m.info(t, good)
				if x.change != nil {
					x.change(info)
				}
				body = wrap(t, info)
			}
			a := m.send(t, or(x.method, http.MethodPost), or(x.path, attestPath), or(x.contentType, "application/json"), body)
			want := x.status
			if want == 0 {
				want = http.StatusBadRequest
			}
			if a.status != want || a.token != "" || !strings.Contains(a.message, x.why) {
				t.Errorf("answer %+v, want %d naming %q", a, want, x.why)
			}
		})
	}
}

func or(value, fallback string) string {
	if value == "" {
		return fallback
	}
	return value
}

func (m *machine) testJournal(t *testing.T) {
	e := m.evidence(t, m.challenge(t))
	e.Quote = slices.Clone(e.Quote)
	e.Quote[len(e.Quote)-1] ^= 1
	m.attest(t, m.info(t, e))
	entries := m.platform.Journal().Operation(maa.OpAttest)
	last := entries[len(entries)-1]
	checks, _ := last.Detail["checks"].([]attest.Check)
	var names []string
	for _, c := range checks {
		names = append(names, c.Name)
	}
	if last.Outcome != journal.Refused || last.Detail["verdict"] != attest.Rejected || !slices.Equal(names, attest.CheckNames()) {
		t.Errorf("journal: outcome %s, verdict %v, checks %v", last.Outcome, last.Detail["verdict"], names)
	}
}

func (m *machine) testMetadata(t *testing.T) {
	var configuration map[string]any
	m.get(t, "/.well-known/openid-configuration", &configuration)
	if configuration["issuer"] != m.url || configuration["jwks_uri"] != m.url+"/certs" {
		t.Errorf("configuration %v", configuration)
	}
}
