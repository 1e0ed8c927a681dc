package client_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/client"
)

func TestClaimsChallenge(t *testing.T) {
	std := base64.StdEncoding.EncodeToString([]byte(challengeClaims))
	insufficient := func(claims string) string { return `Bearer error="insufficient_claims", claims="` + claims + `"` }
	sized := func(n int) string { return `{"a":"` + strings.Repeat("x", n-len(`{"a":""}`)) + `"}` }
	large := func(n int) string { return base64.StdEncoding.EncodeToString([]byte(sized(n))) }
	urlSafe := `{"a":"???>>>"}`
	for name, c := range map[string]struct {
		headers []string
		want    string
	}{
		"as Microsoft Graph sends it":           {[]string{`Bearer realm="", authorization_uri="https://login.microsoftonline.com/common/oauth2/authorize", error="insufficient_claims", claims="` + std + `"`}, challengeClaims},
		"as Azure Resource Manager sends it":    {[]string{`Bearer authorization_uri="https://login.windows.net/", error="insufficient_claims", error_description="User session has been revoked", claims="` + std + `"`}, challengeClaims},
		"without padding":                       {[]string{insufficient(strings.TrimRight(std, "="))}, challengeClaims},
		"in the alphabet of URLs":               {[]string{insufficient(base64.RawURLEncoding.EncodeToString([]byte(urlSafe)))}, urlSafe},
		"the other alphabet, the same claims":   {[]string{insufficient(base64.StdEncoding.EncodeToString([]byte(urlSafe)))}, urlSafe},
		"the scheme and names in other letters": {[]string{`bearer ERROR="insufficient_claims", Claims="` + std + `"`}, challengeClaims},
		"spaces around what is equal":           {[]string{`Bearer error = "insufficient_claims" , claims = "` + std + `"`}, challengeClaims},
		"values without quotes":                 {[]string{`Bearer error=insufficient_claims, claims=` + std}, challengeClaims},
		"behind another challenge":              {[]string{`PoP nonce="abc", Bearer error="insufficient_claims", claims="` + std + `"`}, challengeClaims},
		"behind one with a single value":        {[]string{`Negotiate YWJj==, Bearer error="insufficient_claims", claims="` + std + `"`}, challengeClaims},
		"behind a scheme without anything":      {[]string{`Negotiate, Bearer error="insufficient_claims", claims="` + std + `"`}, challengeClaims},
		"in another header":                     {[]string{`Basic realm="x"`, insufficient(std)}, challengeClaims},
		"a quote in a value":                    {[]string{`Bearer realm="a\", claims=\"e30=", error="insufficient_claims", claims="` + std + `"`}, challengeClaims},
		"the largest":                           {[]string{insufficient(large(wire.MaxClaimsBytes))}, sized(wire.MaxClaimsBytes)},

		"too large":                         {[]string{insufficient(large(wire.MaxClaimsBytes + 1))}, ""},
		"a header too large":                {[]string{`Bearer realm="` + strings.Repeat("x", 16<<10) + `"`, insufficient(std)}, ""},
		"none":                              {nil, ""},
		"another error":                     {[]string{`Bearer error="invalid_token", claims="` + std + `"`}, ""},
		"no error":                          {[]string{`Bearer claims="` + std + `"`}, ""},
		"no claims":                         {[]string{`Bearer error="insufficient_claims"`}, ""},
		"another scheme":                    {[]string{`PoP error="insufficient_claims", claims="` + std + `"`}, ""},
		"claims of another scheme":          {[]string{`Bearer error="insufficient_claims", PoP claims="` + std + `"`}, ""},
		"no base64":                         {[]string{insufficient("{}")}, ""},
		"no JSON":                           {[]string{insufficient("eHg=")}, ""},
		"null":                              {[]string{insufficient("bnVsbA==")}, ""},
		"a list":                            {[]string{insufficient("W10=")}, ""},
		"text behind the object":            {[]string{insufficient(base64.StdEncoding.EncodeToString([]byte(`{}{}`)))}, ""},
		"two claims":                        {[]string{insufficient(std) + `, claims="e30="`}, ""},
		"three claims":                      {[]string{insufficient(std) + `, claims="e30=", claims="e30="`}, ""},
		"claims inside of another value":    {[]string{`Bearer error="insufficient_claims", realm="claims=` + std + `"`}, ""},
		"a quoted string that does not end": {[]string{`Bearer error="insufficient_claims", claims="` + std}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := client.ClaimsChallenge(http.Header{"Www-Authenticate": c.headers})
			if ok != (c.want != "") || got != c.want {
				t.Errorf("got %q, %t", got, ok)
			}
		})
	}
}

// Whatever a resource sends: claims are an object of bounded size, which is there to be sent to
// Entra.
func FuzzClaimsChallenge(f *testing.F) {
	for _, header := range []string{
		`Bearer realm="", error="insufficient_claims", claims="eyJhIjoxfQ=="`, `Negotiate YWJj==, Bearer error=insufficient_claims, claims=e30`,
		`Bearer error="insufficient_claims", claims="e30=", claims="e30="`, `Bearer error="insufficient_claims", claims="\e30="`,
		`,,, Bearer`, `Bearer =`, `"`, `Bearer a="\`, "Bearer\ta=b,\tc=d", `a b=c=d, e`,
	} {
		f.Add(header)
	}
	f.Fuzz(func(t *testing.T, header string) {
		claims, ok := client.ClaimsChallenge(http.Header{"Www-Authenticate": {header}})
		if ok != (claims != "") || len(claims) > wire.MaxClaimsBytes {
			t.Fatalf("%q: %q, %t", header, claims, ok)
		}
		var object map[string]any
		if ok && (json.Unmarshal([]byte(claims), &object) != nil || object == nil) {
			t.Errorf("%q: %q is no object", header, claims)
		}
		if ok && !strings.Contains(strings.ToLower(header), "bearer") {
			t.Errorf("%q: that is no Bearer challenge", header)
		}
	})
}
