package conformance_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/acquire/entra"
	"github.com/keyagent/keyagent/internal/cloud"
)

// cloudRow is a row of the table of hosts in 5.2.
type cloudRow struct {
	authority, mtls, regionalMTLS, regionalLogin string // a region stands for every region
	aliases                                      []string
}

var cloudRows = []cloudRow{
	{
		"login.microsoftonline.com", "mtlsauth.microsoft.com", "westus3.mtlsauth.microsoft.com", "westus3.login.microsoft.com",
		[]string{"login.microsoft.com", "login.windows.net", "sts.windows.net"},
	},
	{
		"login.microsoftonline.us", "mtlsauth.microsoftonline.us", "westus3.mtlsauth.microsoftonline.us", "westus3.login.microsoftonline.us",
		[]string{"login.usgovcloudapi.net"},
	},
	{
		"login.partner.microsoftonline.cn", "mtlsauth.partner.microsoftonline.cn", "westus3.mtlsauth.partner.microsoftonline.cn", "westus3.login.partner.microsoftonline.cn",
		[]string{"login.chinacloudapi.cn"},
	},
	{"login.sovcloud-identity.fr", "mtlsauth.sovcloud-identity.fr", "westus3.mtlsauth.sovcloud-identity.fr", "westus3.login.sovcloud-identity.fr", nil},
	{"login.sovcloud-identity.de", "mtlsauth.sovcloud-identity.de", "westus3.mtlsauth.sovcloud-identity.de", "westus3.login.sovcloud-identity.de", nil},
	{"login.sovcloud-identity.sg", "mtlsauth.sovcloud-identity.sg", "westus3.mtlsauth.sovcloud-identity.sg", "westus3.login.sovcloud-identity.sg", nil},
}

// hostsOfAllClouds are what the recorders answer for, regions below them included.
var hostsOfAllClouds = []string{
	"login.microsoftonline.com", "login.microsoft.com", "mtlsauth.microsoft.com",
	"login.microsoftonline.us", "mtlsauth.microsoftonline.us",
	"login.partner.microsoftonline.cn", "mtlsauth.partner.microsoftonline.cn",
	"login.sovcloud-identity.fr", "mtlsauth.sovcloud-identity.fr",
	"login.sovcloud-identity.de", "mtlsauth.sovcloud-identity.de",
	"login.sovcloud-identity.sg", "mtlsauth.sovcloud-identity.sg",
}

