package entra_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/simulator/entra"
)

func FuzzParseAssertion(f *testing.F) {
	b64 := func(parts ...string) string {
		for i, p := range parts {
			parts[i] = base64.RawURLEncoding.EncodeToString([]byte(p))
		}
		return strings.Join(parts, ".")
	}
	f.Add(b64(`{"alg":"PS256","typ":"JWT","x5t#S256":"x","x5c":["AAAA"]}`, `{"iss":"a","aud":"b","nbf":1,"exp":2,"cnf":{"x5t#S256":"x"}}`, "s"))
	f.Add(b64(`{"alg":"none","x5c":"AAAA"}`, `{"aud":["b"],"exp":1e400}`, ""))
	f.Add(b64(`null`, `[]`, "s"))
	f.Add("..")
	f.Fuzz(func(t *testing.T, compact string) {
		told, err := entra.ParseAssertion(compact)
		if err == nil && strings.Count(compact, ".") != 2 {
			t.Errorf("%q is an assertion: %v", compact, told)
		}
		if err != nil && len(compact) > 20 && strings.Contains(err.Error(), compact) {
			t.Errorf("the error repeats the assertion: %v", err)
		}
	})
}
