package conformance_test

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"math/big"
	"net/http"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/acquire/binding"
	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/simulator/pki"
)

// attestationDemands are those of section 3 that need no evidence.
func attestationDemands() []demand {
	list := []demand{
		{"3.4", "the refusal of a certificate without attestation is final", func(t *testing.T) {
			a := newAzureWith(t, func(a *azure) { a.cfg.Attestor = none{} }, vmIdentity())
			_, err := a.bearer()
			wantKind(t, err, acquire.KindRefused)
			wantError(t, err, "Attestation Token is missing")
			a.wantTraffic("metadata 1, credential 1")
		}},
		{"3.5", "a failed attestation fails closed: no certificate without a token is asked for", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.attestor.err = errors.New("no evidence")
			_, err := a.bearer()
			wantKind(t, err, acquire.KindUnavailable)
			if !errors.Is(err, binding.ErrAttestation) {
				t.Errorf("got %v", err)
			}
			a.wantTraffic("metadata 1")
		}},
		{"3.5", "without MSI v2 the agent works: application certificate and version 1", func(t *testing.T) {
			for _, id := range []acquire.Identity{v1Identity(), application(t, certApp, certificateEntry(acquire.BoundRequire))} {
				a := newAzure(t, id)
				a.metadata.alwaysAnswers("getplatformmetadata", says(404, ""))
				a.mustGet(vault, acquire.TypeBearer)
			}
		}},
	}
	for code := 1000610; code <= 1000614; code++ {
		list = append(list, demand{"3.3", strconv.Itoa(code) + ": attestation token dropped, attested anew, certificate issued anew", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mtls.answers("token", refuses(401, "invalid_client", code))
			a.mustGet(vault, acquire.TypeBearer)
			a.wantTraffic("metadata 2, attest 2, credential 2, mtls 2")
			tokens := attestationTokens(t, a)
			if tokens[0] == tokens[1] {
				t.Error("the second certificate was asked for with the first attestation token")
			}
		}})
	}
	return list
}

// credentialBody is the body of issuecredential.
func credentialBody(t *testing.T, m message) map[string]any {
	t.Helper()
	var body map[string]any
	if err := json.Unmarshal([]byte(m.body), &body); err != nil {
		t.Fatal(err)
	}
	return body
}

func attestationTokens(t *testing.T, a *azure) []string {
	t.Helper()
	var tokens []string
	for _, m := range a.metadata.requestsTo("issuecredential") {
		text, _ := credentialBody(t, m)["attestation_token"].(string)
		tokens = append(tokens, text)
	}
	return tokens
}

