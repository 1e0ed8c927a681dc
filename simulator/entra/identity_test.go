package entra_test

import (
	"encoding/json"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/simulator/entra"
	"github.com/keyagent/keyagent/simulator/internal/endpoint"
)

const exchange = "api://AzureADTokenExchange"

func TestABoundTokenOfAManagedIdentityNamesTheCertificate(t *testing.T) {
	w := newWorld(t)
	certificate := w.issue(t, nil)
	form := goodForm()
	form.Set("token_type", "mtls_pop")
	a, err := w.post(t, w.client(t, certificate, w.key), tokenPath, form)
	if err != nil || a.status != 200 || a.fields.TokenType != "mtls_pop" {
		t.Fatalf("answer %d %s: %v", a.status, a.body, err)
	}
	claims := w.claims(t, a.fields.AccessToken)
	cnf, _ := claims["cnf"].(map[string]any)
	if cnf["x5t#S256"] != endpoint.Thumbprint(certificate.Raw) || claims["xms_tb"] == nil {
		t.Errorf("claims %v", claims)
	}
}

func TestATokenForTheTokenExchangeIsAnAssertion(t *testing.T) {
	w := newWorld(t)
	form := goodForm()
	form.Set("scope", exchange+"/.default")
	a, err := w.post(t, w.client(t, w.issue(t, nil), w.key), tokenPath, form)
	if err != nil || a.status != 200 {
		t.Fatalf("answer %d %s: %v", a.status, a.body, err)
	}
	claims := w.claims(t, a.fields.AccessToken)
	for name, want := range map[string]any{
		"aud": exchange, "iss": w.login + "/" + tenantID + "/v2.0", "ver": "2.0", "sub": objectID, "oid": objectID, "cnf": nil, "xms_tb": nil,
	} {
		if claims[name] != want {
			t.Errorf("claim %s is %v, want %v", name, claims[name], want)
		}
	}
}

func TestATenantMayHaveNoBoundTokens(t *testing.T) {
	w := newWorld(t)
	w.server.SetTenant(entra.TenantPolicy{DenyBound: true})
	c := w.client(t, w.issue(t, nil), w.key)
	form := goodForm()
	form.Set("token_type", "mtls_pop")
	a, err := w.post(t, c, tokenPath, form)
	if err != nil {
		t.Fatal(err)
	}
	checkRefusal(t, a, 400, "invalid_request", 3921996)
	if a, err = w.post(t, c, tokenPath, goodForm()); err != nil || a.status != 200 {
		t.Errorf("a Bearer token: %d %s: %v", a.status, a.body, err)
	}
}

func TestAManagedIdentityIsNoClientOfTheLoginFace(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct {
		change func(url.Values)
		status int
		oauth  string
		code   int
	}{
		"without credential": {func(url.Values) {}, 401, "invalid_client", 7000218},
		"with an assertion": {func(f url.Values) {
			f.Set("client_assertion", "x")
			f.Set("client_assertion_type", bearerType)
		}, 400, "invalid_request", 90023},
	} {
		t.Run(name, func(t *testing.T) {
			form := goodForm()
			c.change(form)
			a, err := send(t, w.client(t, w.issue(t, nil), w.key), w.login+tokenPath, form)
			if err != nil {
				t.Fatal(err)
			}
			checkRefusal(t, a, c.status, c.oauth, c.code)
		})
	}
}

func TestClaimsThatAreAskedFor(t *testing.T) {
	w := newWorld(t)
	c := w.client(t, w.issue(t, nil), w.key)
	form := goodForm()
	form.Set("claims", `{"access_token":{"xms_cc":{"values":["cp1"]},"nbf":{"essential":true,"value":"1700000000"},"acrs":{"value":"c1"}}}`)
	a, err := w.post(t, c, tokenPath, form)
	if err != nil || a.status != 200 {
		t.Fatalf("answer %d %s: %v", a.status, a.body, err)
	}
	claims := w.claims(t, a.fields.AccessToken)
	if !reflect.DeepEqual(claims["xms_cc"], []any{"cp1"}) || !reflect.DeepEqual(claims["acrs"], []any{"c1"}) {
		t.Errorf("claims %v", claims)
	}
	detail, err := json.Marshal(w.journal.Operation(entra.OpToken)[0].Detail["claims"])
	if err != nil || !strings.Contains(string(detail), `"nbf":{"essential":true,"value":"1700000000"}`) || strings.Contains(string(detail), "xms_cc") {
		t.Errorf("journal: %s: %v", detail, err)
	}
}

func TestJournalOfATokenRequest(t *testing.T) {
	w := newWorld(t)
	form := goodForm()
	form.Set("token_type", "mtls_pop")
	if _, err := w.post(t, w.client(t, w.issue(t, nil), w.key), tokenPath, form); err != nil {
		t.Fatal(err)
	}
	d := w.journal.Operation(entra.OpToken)[0].Detail
	headers, _ := d["headers"].(map[string]string)
	if d["client_id"] != clientID || d["scope"] != vault+"/.default" || d["token_type"] != "mtls_pop" || d["flow"] != "managed_identity" ||
		!slices.Equal(d["form"].([]string), []string{"client_id", "grant_type", "scope", "token_type"}) ||
		headers["client-request-id"] != "present" || headers["return-client-request-id"] != "true" || headers["content-type"] == "" {
		t.Errorf("journal: %v", d)
	}
}

func TestTokensForTheMetadataService(t *testing.T) {
	w := newWorld(t)
	for resource, ok := range map[string]bool{vault: true, vault + "/": true, exchange: true, "https://x.example": false, "": false} {
		token, life, err := w.server.ManagedIdentityToken(clientID, resource)
		if (err == nil) != ok || (ok && (life != entra.DefaultTokenLife || w.claims(t, token)["aud"] != resource || w.claims(t, token)["oid"] != objectID)) {
			t.Errorf("resource %q: %v", resource, err)
		}
	}
	if _, _, err := w.server.ManagedIdentityToken(appID, vault); err == nil {
		t.Error("an application has got a managed identity's token")
	}
}
