package entra_test

import (
	"net/url"
	"testing"
)

func TestFormsAreRefused(t *testing.T) {
	w := newWorld(t)
	c := w.client(t, w.issue(t, nil), w.key)
	for name, x := range map[string]struct {
		change func(url.Values)
		path   string
		status int
		oauth  string
		code   int
	}{
		"another tenant":     {path: "/" + otherID + "/oauth2/v2.0/token", status: 400, oauth: "invalid_request", code: 90002},
		"no grant type":      {change: func(f url.Values) { f.Del("grant_type") }, status: 400, oauth: "invalid_request", code: 900144},
		"another grant type": {change: func(f url.Values) { f.Set("grant_type", "password") }, status: 400, oauth: "unsupported_grant_type", code: 70003},
		"a bound token for a resource that takes none": {
			change: func(f url.Values) { f.Set("token_type", "mtls_pop"); f.Set("scope", management+"/.default") },
			status: 400, oauth: "invalid_request", code: 392196,
		},
		"another token type":      {change: func(f url.Values) { f.Set("token_type", "pop") }, status: 400, oauth: "invalid_request", code: 90023},
		"an assertion":            {change: func(f url.Values) { f.Set("client_assertion", "x") }, status: 400, oauth: "invalid_request", code: 90023},
		"a type of assertion":     {change: func(f url.Values) { f.Set("client_assertion_type", "x") }, status: 400, oauth: "invalid_request", code: 90023},
		"a secret":                {change: func(f url.Values) { f.Set("client_secret", "x") }, status: 400, oauth: "invalid_request", code: 90023},
		"claims that are no JSON": {change: func(f url.Values) { f.Set("claims", "cp1") }, status: 400, oauth: "invalid_request", code: 50000153},
		"claims that are a list":  {change: func(f url.Values) { f.Set("claims", "[]") }, status: 400, oauth: "invalid_request", code: 50000153},
		"claims without object":   {change: func(f url.Values) { f.Set("claims", "null") }, status: 400, oauth: "invalid_request", code: 50000153},
		"capabilities as a string": {
			change: func(f url.Values) { f.Set("claims", `{"access_token":{"xms_cc":"cp1"}}`) }, status: 400, oauth: "invalid_request", code: 50000153,
		},
		"no capabilities": {
			change: func(f url.Values) { f.Set("claims", `{"access_token":{"xms_cc":{"values":[]}}}`) }, status: 400, oauth: "invalid_request", code: 50000153,
		},
		"claims twice":          {change: func(f url.Values) { f["claims"] = []string{"{}", "{}"} }, status: 400, oauth: "invalid_request", code: 90023},
		"two scopes":            {change: func(f url.Values) { f.Add("scope", vault+"/.default") }, status: 400, oauth: "invalid_request", code: 900144},
		"a scope not /.default": {change: func(f url.Values) { f.Set("scope", vault+"/read") }, status: 400, oauth: "invalid_scope", code: 1002012},
		"a list of scopes":      {change: func(f url.Values) { f.Set("scope", "openid "+vault+"/.default") }, status: 400, oauth: "invalid_scope", code: 1002012},
		"an unknown resource":   {change: func(f url.Values) { f.Set("scope", "https://x.example/.default") }, status: 400, oauth: "invalid_resource", code: 500011},
		"a doubled slash":       {change: func(f url.Values) { f.Set("scope", vault+"//.default") }, status: 400, oauth: "invalid_resource", code: 500011},
	} {
		t.Run(name, func(t *testing.T) {
			form := goodForm()
			if x.change != nil {
				x.change(form)
			}
			if x.path == "" {
				x.path = tokenPath
			}
			a, err := w.post(t, c, x.path, form)
			if err != nil {
				t.Fatal(err)
			}
			checkRefusal(t, a, x.status, x.oauth, x.code)
		})
	}
	for _, name := range []string{"client_info", "x-client-SKU", "x-client-VER", "x-ms-lib-capability", "client-request-id", "x"} {
		form := goodForm()
		form.Set(name, "2")
		if a, err := w.post(t, c, tokenPath, form); err != nil || a.status != 200 {
			t.Errorf("%s, which clients send or is unknown: %d: %v", name, a.status, err)
		}
	}
	form := goodForm()
	form.Del("token_type")
	if a, err := w.post(t, c, tokenPath, form); err != nil || a.status != 200 || a.fields.TokenType != "Bearer" {
		t.Errorf("no token type: %d %s: %v", a.status, a.fields.TokenType, err)
	}
}