// credentialDemands are those of 4.1, 4.2 and 4.5.
func credentialDemands() []demand {
	return slices.Concat(credentialAnswers(), []demand{
		{"4.1", "POST with Metadata: true, a GUID as request id and JSON in UTF-8", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mustGet(vault, acquire.TypeBearer)
			m := a.metadata.requestsTo("issuecredential")[0]
			if m.method != http.MethodPost || m.target != "/metadata/identity/issuecredential?cred-api-version=2.0" {
				t.Errorf("got %s %s", m.method, m.target)
			}
			if uuid.Validate(m.header.Get("x-ms-client-request-id")) != nil || m.header.Get("Metadata") != "true" ||
				m.header.Get("Content-Type") != "application/json; charset=utf-8" {
				t.Errorf("headers are %v", m.header)
			}
		}},
		{"4.1", "the body is csr and attestation_token and nothing else", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mustGet(vault, acquire.TypeBearer)
			body := credentialBody(t, a.metadata.requestsTo("issuecredential")[0])
			if names := slices.Sorted(maps.Keys(body)); !slices.Equal(names, []string{"attestation_token", "csr"}) || body["attestation_token"] != a.attestor.token {
				t.Errorf("got members %v", names)
			}
		}},
		{"4.1", "attestation_token is left out when there is none", func(t *testing.T) {
			a := newAzureWith(t, func(a *azure) { a.cfg.Attestor = none{} }, vmIdentity())
			if _, err := a.bearer(); err == nil {
				t.Error("the issuer wants attestation")
			}
			if body := credentialBody(t, a.metadata.requestsTo("issuecredential")[0]); len(body) != 1 || body["csr"] == nil {
				t.Errorf("got %v", body)
			}
		}},
		{"4.1", "bypass_cache is sent to replace a rejected certificate, and only then", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mtls.answers("token", refuses(400, "invalid_request", 1000901))
			a.mustGet(vault, acquire.TypeBearer)
			m := a.metadata.requestsTo("issuecredential")
			if len(m) != 2 || m[0].query.Has("bypass_cache") || m[1].query.Get("bypass_cache") != "true" {
				t.Errorf("asked %+v", m)
			}
		}},
		{"4.1", "a host that answers bypass_cache with 400 is asked once more without it", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mustGet(vault, acquire.TypeBearer)
			a.mtls.answers("token", refuses(400, "invalid_request", 1000901))
			a.metadata.answers("issuecredential", says(400, `{"error":"invalid_request"}`))
			a.mustGet(management, acquire.TypeBearer)
			m := a.metadata.requestsTo("issuecredential")
			if len(m) != 3 || m[1].query.Get("bypass_cache") != "true" || m[2].query.Has("bypass_cache") {
				t.Errorf("asked %+v", m)
			}
		}},
		{"4.2", "400 with invalid_request is final", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.metadata.alwaysAnswers("issuecredential", says(400, `{"error":"invalid_request","error_description":"bad CSR"}`))
			_, err := a.bearer()
			wantKind(t, err, acquire.KindRefused)
			wantError(t, err, "bad CSR")
			a.wantTraffic("metadata 1, attest 1, credential 1")
		}},
		{"4.2", "404 after all attempts is a failure like others: only getplatformmetadata says that version 2 is not offered", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.metadata.alwaysAnswers("issuecredential", says(404, ""))
			_, err := a.bearer()
			wantKind(t, err, acquire.KindUnavailable)
			if errors.Is(err, imds.ErrNotSupported) {
				t.Errorf("got %v", err)
			}
			a.wantTraffic("metadata 1, attest 1, credential 4")
		}},
		{"4.2", "client_id of the answer is the client of the token request, whatever selected the identity", func(t *testing.T) {
			user := mustServices(t).user
			a := newAzure(t, managedIdentity(acquire.BoundRequire, imds.Selector{ObjectID: user.ObjectID}))
			a.mustGet(vault, acquire.TypeBearer)
			if m := a.mtls.requestsTo("token")[0]; m.form.Get("client_id") != user.ClientID {
				t.Errorf("asked as %s", m.form.Get("client_id"))
			}
		}},
		{"4.2", "tenant_id and mtls_authentication_endpoint of the answer make the URL", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.metadata.edits("issuecredential", func(m map[string]any) {
				m["mtls_authentication_endpoint"] = "https://centralus.mtlsauth.microsoft.com/"
			})
			a.mustGet(vault, acquire.TypeBearer)
			if m := a.mtls.requestsTo("token")[0]; m.host != "centralus.mtlsauth.microsoft.com" || m.target != "/"+a.tenant+"/oauth2/v2.0/token" {
				t.Errorf("asked %s%s", m.host, m.target)
			}
		}},
		{"4.5", "a replacement keeps the key, and has another thumbprint", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mtls.answers("token", refuses(401, "invalid_client", 7000214))
			a.mustGet(vault, acquire.TypeBearer)
			m := a.mtls.requestsTo("token")
			first, second := certificateOf(t, m[0]), certificateOf(t, m[1])
			if first.Equal(second) || !a.key.PublicKey.Equal(first.PublicKey) || !a.key.PublicKey.Equal(second.PublicKey) {
				t.Error("not two certificates of one key")
			}
		}},
		{"4.5", "a replacement makes bound tokens of the certificate before useless: they are not served", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			before := a.mustGet(vault, acquire.TypePoP)
			a.mtls.answers("token", refuses(401, "invalid_client", 7000214))
			if _, err := a.acquirer.Token(t.Context(), acquire.Request{Identity: "id", Resource: "https://vault.azure.net/x", Type: acquire.TypePoP}); err == nil {
				t.Error("there is no such resource")
			}
			after := a.mustGet(vault, acquire.TypePoP)
			if after.FromCache || before.Binding.Thumbprint == after.Binding.Thumbprint {
				t.Errorf("got %+v", after)
			}
		}},
		{"4.5", "a Bearer token outlives the certificate that it was obtained with", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mustGet(vault, acquire.TypeBearer)
			a.mtls.answers("token", refuses(401, "invalid_client", 7000214))
			a.mustGet(management, acquire.TypeBearer)
			if token := a.mustGet(vault, acquire.TypeBearer); !token.FromCache {
				t.Error("it was asked for again")
			}
		}},
		{"4.5", "a replaced certificate is not used after a restart either", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mtls.answers("token", refuses(401, "invalid_client", 7000214))
			a.metadata.answers("issuecredential", func(w http.ResponseWriter, r *http.Request) { a.imds.ServeHTTP(w, r) }, says(403, ""))
			if _, err := a.bearer(); err == nil {
				t.Error("got a token without a certificate")
			}
			a.restart(vmIdentity())
			a.mustGet(vault, acquire.TypeBearer)
			m := a.mtls.requestsTo("token")
			if certificateOf(t, m[0]).Equal(certificateOf(t, m[1])) {
				t.Error("the rejected certificate was presented again")
			}
		}},
	})
}