// endpointDemands are those of 5.1 and 5.2.
func endpointDemands() []demand {
	list := []demand{
		{"5.1", "a managed identity asks at the endpoint that IMDS named, under its tenant, without any region logic", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mustGet(vault, acquire.TypeBearer)
			m := a.mtls.requestsTo("token")[0]
			if m.method != "POST" || m.host != regionalMTLS || m.target != "/"+a.tenant+"/oauth2/v2.0/token" {
				t.Errorf("asked %s %s%s", m.method, m.host, m.target)
			}
			a.wantTraffic("metadata 1, attest 1, credential 1, mtls 1")
		}},
		{"5.2", "no instance discovery, and nothing but the token endpoint is asked", func(t *testing.T) {
			for _, bound := range []acquire.Bound{acquire.BoundRequire, acquire.BoundNever} {
				a := newAzure(t, application(t, certApp, certificateEntry(bound)))
				a.mustGet(vault, acquire.TypeBearer)
				for _, m := range slices.Concat(a.mtls.all(), a.login.all()) {
					if m.endpoint != "token" {
						t.Errorf("asked %s%s", m.host, m.target)
					}
				}
			}
		}},
		{"5.2", "a tenant is a GUID or a verified domain", func(t *testing.T) {
			for tenant, ok := range map[string]bool{
				uuid.NewString(): true, "contoso.onmicrosoft.com": true, "common": false, "organizations": false, "consumers": false, "Common": false,
				"": false, "contoso": false, "contoso.com/x": false, "../x": false, "contoso.com?x": false,
			} {
				if err := entra.CheckTenant(tenant); (err == nil) != ok {
					t.Errorf("tenant %q: %v", tenant, err)
				}
			}
		}},
		{"5.2", "an invalid region is ignored and the global host asked", func(t *testing.T) {
			for _, region := range []string{"west us", "westus.evil.example", "west_us", "-westus", "west/us", "WESTUS@"} {
				for _, bound := range []acquire.Bound{acquire.BoundRequire, acquire.BoundNever} {
					if m := askedAt(t, "login.microsoftonline.com", region, bound); m.host != globalMTLS && m.host != globalLogin {
						t.Errorf("region %q leads to %s", region, m.host)
					}
				}
			}
		}},
		{"5.2", "an unknown login host is no cloud", func(t *testing.T) {
			for _, host := range []string{"login.example", "", "evil.login.microsoftonline.com", "login.microsoftonline.com.example", "microsoftonline.com"} {
				if in, ok := cloud.OfLoginHost(host); ok {
					t.Errorf("%q is taken for %s", host, in.Name)
				}
			}
		}},
	}
	for _, row := range cloudRows {
		for _, authority := range append([]string{row.authority}, row.aliases...) {
			for _, way := range []struct {
				name, region, want string
				bound              acquire.Bound
			}{
				{"over mutual TLS", "", row.mtls, acquire.BoundRequire},
				{"over mutual TLS in a region", "westus3", row.regionalMTLS, acquire.BoundRequire},
				{"without", "", row.authority, acquire.BoundNever},
				{"without in a region", "westus3", row.regionalLogin, acquire.BoundNever},
			} {
				list = append(list, demand{"5.2", fmt.Sprintf("%s %s is %s", authority, way.name, way.want), func(t *testing.T) {
					m := askedAt(t, authority, way.region, way.bound)
					if m.host != way.want || m.target != "/"+mustServices(t).tenant+"/oauth2/v2.0/token" {
						t.Errorf("asked %s%s", m.host, m.target)
					}
				}})
			}
		}
	}
	return list
}

// askedAt is the request of an application with a certificate in the cloud of a login host.
func askedAt(t *testing.T, authority, region string, bound acquire.Bound) message {
	t.Helper()
	in, ok := cloud.OfLoginHost(authority)
	if !ok {
		t.Fatalf("%s is in no cloud", authority)
	}
	id := application(t, certApp, certificateEntry(bound))
	id.Application.Authority.Cloud, id.Application.Region = in, region
	a := newAzure(t, id)
	a.mtls.alwaysAnswers("token", grants)
	a.login.alwaysAnswers("token", grants)
	a.mustGet(vault, acquire.TypeBearer)
	seen := slices.Concat(a.mtls.all(), a.login.all())
	if len(seen) != 1 {
		t.Fatalf("%d requests", len(seen))
	}
	return seen[0]
}

