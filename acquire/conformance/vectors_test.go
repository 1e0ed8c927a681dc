package conformance_test

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"testing"
	"time"

	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/simulator/pki"
)

// vectorDemands are the list of section 16, line by line.
func vectorDemands() []demand {
	return slices.Concat(metadataVectors(), certificateVectors(), tokenVectors(), v1Vectors())
}

func metadataVectors() []demand {
	list := []demand{
		{"16.1", "the certificate request's form", func(t *testing.T) {
			a, r := sentRequest(t)
			if r.version != 0 || len(r.subject) != 2 || r.subject[0].tag != cbasn1.Tag(22) || r.subject[0].oid != "0.9.2342.19200300.100.1.25" || r.subject[1].oid != "2.5.4.3" {
				t.Errorf("version %d, subject %+v", r.version, r.subject)
			}
			if r.attribute.String() != "1.3.6.1.4.1.311.90.2.10" || r.value != (nameAttribute{tag: cbasn1.UTF8String, value: `{"vmId":"` + a.vm + `"}`}) {
				t.Errorf("attribute %v: %+v", r.attribute, r.value)
			}
			if hex.EncodeToString(r.algorithm) != pssAlgorithm {
				t.Errorf("algorithm %x", r.algorithm)
			}
		}},
		{"16.3", "410 seven times, then 200: success after 70 s", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			began := a.clock.Now()
			a.metadata.answers("getplatformmetadata", slices.Repeat([]http.HandlerFunc{says(410, "")}, 7)...)
			a.mustGet(vault, acquire.TypeBearer)
			if d := a.clock.Now().Sub(began); d != 70*time.Second {
				t.Errorf("took %v", d)
			}
		}},
		{"16.4", "404 on metadata: one attempt at version 1 for Bearer where the operator allows it", func(t *testing.T) {
			a := newAzure(t, managedIdentity(acquire.BoundPrefer, imds.Selector{}))
			a.metadata.alwaysAnswers("getplatformmetadata", says(404, ""))
			a.mustGet(vault, acquire.TypeBearer)
			a.wantTraffic("metadata 4, v1 1")
		}},
		{"16.4", "404 on metadata: none for a bound token", func(t *testing.T) {
			a := newAzure(t, managedIdentity(acquire.BoundPrefer, imds.Selector{}))
			a.metadata.alwaysAnswers("getplatformmetadata", says(404, ""))
			_, err := a.get(vault, acquire.TypePoP)
			if !errors.Is(err, imds.ErrNotSupported) {
				t.Errorf("got %v", err)
			}
			a.wantTraffic("metadata 4")
		}},
	}
	for sentence, answer := range map[string]func(a *azure){
		"no Server header": func(a *azure) { a.metadata.answers("getplatformmetadata", says(200, "{}", "Server", "")) },
		"Server: nginx":    func(a *azure) { a.metadata.answers("getplatformmetadata", says(200, "{}", "Server", "nginx")) },
		"cuId: {}": func(a *azure) {
			a.metadata.edits("getplatformmetadata", func(m map[string]any) { m["cuId"] = map[string]any{} })
		},
		"an attestation URL over http": func(a *azure) {
			a.metadata.edits("getplatformmetadata", func(m map[string]any) { m["attestationEndpoint"] = "http://sharedweu.weu.attest.azure.net" })
		},
	} {
		list = append(list, demand{"16.2", "metadata with " + sentence + " are rejected", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			answer(a)
			_, err := a.bearer()
			wantKind(t, err, acquire.KindRefused)
			a.wantTraffic("metadata 1")
		}})
	}
	return list
}

func certificateVectors() []demand {
	var list []demand
	for sentence, answer := range map[string]func(a *azure){
		"a wrong public key": func(a *azure) { a.issues(func(b *pki.BindingCertificate) { b.Key = a.appKey.Public() }) },
		"a wrong CN":         func(a *azure) { a.issues(func(b *pki.BindingCertificate) { b.ClientID = a.user.ClientID }) },
		"a token endpoint over http": func(a *azure) {
			a.metadata.edits("issuecredential", func(m map[string]any) { m["mtls_authentication_endpoint"] = "http://" + regionalMTLS })
		},
		"a token endpoint with user information": func(a *azure) {
			a.metadata.edits("issuecredential", func(m map[string]any) { m["mtls_authentication_endpoint"] = "https://x@" + regionalMTLS })
		},
	} {
		list = append(list, demand{"16.5", "issuecredential with " + sentence + " is rejected", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			answer(a)
			_, err := a.bearer()
			wantKind(t, err, acquire.KindRefused)
			a.wantTraffic("metadata 1, attest 1, credential 1")
		}})
	}
	return append(list, demand{"16.6", "token_not_after in 1 h and notAfter in 8 d: renewed at once", func(t *testing.T) {
		a := newAzure(t, vmIdentity())
		a.issues(func(b *pki.BindingCertificate) {
			b.Now, b.Life, b.TokenLife = b.Now.Add(-6*24*time.Hour), 14*24*time.Hour, 6*24*time.Hour+time.Hour
		})
		a.mustGet(vault, acquire.TypeBearer)
		began := a.clock.Now()
		if times := a.renews(t, 2); len(times) != 2 || times[1].Sub(began) > time.Minute {
			t.Errorf("renewed at %v, issued at %v", times, began)
		}
	}})
}

