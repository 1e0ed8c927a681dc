package secret_test

import (
	"testing"

	"github.com/keyagent/keyagent/internal/secret"
)

func TestTokensAreHidden(t *testing.T) {
	const token = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhcHAifQ.c2ln-bmF0_dXJl"
	for text, want := range map[string]string{
		"AADSTS700027: the assertion " + token + " is not valid": "AADSTS700027: the assertion [redacted] is not valid",
		`{"a":"` + token + `","b":"` + token + `"}`:              `{"a":"[redacted]","b":"[redacted]"}`,
		"half of one: " + token[:30]:                             "half of one: [redacted]",
		"encrypted: eyJhbGciOiJkaXIifQ..aXY.Y2lwaGVy.dGFn":       "encrypted: [redacted]",
		"a challenge: eyJhY2Nlc3NfdG9rZW4iOnt9fQ":                "a challenge: eyJhY2Nlc3NfdG9rZW4iOnt9fQ",
		"eyJ and eyJ.": "eyJ and eyJ.",
		"nothing":      "nothing",
		"":             "",
	} {
		if got := secret.Hide(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}