func certificateOf(t *testing.T, m message) *x509.Certificate {
	t.Helper()
	if len(m.certificates) == 0 {
		t.Fatal("no certificate was presented")
	}
	leaf, err := x509.ParseCertificate(m.certificates[0])
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

// credentialAnswers are answers to issuecredential that must not be believed.
func credentialAnswers() []demand {
	var list []demand
	refused := func(section, sentence string, edit func(map[string]any)) {
		list = append(list, demand{section, sentence + " is refused", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.metadata.edits("issuecredential", edit)
			_, err := a.bearer()
			wantKind(t, err, acquire.KindRefused)
			if !errors.Is(err, imds.ErrBadAnswer) {
				t.Errorf("got %v", err)
			}
			a.wantTraffic("metadata 1, attest 1, credential 1")
		}})
	}
	for _, member := range []string{"client_id", "tenant_id", "certificate", "identity_type", "mtls_authentication_endpoint"} {
		refused("4.2", "an answer without "+member, func(m map[string]any) { delete(m, member) })
	}
	refused("4.2", "a certificate in PEM", func(m map[string]any) {
		m["certificate"] = "-----BEGIN CERTIFICATE-----\n" + m["certificate"].(string) + "\n-----END CERTIFICATE-----"
	})
	refused("4.2", "a certificate with bytes behind it", func(m map[string]any) {
		der, _ := base64.StdEncoding.DecodeString(m["certificate"].(string))
		m["certificate"] = base64.StdEncoding.EncodeToString(append(der, 0))
	})
	refused("1.7", "a client_id other than getplatformmetadata gave", func(m map[string]any) { m["client_id"] = uuid.NewString() })
	refused("1.7", "a tenant_id other than getplatformmetadata gave", func(m map[string]any) { m["tenant_id"] = uuid.NewString() })
	for sentence, endpoint := range map[string]string{
		"a token endpoint over http":                "http://" + regionalMTLS,
		"a token endpoint with user information":    "https://u:p@" + regionalMTLS,
		"a token endpoint with a backslash":         `https://` + regionalMTLS + `\@evil.example`,
		"a token endpoint with a query":             "https://" + regionalMTLS + "?x=1",
		"a token endpoint off the list of hosts":    "https://mtlsauth.example",
		"a token endpoint that looks like the list": "https://mtlsauth.microsoft.com.example",
		"a token endpoint without certificates":     "https://login.microsoftonline.com",
	} {
		refused("1.7", sentence, func(m map[string]any) { m["mtls_authentication_endpoint"] = endpoint })
	}
	return list
}

