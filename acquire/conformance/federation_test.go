package conformance_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/internal/cloud"
	simentra "github.com/keyagent/keyagent/simulator/entra"
)

// federationDemands are those of section 7.
func federationDemands() []demand {
	fic := func(t *testing.T, bound acquire.Bound) acquire.Identity {
		t.Helper()
		return application(t, ficApp, userEntry(t, bound))
	}
	list := []demand{
		{"7.1", "bound: the assertion request is a bound token of the managed identity for the exchange", func(t *testing.T) {
			a := newAzure(t, fic(t, acquire.BoundRequire))
			a.mustGet(vault, acquire.TypeBearer)
			m := a.mtls.requestsTo("token")[0]
			if m.host != regionalMTLS || m.form.Get("scope") != exchange+"/.default" || m.form.Get("token_type") != "mtls_pop" || m.form.Get("client_id") != a.user.ClientID {
				t.Errorf("the assertion request is %s to %s", m.body, m.host)
			}
		}},
		{"7.1", "bound, by the certificate of another application: the assertion request is variant C for the exchange", func(t *testing.T) {
			a := newAzure(t,
				application(t, ficApp, acquire.Credential{Name: "via", Source: acquire.SourceOIDC, Bound: acquire.BoundRequire, Identity: "middle"}),
				named("middle", application(t, certApp, certificateEntry(acquire.BoundRequire))))
			a.mtls.answers("token", forward(a), grants)
			a.mustGet(vault, acquire.TypeBearer)
			m := a.mtls.requestsTo("token")
			if m[0].form.Get("scope") != exchange+"/.default" || m[0].form.Get("token_type") != "mtls_pop" || m[0].form.Has("client_assertion") || !sameCertificate(m) {
				t.Errorf("the assertion request is %s", m[0].body)
			}
		}},
		{"7.1", "unbound: the assertion request is by version 1, for the exchange without /.default", func(t *testing.T) {
			a := newAzure(t, fic(t, acquire.BoundNever))
			a.mustGet(vault, acquire.TypeBearer)
			if m := a.metadata.requestsTo("token")[0]; m.query.Get("resource") != exchange {
				t.Errorf("asked for %s", m.query.Get("resource"))
			}
			a.wantTraffic("v1 1, login 1")
		}},
		{"7.1", "an audience of the configuration takes the cloud's place", func(t *testing.T) {
			id := fic(t, acquire.BoundRequire)
			id.Application.Credentials[0].Audience = "api://Other"
			a := newAzure(t, id)
			a.mtls.alwaysAnswers("token", grants)
			a.mustGet(vault, acquire.TypeBearer)
			if m := a.mtls.requestsTo("token")[0]; m.form.Get("scope") != "api://Other/.default" {
				t.Errorf("the assertion request asks for %s", m.form.Get("scope"))
			}
		}},
		{"7.2", "the mtlsauth host of the application's tenant, over the certificate of the assertion request", func(t *testing.T) {
			a := newAzure(t, fic(t, acquire.BoundRequire))
			a.mustGet(vault, acquire.TypeBearer)
			m := a.mtls.requestsTo("token")
			if len(m) != 2 || m[1].host != globalMTLS || m[1].target != "/"+a.tenant+"/oauth2/v2.0/token" || !sameCertificate(m) {
				t.Errorf("the exchange went to %s%s", m[1].host, m[1].target)
			}
		}},
		{"7.2", "client_assertion is the token of the assertion request, of type jwt-pop", func(t *testing.T) {
			a := newAzure(t, fic(t, acquire.BoundRequire))
			a.mustGet(vault, acquire.TypeBearer)
			m := a.mtls.requestsTo("token")
			if m[1].form.Get("client_assertion") != m[0].member("access_token") || m[1].form.Get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-pop" {
				t.Errorf("the exchange asserts %s", m[1].form.Get("client_assertion_type"))
			}
		}},
		{"7.2", "the assertion request's token serves other resources until five minutes before its end, in a pair with its certificate", func(t *testing.T) {
			a := newAzure(t, fic(t, acquire.BoundRequire))
			began := a.clock.Now()
			a.mustGet(vault, acquire.TypeBearer)
			a.mustGet(management, acquire.TypeBearer)
			a.wantTraffic("metadata 1, attest 1, credential 1, mtls 3")
			life := simentra.DefaultTokenLife - time.Second
			a.advance(began.Add(life - 5*time.Minute).Sub(a.clock.Now()))
			if _, err := a.acquirer.Token(t.Context(), acquire.Request{Identity: "id", Resource: vault, Type: acquire.TypePoP}); err != nil {
				t.Error(err)
			}
			a.wantTraffic("metadata 2, attest 1, credential 1, mtls 5")
		}},
		{"7.2", "without certificate: jwt-bearer to the login host", func(t *testing.T) {
			a := newAzure(t, fic(t, acquire.BoundNever))
			a.mustGet(vault, acquire.TypeBearer)
			m := a.login.requestsTo("token")[0]
			if m.host != globalLogin || m.form.Get("client_assertion") != a.metadata.requestsTo("token")[0].member("access_token") ||
				m.form.Get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" || len(m.certificates) != 0 {
				t.Errorf("the exchange went to %s with %s", m.host, m.form.Get("client_assertion_type"))
			}
		}},
		{"7.2", "a bound token without a certificate is refused, and nothing is sent", func(t *testing.T) {
			a := newAzure(t, fic(t, acquire.BoundNever))
			_, err := a.get(vault, acquire.TypePoP)
			wantKind(t, err, acquire.KindRefused)
			a.wantTraffic("")
		}},
		{"7.2", "the region is optional, and is that of the configuration", func(t *testing.T) {
			id := fic(t, acquire.BoundRequire)
			id.Application.Region = "westus3"
			a := newAzure(t, id)
			a.mustGet(vault, acquire.TypeBearer)
			if m := a.mtls.requestsTo("token"); m[0].host != regionalMTLS || m[1].host != "westus3.mtlsauth.microsoft.com" {
				t.Errorf("went to %s and %s", m[0].host, m[1].host)
			}
		}},
		{"7.2", "certificate and assertion are one pair: after a replacement both are new", func(t *testing.T) {
			a := newAzure(t, fic(t, acquire.BoundRequire))
			a.mtls.answers("token", forward(a), refuses(401, "invalid_client", 7000214), refuses(401, "invalid_client", 7000214))
			a.mustGet(vault, acquire.TypeBearer)
			m := a.mtls.requestsTo("token")
			if len(m) != 5 || !sameCertificate(m[:3]) || !sameCertificate(m[3:]) || sameCertificate(m) || m[4].form.Get("client_assertion") != m[3].member("access_token") {
				t.Errorf("%d requests, or a pair of two generations", len(m))
			}
		}},
		{"7.2", "70022204 is told with what to look at", func(t *testing.T) {
			a := newAzure(t, fic(t, acquire.BoundRequire))
			a.mtls.answers("token", forward(a), refuses(401, "invalid_client", 70022204))
			_, err := a.bearer()
			wantKind(t, err, acquire.KindRefused)
			if e, ok := errors.AsType[*acquire.Error](err); !ok || !strings.Contains(e.Hint, "federated credential") {
				t.Errorf("got %+v", e)
			}
			a.wantTraffic("metadata 1, attest 1, credential 1, mtls 2")
		}},
		{"7.3", "a Bearer token that names the certificate goes with it, and the log says so", func(t *testing.T) {
			a := newAzure(t, fic(t, acquire.BoundRequire))
			a.entra.SetTenant(simentra.TenantPolicy{BoundBearer: true})
			t.Cleanup(func() { a.entra.SetTenant(simentra.TenantPolicy{}) })
			a.mustGet(vault, acquire.TypeBearer)
			if token := a.mustGet(vault, acquire.TypeBearer); !token.FromCache || !strings.Contains(a.log.String(), "bound to the certificate") {
				t.Errorf("got %+v; log %s", token, a.log.String())
			}
			a.mtls.answers("token", refuses(401, "invalid_client", 7000214), refuses(401, "invalid_client", 7000214))
			a.mustGet(management, acquire.TypeBearer)
			if token := a.mustGet(vault, acquire.TypeBearer); token.FromCache {
				t.Error("it is served though its certificate was replaced")
			}
		}},
		{"7.3", "a bound result names the managed identity's certificate", func(t *testing.T) {
			a := newAzure(t, fic(t, acquire.BoundRequire))
			token := a.mustGet(vault, acquire.TypePoP)
			cnf, _ := claimsOf(t, token.AccessToken.Reveal())["cnf"].(map[string]any)
			if cnf["x5t#S256"] != x5t(a.mtls.requestsTo("token")[0].certificates[0]) || token.Binding.Thumbprint != cnf["x5t#S256"] {
				t.Errorf("cnf is %v", cnf)
			}
		}},
		{"7.4", "fmi_path, which asks for a sub-identity, is sent by no step of an exchange", func(t *testing.T) {
			a := newAzure(t, fic(t, acquire.BoundRequire))
			a.mtls.alwaysAnswers("token", grants)
			a.mustGet(vault, acquire.TypeBearer)
			requests := a.mtls.requestsTo("token")
			if len(requests) != 2 {
				t.Fatalf("%d token requests, want 2", len(requests))
			}
			for _, m := range requests {
				if m.form.Has("fmi_path") {
					t.Errorf("sent %s", m.body)
				}
			}
		}},
	}
	for name, audience := range map[string]string{
		"public": exchange, "us-gov": "api://AzureADTokenExchangeUSGov", "china": "api://AzureADTokenExchangeChina",
		"france": "api://AzureADTokenExchangeFrance", "germany": "api://AzureADTokenExchangeGermany",
	} {
		list = append(list, demand{"7.1", fmt.Sprintf("%s: the audience is %s", name, audience), func(t *testing.T) {
			in, ok := cloud.Named(name)
			if !ok {
				t.Fatal("no such cloud")
			}
			id := fic(t, acquire.BoundRequire)
			id.Application.Authority.Cloud = in
			a := newAzure(t, id)
			a.mtls.alwaysAnswers("token", grants)
			a.mustGet(vault, acquire.TypeBearer)
			if m := a.mtls.requestsTo("token")[0]; m.form.Get("scope") != audience+"/.default" {
				t.Errorf("the assertion request asks for %s", m.form.Get("scope"))
			}
		}})
	}
	return list
}