// formDemands are those of 5.3 and 5.4.
func formDemands() []demand {
	const pop, bearer = acquire.TypePoP, acquire.TypeBearer
	vm := func(*testing.T) acquire.Identity { return vmIdentity() }
	cert := func(t *testing.T) acquire.Identity {
		return application(t, certApp, certificateEntry(acquire.BoundRequire))
	}
	fic := func(t *testing.T) acquire.Identity { return application(t, ficApp, userEntry(t, acquire.BoundRequire)) }
	classic := func(t *testing.T) acquire.Identity {
		return application(t, certApp, certificateEntry(acquire.BoundNever))
	}
	unbound := func(t *testing.T) acquire.Identity { return application(t, ficApp, userEntry(t, acquire.BoundNever)) }
	const asserted = "client_assertion=A&client_assertion_type=" + bearerType + "&client_id=ID&grant_type=client_credentials&scope=S"
	var list []demand
	for _, column := range []struct {
		name     string
		identity func(t *testing.T) acquire.Identity
		kind     acquire.TokenType
		client   func(*services) string
		form     string // with ID for the client, A for the assertion
	}{
		{"managed identity, mtls_pop", vm, pop, vmID, "client_id=ID&grant_type=client_credentials&scope=S&token_type=mtls_pop"},
		{"managed identity, Bearer", vm, bearer, vmID, "client_id=ID&grant_type=client_credentials&scope=S&token_type=bearer"},
		{"application certificate, mtls_pop", cert, pop, certApp, "client_id=ID&grant_type=client_credentials&scope=S&token_type=mtls_pop"},
		{"application certificate, Bearer over mutual TLS", cert, bearer, certApp, asserted},
		{"application certificate, classic", classic, bearer, certApp, asserted},
		{"federated without certificate, the exchange", unbound, bearer, ficApp, asserted},
		{"federated, the exchange, Bearer", fic, bearer, ficApp, "client_assertion=A&client_assertion_type=" + popType + "&client_id=ID&grant_type=client_credentials&scope=S"},
		{"federated, the exchange, mtls_pop", fic, pop, ficApp, "client_assertion=A&client_assertion_type=" + popType + "&client_id=ID&grant_type=client_credentials&scope=S&token_type=mtls_pop"},
	} {
		send := func(t *testing.T, request acquire.Request) (*azure, message) {
			a := newAzure(t, column.identity(t))
			request.Identity, request.Type = "id", column.kind
			if _, err := a.acquirer.Token(t.Context(), request); err != nil {
				t.Fatal(err)
			}
			seen := slices.Concat(a.mtls.requestsTo("token"), a.login.requestsTo("token"))
			return a, seen[len(seen)-1]
		}
		list = append(list,
			demand{"5.3", column.name + ": these fields and no others", func(t *testing.T) {
				a, m := send(t, acquire.Request{Resource: vault})
				if got, want := m.body, filled(column.form, column.client(a.services), m); got != want {
					t.Errorf("sent %s\nwant %s", got, want)
				}
			}},
			demand{"5.3", column.name + ": claims where there are capabilities", func(t *testing.T) {
				_, m := send(t, acquire.Request{Resource: vault, Capabilities: []string{"cp1"}})
				if got := m.form["claims"]; len(got) != 1 || got[0] != `{"access_token":{"xms_cc":{"values":["cp1"]}}}` {
					t.Errorf("claims are %q", got)
				}
			}},
			demand{"5.3", column.name + ": a trailing slash of the resource stays, but for managed identity v2", func(t *testing.T) {
				want := vault + "//.default"
				if strings.HasPrefix(column.name, "managed identity") {
					want = vault + "/.default"
				}
				_, m := send(t, acquire.Request{Resource: vault + "/"})
				if got := m.form.Get("scope"); got != want {
					t.Errorf("scope is %q, want %q", got, want)
				}
			}},
			demand{"5.4", column.name + ": the headers", func(t *testing.T) { _, m := send(t, acquire.Request{Resource: vault}); checkHeaders(t, m) }},
		)
	}
	return append(list, demand{"5.3", "a resource that ends in /.default is left as it is", func(t *testing.T) {
		if got := entra.Scope(vault + "/.default"); got != vault+"/.default" {
			t.Errorf("scope is %q", got)
		}
	}})
}

const (
	bearerType = "urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer"
	popType    = "urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-pop"
)

func vmID(s *services) string { return s.system.ClientID }

// filled is a form with this case's values in their places.
func filled(form, client string, m message) string {
	values, err := url.ParseQuery(form)
	if err != nil {
		return err.Error()
	}
	for name, text := range map[string]string{"client_id": client, "scope": vault + "/.default", "client_assertion": m.form.Get("client_assertion")} {
		if values.Has(name) {
			values.Set(name, text)
		}
	}
	return values.Encode()
}

func checkHeaders(t *testing.T, m message) {
	t.Helper()
	for name, want := range map[string]string{
		"Content-Type":             "application/x-www-form-urlencoded; charset=utf-8",
		"Accept":                   "application/json",
		"return-client-request-id": "true",
		"x-client-SKU":             "keyagent",
		"x-client-Ver":             "1.2.3",
		"x-client-OS":              "linux",
		"x-ms-lib-capability":      "retry-after, h429",
	} {
		if got := m.header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if uuid.Validate(m.header.Get("client-request-id")) != nil {
		t.Errorf("client-request-id is %q", m.header.Get("client-request-id"))
	}
	for _, name := range []string{"x-ms-client-request-id", "x-client-current-telemetry", "x-ms-PkeyAuth", "x-client-DM", "Cookie", "Authorization"} {
		if got := m.header.Get(name); got != "" {
			t.Errorf("%s is %q, and should be absent", name, got)
		}
	}
}