// issues answers issuecredential with a certificate that the managed identity issuer made otherwise
// than usual.
func (a *azure) issues(change func(*pki.BindingCertificate)) {
	order := pki.BindingCertificate{ClientID: a.system.ClientID, Key: a.key.Public(), Now: a.clock.Now()}
	change(&order)
	leaf, err := a.issuer.Issue(order)
	if err != nil {
		a.t.Fatal(err)
	}
	a.metadata.edits("issuecredential", func(m map[string]any) { m["certificate"] = base64.StdEncoding.EncodeToString(leaf.Raw) })
}

// makes answers issuecredential with a certificate of any form; its signer is not checked.
func (a *azure) makes(change func(*x509.Certificate)) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: a.system.ClientID},
		NotBefore: a.clock.Now().Add(-time.Minute), NotAfter: a.clock.Now().Add(14 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
	change(template)
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	a.metadata.edits("issuecredential", func(m map[string]any) { m["certificate"] = base64.StdEncoding.EncodeToString(der) })
	a.mtls.alwaysAnswers("token", grants)
}

// tokenNotAfter is the extension with a value as one finds it described: GeneralizedTime or
// UTCTime, alone or in a SEQUENCE.
func tokenNotAfter(t *testing.T, end time.Time, form string, wrapped bool) pkix.Extension {
	t.Helper()
	value, err := asn1.MarshalWithParams(end.UTC().Truncate(time.Second), form)
	if err == nil && wrapped {
		value, err = asn1.Marshal([]asn1.RawValue{{FullBytes: value}})
	}
	if err != nil {
		t.Fatal(err)
	}
	return pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 90, 2, 1}, Value: value}
}