func named(name string, id acquire.Identity) acquire.Identity {
	id.Name = name
	return id
}

// regionDemands are those of section 8.
func regionDemands() []demand {
	inRegion := func(t *testing.T, region string) acquire.Identity {
		t.Helper()
		id := application(t, certApp, certificateEntry(acquire.BoundRequire))
		id.Application.Region = region
		return id
	}
	hosts := func(a *azure) string {
		var list []string
		for _, m := range a.mtls.requestsTo("token") {
			list = append(list, m.host)
		}
		return strings.Join(list, " ")
	}
	return []demand{
		{"8", "a region of the configuration is used, and IMDS not asked", func(t *testing.T) {
			a := newAzure(t, inRegion(t, "westus3"))
			a.mustGet(vault, acquire.TypeBearer)
			if hosts(a) != "westus3.mtlsauth.microsoft.com" {
				t.Errorf("asked %s", hosts(a))
			}
			a.wantTraffic("mtls 1")
		}},
		{"8", "auto: GET /metadata/instance/compute?api-version=2021-02-01 with Metadata: true, member location", func(t *testing.T) {
			a := newAzure(t, inRegion(t, acquire.RegionAuto))
			a.mustGet(vault, acquire.TypeBearer)
			m := a.metadata.requestsTo("compute")[0]
			if m.method != http.MethodGet || m.target != "/metadata/instance/compute?api-version=2021-02-01" || m.header.Get("Metadata") != "true" {
				t.Errorf("asked %s %s", m.method, m.target)
			}
			if hosts(a) != regionalMTLS {
				t.Errorf("asked %s", hosts(a))
			}
		}},
		{"8", "auto: found once, and again after 24 h", func(t *testing.T) {
			a := newAzure(t, inRegion(t, acquire.RegionAuto))
			a.mustGet(vault, acquire.TypeBearer)
			a.mustGet(management, acquire.TypeBearer)
			a.wantTraffic("compute 1, mtls 2")
			a.advance(24 * time.Hour)
			a.mustGet(vault, acquire.TypeBearer)
			a.wantTraffic("compute 2, mtls 3")
		}},
		{"8", "auto: nothing found is no error, but the global host", func(t *testing.T) {
			for _, answer := range []http.HandlerFunc{says(404, ""), says(408, ""), says(200, `{"location":""}`), says(200, `{"location":"west.evil.example"}`), says(200, "<html>")} {
				a := newAzure(t, inRegion(t, acquire.RegionAuto))
				a.metadata.alwaysAnswers("compute", answer)
				a.mustGet(vault, acquire.TypeBearer)
				if hosts(a) != globalMTLS {
					t.Errorf("asked %s", hosts(a))
				}
				a.wantTraffic("compute 1, mtls 1")
			}
		}},
		{"8", "auto: location is taken in lower case", func(t *testing.T) {
			a := newAzure(t, inRegion(t, acquire.RegionAuto))
			a.metadata.answers("compute", says(200, `{"location":"WestUS3"}`))
			a.mustGet(vault, acquire.TypeBearer)
			if hosts(a) != "westus3.mtlsauth.microsoft.com" {
				t.Errorf("asked %s", hosts(a))
			}
		}},
		{"8", "auto: three more attempts for 410, 429 and 5xx", func(t *testing.T) {
			for _, status := range []int{410, 429, 500, 503} {
				a := newAzure(t, inRegion(t, acquire.RegionAuto))
				a.metadata.answers("compute", says(status, ""), says(status, ""), says(status, ""))
				a.mustGet(vault, acquire.TypeBearer)
				a.wantTraffic("compute 4, mtls 1")
			}
		}},
		{"8", "auto: 400 asks for the newest version, and then with it", func(t *testing.T) {
			a := newAzure(t, inRegion(t, acquire.RegionAuto))
			a.metadata.answers("compute", says(400, ""), says(400, `{"error":"Bad request","newest-versions":["2031-01-01","2021-02-01"]}`), says(200, `{"location":"westus3"}`))
			a.mustGet(vault, acquire.TypeBearer)
			m := a.metadata.requestsTo("compute")
			if len(m) != 3 || m[1].query.Has("api-version") || m[2].query.Get("api-version") != "2031-01-01" || hosts(a) != "westus3.mtlsauth.microsoft.com" {
				t.Errorf("asked %d times, and then %s", len(m), hosts(a))
			}
		}},
		{"8", "the region is for applications: a managed identity goes where IMDS says", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mustGet(vault, acquire.TypeBearer)
			a.wantTraffic("metadata 1, attest 1, credential 1, mtls 1")
		}},
		{"8", "a regional host that cannot be connected to gives way to the global one for 5 minutes", func(t *testing.T) {
			down := true
			a := newAzureWith(t, func(a *azure) {
				a.refuse = func(host string) error {
					if down && host != globalMTLS {
						return refusedConnection()
					}
					return nil
				}
			}, inRegion(t, "westus3"))
			a.mustGet(vault, acquire.TypeBearer)
			down = false
			a.mustGet(management, acquire.TypeBearer)
			a.advance(5 * time.Minute)
			a.mustGet("https://vault.azure.net/.default", acquire.TypeBearer)
			if got, want := hosts(a), globalMTLS+" "+globalMTLS+" westus3.mtlsauth.microsoft.com"; got != want {
				t.Errorf("asked %s, want %s", got, want)
			}
		}},
		{"8", "a regional host that answers with an error does not give way", func(t *testing.T) {
			a := newAzure(t, inRegion(t, "westus3"))
			a.mtls.alwaysAnswers("token", says(503, "", "Retry-After", "5"))
			_, err := a.bearer()
			wantKind(t, err, acquire.KindUnavailable)
			if hosts(a) != "westus3.mtlsauth.microsoft.com" {
				t.Errorf("asked %s", hosts(a))
			}
		}},
	}
}