func tokenVectors() []demand {
	list := []demand{
		{"16.7", "401 invalid_client [1000612], then 200: exactly one replacement, exactly one attestation more", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mtls.answers("token", refuses(401, "invalid_client", 1000612))
			a.mustGet(vault, acquire.TypeBearer)
			a.wantTraffic("metadata 2, attest 2, credential 2, mtls 2")
		}},
		{"16.8", "400 [1000901], then 200: exactly one replacement", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mtls.answers("token", refuses(400, "invalid_request", 1000901))
			a.mustGet(vault, acquire.TypeBearer)
			a.wantTraffic("metadata 2, attest 1, credential 2, mtls 2")
		}},
		{"16.10", "token_type Bearer where mtls_pop was asked: rejected, not kept", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mtls.answers("token", says(200, tokenAnswer("Bearer", "")))
			_, err := a.get(vault, acquire.TypePoP)
			wantKind(t, err, acquire.KindRefused)
			a.advance(time.Minute)
			if token := a.mustGet(vault, acquire.TypePoP); token.FromCache {
				t.Error("it was kept")
			}
		}},
		{"16.11", "cnf of another certificate: rejected", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mtls.answers("token", says(200, tokenAnswer("mtls_pop", x5t([]byte("another")))))
			_, err := a.get(vault, acquire.TypePoP)
			wantKind(t, err, acquire.KindRefused)
		}},
		{"16.12", "an exchange with a rotated certificate: the pair is obtained again, never mixed", func(t *testing.T) {
			a := newAzure(t, application(t, ficApp, userEntry(t, acquire.BoundRequire)))
			a.mustGet(vault, acquire.TypeBearer)
			sel := imds.Selector{ClientID: a.user.ClientID}
			if _, err := a.bindings.Replace(t.Context(), sel, a.bindings.Current(sel), "certificate"); err != nil {
				t.Fatal(err)
			}
			a.mustGet(management, acquire.TypeBearer)
			m := a.mtls.requestsTo("token")
			if len(m) != 4 || !sameCertificate(m[2:]) || sameCertificate(m[1:3]) || m[3].form.Get("client_assertion") != m[2].member("access_token") {
				t.Errorf("%d requests, or a pair of two generations", len(m))
			}
		}},
	}
	for _, code := range []int{51000, 392196} {
		list = append(list, demand{"16.9", "401 [" + strconv.Itoa(code) + "]: no replacement", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mtls.answers("token", refuses(401, "invalid_client", code))
			_, err := a.bearer()
			wantKind(t, err, acquire.KindRefused)
			a.wantTraffic("metadata 1, attest 1, credential 1, mtls 1")
		}})
	}
	return list
}

// v1Vectors are about the service that stands in for IMDS: the agent and others are tried against
// it, so it must be as strict as IMDS.
func v1Vectors() []demand {
	const target = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net"
	call := func(t *testing.T, target string, headers ...string) *httptest.ResponseRecorder {
		t.Helper()
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		mustServices(t).imds.ServeHTTP(w, r)
		return w
	}
	return []demand{
		{"16.13", "version 1: all numeric fields are strings", func(t *testing.T) {
			w := call(t, target, "Metadata", "true")
			var fields map[string]string
			if err := json.Unmarshal(w.Body.Bytes(), &fields); err != nil || w.Code != http.StatusOK {
				t.Fatalf("%d: %v", w.Code, err)
			}
			for _, name := range []string{"expires_in", "expires_on", "ext_expires_in", "not_before"} {
				if _, err := strconv.ParseInt(fields[name], 10, 64); err != nil {
					t.Errorf("%s is %q", name, fields[name])
				}
			}
		}},
		{"16.13", "version 1: a probe without header is answered 400", func(t *testing.T) {
			if w := call(t, "/metadata/identity/oauth2/token"); w.Code != http.StatusBadRequest {
				t.Errorf("answered %d", w.Code)
			}
		}},
		{"16.13", "version 1: X-Forwarded-For is answered 400", func(t *testing.T) {
			if w := call(t, target, "Metadata", "true", "X-Forwarded-For", "10.0.0.1"); w.Code != http.StatusBadRequest {
				t.Errorf("answered %d", w.Code)
			}
		}},
		{"16.13", "version 1: unknown query parameters are ignored", func(t *testing.T) {
			if w := call(t, target+"&xms_cc=cp1&x=y", "Metadata", "true"); w.Code != http.StatusOK {
				t.Errorf("answered %d", w.Code)
			}
		}},
		{"16.13", "version 1: a path with doubled slashes is taken", func(t *testing.T) {
			if w := call(t, "//metadata//identity"+target[len("/metadata/identity"):], "Metadata", "true"); w.Code != http.StatusOK {
				t.Errorf("answered %d", w.Code)
			}
		}},
	}
}
