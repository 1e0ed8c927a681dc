package agentapi_test

import (
	"encoding/json"
	"errors"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/agentapi/wire"
)

// The requests that unmodified SDKs were seen to send, parameter by parameter.
func TestIMDSRequestsOfSDKs(t *testing.T) {
	encoded := url.QueryEscape(vault)
	rules := rulesFor(os.Geteuid())
	rules.Rules[0].Identities = []string{"shop"}
	a := start(t, config(working, rules))
	msal := []string{"x-client-SKU", "MSAL.Go", "x-client-Ver", "1.10.1", "x-ms-client-request-id", "6c8a8a8e-0000-4000-8000-000000000000"}
	tests := []struct {
		name, target string
		headers      []string
		resource     string // echoed
	}{
		{"azidentity for Go: encoded, resource last", "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=" + encoded, msal, vault},
		{"azidentity for Go: resource first", "/metadata/identity/oauth2/token?resource=" + encoded + "&api-version=2018-02-01", msal, vault},
		{"MSAL Go: user-assigned, selector in the middle", "/metadata/identity/oauth2/token?api-version=2018-02-01&client_id=" + shopClient + "&resource=" + encoded, msal, vault},
		{"@azure/identity: content type on a GET, trailing slash from the pod identity host", "/metadata/identity/oauth2/token/?resource=" + encoded + "&api-version=2018-02-01", append([]string{"Content-Type", "application/x-www-form-urlencoded"}, msal...), vault},
		{"msal-node: object id", "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=" + encoded + "&object_id=" + shopObject, []string{"Content-Type", "application/x-www-form-urlencoded"}, vault},
		{"msal-node: newer parameters", "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=" + encoded + "&xms_cc=cp1&token_sha256_to_refresh=abc", nil, vault},
		{"azure-identity for Python: not encoded", "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=" + vault, []string{"User-Agent", "azsdk-python-identity/1.13.0b2"}, vault},
		{"azure-identity for Python: resource id", "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=" + vault + "&msi_res_id=" + url.QueryEscape(shopARM), nil, vault},
		{"resource id under the App Service name", "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=" + vault + "&mi_res_id=" + shopARM, nil, vault},
		{"resource id in another case, as Azure writes it at times", "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=" + vault + "&msi_res_id=" + strings.ToLower(shopARM), nil, vault},
		{"client id in upper case", "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=" + vault + "&client_id=" + strings.ToUpper(shopClient), nil, vault},
		{"az login --identity: resource with a slash", "/metadata/identity/oauth2/token?resource=" + url.QueryEscape(vault+"/") + "&api-version=2018-02-01", []string{"User-Agent", "python-requests/2.28.1", "Accept", "*/*", "Connection", "keep-alive"}, vault + "/"},
		{"msal4j: duplicate slash", "//metadata/identity/oauth2/token?api-version=2018-02-01&resource=" + encoded, nil, vault},
		{"a scope for a resource", "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=" + encoded + "%2F.default", nil, vault},
		{"curl with bypass_cache", "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=" + vault + "&bypass_cache=true", nil, vault},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := a.get(t, tt.target, append([]string{"Metadata", "true"}, tt.headers...)...)
			if got.status != 200 {
				t.Fatalf("%d %s", got.status, got.body)
			}
			token := decode[wire.IMDSToken](t, got.body)
			if token.AccessToken.Reveal() != tokenText {
				t.Error("another token")
			}
			token.AccessToken = wire.Secret{}
			want := `{"access_token":"","client_id":"` + vmClient + `","expires_in":"3600","expires_on":"1795438800","ext_expires_in":"3600",` +
				`"not_before":"1795434900","refresh_token":"","resource":"` + tt.resource + `","token_type":"Bearer"}`
			if again, err := json.Marshal(token); err != nil || string(again) != want {
				t.Errorf("got  %s (%v)\nwant %s", again, err, want)
			}
		})
	}
}

// Programs send the version that they were written for, and that is not only the documented one.
func TestIMDSVersions(t *testing.T) {
	rules := rulesFor(os.Geteuid())
	rules.Rules[0].Identities = []string{"shop"}
	a := start(t, config(working, rules))
	for _, version := range []string{"2018-02-01", "2018-02-02", "2019-08-01", "2019-08-15", "2019-11-01", "2020-06-01", "2021-01-01", "2021-05-01", "2024-02-29", "2025-04-07", "2031-12-31"} {
		got := a.get(t, wire.PathIMDSToken+"?api-version="+version+"&resource="+vault, "Metadata", "true")
		if got.status != 200 || decode[wire.IMDSToken](t, got.body).TokenType != "Bearer" {
			t.Errorf("%s: %d %s", version, got.status, got.body)
		}
	}
}

