package entra_test

import (
	"strings"
	"testing"

	"github.com/keyagent/keyagent/acquire/entra"
	"github.com/keyagent/keyagent/internal/cloud"
)

func TestEachCloudHasItsEndpoints(t *testing.T) {
	const path = "/contoso.example/oauth2/v2.0/token"
	for _, tc := range []struct{ cloud, login, mtls, regionalLogin, regionalMTLS, audience string }{
		{"public", "login.microsoftonline.com", "mtlsauth.microsoft.com", "westeurope.login.microsoft.com", "westeurope.mtlsauth.microsoft.com", "api://AzureADTokenExchange"},
		{"us-gov", "login.microsoftonline.us", "mtlsauth.microsoftonline.us", "westeurope.login.microsoftonline.us", "westeurope.mtlsauth.microsoftonline.us", "api://AzureADTokenExchangeUSGov"},
		{"china", "login.partner.microsoftonline.cn", "mtlsauth.partner.microsoftonline.cn", "westeurope.login.partner.microsoftonline.cn", "westeurope.mtlsauth.partner.microsoftonline.cn", "api://AzureADTokenExchangeChina"},
		{"france", "login.sovcloud-identity.fr", "mtlsauth.sovcloud-identity.fr", "westeurope.login.sovcloud-identity.fr", "westeurope.mtlsauth.sovcloud-identity.fr", "api://AzureADTokenExchangeFrance"},
		{"germany", "login.sovcloud-identity.de", "mtlsauth.sovcloud-identity.de", "westeurope.login.sovcloud-identity.de", "westeurope.mtlsauth.sovcloud-identity.de", "api://AzureADTokenExchangeGermany"},
		{"singapore", "login.sovcloud-identity.sg", "mtlsauth.sovcloud-identity.sg", "westeurope.login.sovcloud-identity.sg", "westeurope.mtlsauth.sovcloud-identity.sg", ""},
	} {
		in, ok := cloud.Named(tc.cloud)
		if !ok || in.ExchangeAudience != tc.audience {
			t.Errorf("%s: got %+v, %v", tc.cloud, in, ok)
		}
		a := entra.Authority{Cloud: in, Tenant: "contoso.example"}
		for _, e := range []struct{ got, want string }{
			{a.TokenEndpoint(""), tc.login},
			{a.MTLSTokenEndpoint(""), tc.mtls},
			{a.TokenEndpoint("westeurope"), tc.regionalLogin},
			{a.MTLSTokenEndpoint("westeurope"), tc.regionalMTLS},
			{a.TokenEndpoint("evil.example/"), tc.login},
			{a.MTLSTokenEndpoint("evil.example/"), tc.mtls},
		} {
			if e.got != "https://"+e.want+path {
				t.Errorf("%s: got %q, want host %q", tc.cloud, e.got, e.want)
			}
		}
	}
}

func TestTestPlatformsHaveURLsOfTheirOwn(t *testing.T) {
	a := entra.Authority{Tenant: tenantID, LoginURL: "https://127.0.0.1:8444/", MTLSURL: "https://127.0.0.1:8443"}
	for got, want := range map[string]string{
		a.TokenEndpoint("westeurope"):                                        "https://127.0.0.1:8444/" + tenantID + "/oauth2/v2.0/token",
		a.MTLSTokenEndpoint("westeurope"):                                    "https://127.0.0.1:8443/" + tenantID + "/oauth2/v2.0/token",
		entra.ManagedIdentityEndpoint("https://eu.mtlsauth.example/", "a/b"): "https://eu.mtlsauth.example/a%2Fb/oauth2/v2.0/token",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestValidRegion(t *testing.T) {
	for region, want := range map[string]bool{
		"westeurope": true, "eastus2": true, "usgovvirginia": true, "centraluseuap": true,
		"": false, "West Europe": false, "westEurope": false, "west-europe": false, "2us": false, "eu.evil": false, "eu/": false, "eu\n": false,
		strings.Repeat("a", 63): true, strings.Repeat("a", 64): false,
	} {
		if got := entra.ValidRegion(region); got != want {
			t.Errorf("ValidRegion(%q) = %v", region, got)
		}
	}
}

func TestCheckTenant(t *testing.T) {
	for tenant, want := range map[string]string{
		tenantID:                              "",
		strings.ToUpper(tenantID):             "",
		"contoso.onmicrosoft.com":             "",
		"Contoso.example":                     "",
		"common":                              "many tenants",
		"Organizations":                       "many tenants",
		"consumers":                           "many tenants",
		"":                                    "neither",
		"contoso":                             "neither",
		"contoso.example/":                    "neither",
		"contoso.example?x":                   "neither",
		"../common":                           "neither",
		".example":                            "neither",
		"-a.example":                          "neither",
		"contoso.example\n":                   "neither",
		"{" + tenantID + "}":                  "neither",
		strings.ReplaceAll(tenantID, "-", ""): "neither",
		strings.Repeat("a.", 126) + "ab":      "neither",
	} {
		err := entra.CheckTenant(tenant)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("CheckTenant(%q) = %v, want %q", tenant, err, want)
		}
	}
}