// certificateDemands are those of 4.3 and 4.4.
func certificateDemands() []demand {
	var list []demand
	refused := func(sentence string, change func(a *azure)) {
		list = append(list, demand{"4.3", sentence + " is refused", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			change(a)
			_, err := a.bearer()
			wantKind(t, err, acquire.KindRefused)
			if !errors.Is(err, imds.ErrBadAnswer) {
				t.Errorf("got %v", err)
			}
			a.wantTraffic("metadata 1, attest 1, credential 1")
		}})
	}
	refused("a certificate over another key", func(a *azure) {
		a.issues(func(b *pki.BindingCertificate) { b.Key = a.appKey.Public() })
	})
	refused("a certificate for another client", func(a *azure) {
		a.issues(func(b *pki.BindingCertificate) { b.ClientID = a.user.ClientID })
	})
	refused("a certificate that is over", func(a *azure) {
		a.issues(func(b *pki.BindingCertificate) { b.Now = b.Now.Add(-15 * 24 * time.Hour) })
	})
	refused("a certificate that is not yet valid", func(a *azure) {
		a.issues(func(b *pki.BindingCertificate) { b.Now = b.Now.Add(2 * 24 * time.Hour) })
	})
	refused("a certificate whose token_not_after has passed", func(a *azure) {
		a.issues(func(b *pki.BindingCertificate) { b.Now = b.Now.Add(-8 * 24 * time.Hour) })
	})
	refused("a certificate with less than five minutes of tokens left", func(a *azure) {
		a.issues(func(b *pki.BindingCertificate) { b.TokenLife = 4 * time.Minute })
	})
	refused("a certificate without clientAuth", func(a *azure) {
		a.makes(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	})
	refused("a certificate without digitalSignature", func(a *azure) {
		a.makes(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment })
	})
	refused("a certificate of an authority", func(a *azure) { a.makes(func(c *x509.Certificate) { c.IsCA = true }) })
	refused("a certificate whose token_not_after is no time", func(a *azure) {
		a.makes(func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 90, 2, 1}, Value: []byte{12, 1, 'x'}}}
		})
	})
	for form, params := range map[string]string{"GeneralizedTime": "generalized", "UTCTime": "utc"} {
		for wrapping, wrapped := range map[string]bool{"": false, " in a SEQUENCE": true} {
			list = append(list, demand{"4.3", "token_not_after as " + form + wrapping + " ends the certificate before notAfter", func(t *testing.T) {
				a := newAzure(t, vmIdentity())
				end := a.clock.Now().Add(3 * 24 * time.Hour).Truncate(time.Second)
				a.makes(func(c *x509.Certificate) {
					c.ExtraExtensions = []pkix.Extension{tokenNotAfter(t, end, params, wrapped)}
				})
				a.mustGet(vault, acquire.TypeBearer)
				if got := a.bindings.Current(imds.Selector{}).EffectiveExpiry(); !got.Equal(end) {
					t.Errorf("ends at %v, want %v", got, end)
				}
			}})
		}
	}
	list = append(list,
		demand{"4.3", "without token_not_after the certificate ends at notAfter", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.issues(func(b *pki.BindingCertificate) { b.TokenLife = -1 })
			a.mustGet(vault, acquire.TypeBearer)
			if c := a.bindings.Current(imds.Selector{}); !c.EffectiveExpiry().Equal(c.Leaf.NotAfter) {
				t.Errorf("ends at %v", c.EffectiveExpiry())
			}
		}},
		demand{"4.3", "notAfter before token_not_after ends the certificate", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.issues(func(b *pki.BindingCertificate) { b.Life = 24 * time.Hour })
			a.mustGet(vault, acquire.TypeBearer)
			if c := a.bindings.Current(imds.Selector{}); !c.EffectiveExpiry().Equal(c.Leaf.NotAfter) {
				t.Errorf("ends at %v", c.EffectiveExpiry())
			}
		}},
	)
	return append(list, cachingDemands()...)
}