func TestIMDSErrors(t *testing.T) {
	a := start(t, config(failing(errors.New("must not be asked")), rulesFor(os.Geteuid())))
	const version = "?api-version=2018-02-01"
	resource := "&resource=" + vault
	tests := []struct {
		name, query, metadata string
		status                int
		error, description    string // part of it
	}{
		{"the probe of Go and JavaScript: no query, no Metadata", "", "", 400, "invalid_request", "Required metadata header"},
		{"the probe of Python: a query, no Metadata", version + resource, "", 400, "invalid_request", "Required metadata header"},
		{"Metadata with another value", version + resource, "yes", 400, "invalid_request", "Required metadata header"},
		{"no api-version", "?resource=" + vault, "true", 400, "invalid_request", "api-version"},
		{"an api-version before all others", "?api-version=2018-01-31" + resource, "true", 400, "invalid_request", "2018-02-01 or later"},
		{"the api-version of Azure Functions", "?api-version=2017-09-01" + resource, "true", 400, "invalid_request", "api-version"},
		{"the api-version of Service Fabric", "?api-version=2019-07-01-preview" + resource, "true", 400, "invalid_request", "api-version"},
		{"an api-version that is no day", "?api-version=2021-02-30" + resource, "true", 400, "invalid_request", "api-version"},
		{"an api-version of another form", "?api-version=2021-2-1" + resource, "true", 400, "invalid_request", "api-version"},
		{"an api-version with more behind it", "?api-version=2021-02-01T00:00:00Z" + resource, "true", 400, "invalid_request", "api-version"},
		{"an api-version that is a number", "?api-version=20210201" + resource, "true", 400, "invalid_request", "api-version"},
		{"two api-versions", version + "&api-version=2021-02-01" + resource, "true", 400, "invalid_request", "api-version"},
		{"no resource", version, "true", 400, "invalid_request", "resource"},
		{"an empty resource", version + "&resource=", "true", 400, "invalid_request", "resource"},
		{"the resource twice", version + resource + "&resource=" + storage, "true", 400, "invalid_request", "resource"},
		{"two scopes in one", version + resource + "+" + storage, "true", 400, "invalid_request", "character"},
		{"a malformed query", version + "&resource=%zz", "true", 400, "invalid_request", "malformed"},
		{"two selectors", version + resource + "&client_id=" + shopClient + "&object_id=" + shopObject, "true", 400, "invalid_request", "more than one"},
		{"one selector twice", version + resource + "&client_id=" + shopClient + "&client_id=" + vmClient, "true", 400, "invalid_request", "client_id"},
		{"both names of the resource id", version + resource + "&msi_res_id=" + shopARM + "&mi_res_id=" + shopARM, "true", 400, "invalid_request", "more than one"},
		{"an empty selector does not select an identity without that id", version + resource + "&client_id=", "true", 400, "invalid_request", "client_id"},
		{"a client id that does not exist", version + resource + "&client_id=00000000-0000-4000-8000-000000000000", "true", 400, "identity_not_found", "Identity not found"},
		{"a client id that no rule gives the caller", version + resource + "&client_id=8b0c3d0e-0000-4000-8000-00000000c1d9", "true", 400, "identity_not_found", "Identity not found"},
		{"a client id for an object id", version + resource + "&object_id=" + shopClient, "true", 400, "identity_not_found", "Identity not found"},
		{"a prefix of a client id", version + resource + "&client_id=" + shopClient[:8], "true", 400, "identity_not_found", "Identity not found"},
		{"the name of the native API", version + resource + "&client_id=shop", "true", 400, "identity_not_found", "Identity not found"},
		{"a resource that no rule gives the caller", version + "&resource=" + storage + "&client_id=" + shopClient, "true", 403, "access_denied", "no rule"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var headers []string
			if tt.metadata != "" {
				headers = []string{"Metadata", tt.metadata}
			}
			got := a.get(t, wire.PathIMDSToken+tt.query, headers...)
			said := decode[wire.IMDSError](t, got.body)
			if got.status != tt.status || said.Error != tt.error || !strings.Contains(said.Description, tt.description) {
				t.Errorf("got %d %+v, want %d %s: …%s…", got.status, said, tt.status, tt.error, tt.description)
			}
			if strings.Contains(said.Description, "backup") {
				t.Errorf("another's identity is named: %q", said.Description)
			}
			if record := a.audit.lastRecord(t); record["decision"] != "refused" || record["route"] != wire.PathIMDSToken {
				t.Errorf("audit %v", record)
			}
		})
	}
	t.Run("the audit says which identity was asked for", func(t *testing.T) {
		a.get(t, wire.PathIMDSToken+version+resource+"&client_id=8b0c3d0e-0000-4000-8000-00000000c1d9", "Metadata", "true")
		if got := a.audit.lastRecord(t)["identity"]; got != "client_id=8b0c3d0e-0000-4000-8000-00000000c1d9" {
			t.Errorf("identity %v", got)
		}
	})
}

// One application id may stand behind two identities of the configuration.
func TestIMDSSelectorOfTwoIdentities(t *testing.T) {
	rules := rulesFor(os.Geteuid())
	cfg := config(working, rules)
	cfg.Identities[0].ClientID = shopClient
	target := wire.PathIMDSToken + "?api-version=2018-02-01&resource=" + vault + "&client_id=" + shopClient

	t.Run("it is refused if the caller may have both", func(t *testing.T) {
		got := start(t, cfg).get(t, target, "Metadata", "true")
		if said := decode[wire.IMDSError](t, got.body); got.status != 400 || !strings.Contains(said.Description, "vm, shop") {
			t.Errorf("%d %+v", got.status, said)
		}
	})
	t.Run("it is the one that the caller may have", func(t *testing.T) {
		rules.Rules[0].Identities = []string{"vm"}
		a := start(t, cfg)
		if got := a.get(t, target, "Metadata", "true"); got.status != 200 {
			t.Errorf("%d %s", got.status, got.body)
		}
		if got := a.audit.lastRecord(t)["identity"]; got != "vm" {
			t.Errorf("identity %v", got)
		}
	})
}
