package upstream_test

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/internal/upstream"
)

func TestUnverifiedClaims(t *testing.T) {
	encode := base64.RawURLEncoding.EncodeToString
	for _, tc := range []struct{ name, jwt, want string }{
		{"a JWT", "e30." + encode([]byte(`{"appid":"a"}`)) + ".c2ln", "a"},
		{"one without signature", "e30." + encode([]byte(`{"appid":"a"}`)) + ".", "a"},
		{"other letters are another name", "e30." + encode([]byte(`{"appid":"a","AppID":"b"}`)) + ".", "a"},
		{"an encrypted token", "a.b.c.d.e", ""},
		{"a member twice", "e30." + encode([]byte(`{"appid":"a","appid":"b"}`)) + ".", ""},
		{"an array", "e30." + encode([]byte(`["a"]`)) + ".", ""},
		{"padding", "e30." + base64.URLEncoding.EncodeToString([]byte(`{"appid":"a"}`)) + ".", ""},
		{"more than one object", "e30." + encode([]byte(`{"appid":"a"}{}`)) + ".", ""},
		{"an opaque token", "secret", ""},
		{"nothing", "", ""},
	} {
		var claims struct {
			AppID string `json:"appid"`
		}
		err := upstream.UnverifiedClaims(tc.jwt, &claims)
		if (err == nil) != (tc.want != "") || err == nil && claims.AppID != tc.want {
			t.Errorf("%s: got %q, %v; want %q", tc.name, claims.AppID, err, tc.want)
		}
		if err != nil && tc.jwt != "" && strings.Contains(err.Error(), tc.jwt) {
			t.Errorf("%s: the error shows the token: %v", tc.name, err)
		}
	}
}

// FuzzUnverifiedClaims: what is accepted is accepted by the standard library, too.
func FuzzUnverifiedClaims(f *testing.F) {
	f.Add([]byte(`{"appid":"a","cnf":{"x5t#S256":"b"}}`))
	f.Add([]byte(`{"deep":[[[[{}]]]]}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		var claims struct {
			AppID string `json:"appid"`
		}
		if upstream.UnverifiedClaims("e30."+base64.RawURLEncoding.EncodeToString(payload)+".c2ln", &claims) == nil && !json.Valid(payload) {
			t.Errorf("accepted %q", payload)
		}
	})
}