// cachingDemands are those of 4.4.
func cachingDemands() []demand {
	return []demand{
		{"4.4", "after a restart getplatformmetadata is asked again, issuecredential is not", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mustGet(vault, acquire.TypeBearer)
			a.restart(vmIdentity())
			a.mustGet(vault, acquire.TypeBearer)
			a.wantTraffic("metadata 2, attest 1, credential 1, mtls 2")
		}},
		{"4.4", "a certificate of another key is not used after a restart", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mustGet(vault, acquire.TypeBearer)
			a.cfg.KeyName = "000b02"
			a.restart(vmIdentity())
			a.mustGet(vault, acquire.TypeBearer)
			a.wantTraffic("metadata 2, attest 1, credential 2, mtls 2")
		}},
		{"4.4", "the state file is for the agent's user alone", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mustGet(vault, acquire.TypeBearer)
			info, err := os.Stat(a.cfg.Files.Path("binding-system.json"))
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("got %v, %v", info, err)
			}
		}},
		{"4.4", "many callers cause one issuance", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			done := make(chan error, 10)
			for i := range 10 {
				resource := []string{vault, management}[i%2]
				go func() {
					_, err := a.acquirer.Token(t.Context(), acquire.Request{Identity: "id", Resource: resource, Type: acquire.TypeBearer})
					done <- err
				}()
			}
			for range 10 {
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
			if n := len(a.metadata.requestsTo("issuecredential")); n != 1 {
				t.Errorf("%d issuances", n)
			}
		}},
		{"4.4", "two identities have two certificates", func(t *testing.T) {
			other := managedIdentity(acquire.BoundRequire, imds.Selector{ClientID: mustServices(t).user.ClientID})
			other.Name = "other"
			a := newAzure(t, vmIdentity(), other)
			a.mustGet(vault, acquire.TypeBearer)
			if _, err := a.acquirer.Token(t.Context(), acquire.Request{Identity: "other", Resource: vault, Type: acquire.TypeBearer}); err != nil {
				t.Error(err)
			}
			a.wantTraffic("metadata 2, attest 1, credential 2, mtls 2")
		}},
		{"4.4", "renewed at half of the effective life, give or take a tenth", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mustGet(vault, acquire.TypeBearer)
			began := a.clock.Now()
			a.renews(t, 2)
			const half = 7 * 24 * time.Hour / 2
			if after := a.clock.Now().Sub(began); after < half*9/10-time.Hour || after > half*11/10+time.Hour {
				t.Errorf("renewed after %v", after)
			}
			if m := a.metadata.requestsTo("issuecredential"); m[1].query.Has("bypass_cache") {
				t.Error("a renewal goes past the cache of IMDS")
			}
		}},
		{"4.4", "a renewal that fails is repeated after 1, 2, 4 and at most 60 minutes, and the old certificate serves on", func(t *testing.T) {
			a := newAzureWith(t, func(a *azure) { a.cfg.Jitter = func(d time.Duration) time.Duration { return d } }, vmIdentity())
			a.mustGet(vault, acquire.TypeBearer)
			first := a.bindings.Current(imds.Selector{})
			a.metadata.alwaysAnswers("issuecredential", says(403, ""))
			times := a.renews(t, 10)
			var gaps []time.Duration
			for i := 2; i < len(times); i++ {
				gaps = append(gaps, times[i].Sub(times[i-1]).Round(time.Minute))
			}
			if want := []time.Duration{1, 2, 4, 8, 16, 32, 60, 60}; !slices.EqualFunc(gaps, want, func(a, b time.Duration) bool { return a == b*time.Minute }) {
				t.Errorf("repeated after %v", gaps)
			}
			if now := a.bindings.Current(imds.Selector{}); now == nil || !now.Leaf.Equal(first.Leaf) {
				t.Error("the old certificate does not serve")
			}
		}},
		{"4.4", "no certificate is used later than five minutes before its effective expiry", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mustGet(vault, acquire.TypeBearer)
			a.advance(a.bindings.Current(imds.Selector{}).EffectiveExpiry().Add(-5*time.Minute - time.Second).Sub(a.clock.Now()))
			a.mustGet(vault, acquire.TypeBearer)
			a.advance(time.Second)
			a.mustGet(management, acquire.TypeBearer)
			m := a.mtls.requestsTo("token")
			if len(m) != 3 || !certificateOf(t, m[0]).Equal(certificateOf(t, m[1])) || certificateOf(t, m[1]).Equal(certificateOf(t, m[2])) {
				t.Errorf("%d token requests, and not the certificates that were due", len(m))
			}
		}},
	}
}

// renews runs the renewals until issuecredential was asked so often, and returns when it was. The
// clock runs minute by minute, or faster.
func (a *azure) renews(t *testing.T, issuances int) []time.Time {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	times := []time.Time{a.clock.Now()}
	cfg := a.cfg
	cfg.Wait = func(ctx context.Context, d time.Duration) error {
		for len(times) < len(a.metadata.requestsTo("issuecredential")) {
			times = append(times, a.clock.Now())
		}
		if len(times) >= issuances || a.clock.Now().Sub(times[0]) > 14*24*time.Hour {
			cancel()
			return ctx.Err()
		}
		a.advance(d)
		return nil
	}
	manager := binding.New(cfg)
	if _, err := manager.Certificate(t.Context(), imds.Selector{}); err != nil {
		t.Fatal(err)
	}
	a.bindings = manager
	if err := manager.Run(ctx); err != nil {
		t.Error(err)
	}
	return times
}
