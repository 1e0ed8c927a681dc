package entra_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/acquire/entra"
)

func TestMergeClaims(t *testing.T) {
	cp1 := []string{"cp1"}
	for _, tc := range []struct {
		name         string
		capabilities []string
		claims, want string
	}{
		{"nothing", nil, "", ""},
		{"capabilities alone", cp1, "", `{"access_token":{"xms_cc":{"values":["cp1"]}}}`},
		{"several capabilities", []string{"cp1", "cp2"}, "", `{"access_token":{"xms_cc":{"values":["cp1","cp2"]}}}`},
		{"a challenge alone", nil, `{"access_token": {"nbf": {"essential": true, "value": "1790000000"}}}`, `{"access_token":{"nbf":{"essential":true,"value":"1790000000"}}}`},
		{"both", cp1, `{"access_token":{"nbf":{"essential":true}}}`, `{"access_token":{"nbf":{"essential":true},"xms_cc":{"values":["cp1"]}}}`},
		{"beside the access token", cp1, `{"id_token":{"a":1},"x":[]}`, `{"access_token":{"xms_cc":{"values":["cp1"]}},"id_token":{"a":1},"x":[]}`},
		{"no conditions", cp1, `{"access_token":null}`, `{"access_token":{"xms_cc":{"values":["cp1"]}}}`},
		{"null elsewhere stays", nil, `{"access_token":{"acrs":null}}`, `{"access_token":{"acrs":null}}`},
		{"numbers stay as they came", nil, `{"a":1790000000123456789,"b":1.50}`, `{"a":1790000000123456789,"b":1.50}`},
		{"sixteen levels", nil, strings.Repeat(`{"a":`, 16) + "1" + strings.Repeat("}", 16), strings.Repeat(`{"a":`, 16) + "1" + strings.Repeat("}", 16)},
	} {
		if got, err := entra.MergeClaims(tc.capabilities, tc.claims); err != nil || got != tc.want {
			t.Errorf("%s: got %s, %v; want %s", tc.name, got, err, tc.want)
		}
	}
}

func TestClaimsThatAreRefused(t *testing.T) {
	for _, tc := range []struct{ name, claims, want string }{
		{"no JSON", "nbf", "not JSON"},
		{"an array", "[]", "not a JSON object"},
		{"null", "null", "not a JSON object"},
		{"two objects", "{}{}", "follows"},
		{"a brace too many", "{}}", "follows"},
		{"a member twice", `{"access_token":{},"access_token":{"a":1}}`, "twice"},
		{"over 8 KiB", `{"a":"` + strings.Repeat("x", 8<<10) + `"}`, "8192 bytes"},
		{"seventeen objects deep", strings.Repeat(`{"a":`, 17) + "1" + strings.Repeat("}", 17), "16 levels"},
		{"seventeen arrays deep", `{"a":` + strings.Repeat("[", 16) + strings.Repeat("]", 16) + "}", "16 levels"},
		{"as deep as it gets", `{"a":` + strings.Repeat("[", 4000) + strings.Repeat("]", 4000) + "}", "16 levels"},
		{"an empty object", "{}", "nothing is asked for"},
		{"empty objects", `{"access_token":{"acrs":{}},"id_token":{}}`, "nothing is asked for"},
		{"capabilities", `{"access_token":{"xms_cc":{"values":["cp1"]}}}`, "xms_cc"},
		{"capabilities of another token", `{"id_token":{"a":1,"xms_cc":null}}`, "xms_cc"},
		{"access_token is a text", `{"access_token":"x"}`, `member "access_token"`},
	} {
		if got, err := entra.MergeClaims([]string{"cp1"}, tc.claims); err == nil || got != "" || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %q, %v; want an error with %q", tc.name, got, err, tc.want)
		}
	}
}

func FuzzMergeClaims(f *testing.F) {
	f.Add(`{"access_token":{"nbf":{"essential":true}}}`)
	f.Add(`{"access_token":{"xms_cc":{"values":["cp1",{"a":null},7]}}}`)
	f.Add(`{"access_token":null}`)
	f.Fuzz(func(t *testing.T, claims string) {
		got, err := entra.MergeClaims([]string{"cp1"}, claims)
		if err != nil {
			return
		}
		var merged struct {
			AccessToken struct {
				Capabilities struct {
					Values []any `json:"values"`
				} `json:"xms_cc"`
			} `json:"access_token"`
		}
		if json.Unmarshal([]byte(got), &merged) == nil && !slices.Contains(merged.AccessToken.Capabilities.Values, any("cp1")) {
			t.Errorf("the capability is lost: %s", got)
		}
		if strings.Count(got, "xms_cc") < 1 {
			t.Errorf("no capabilities in %s", got)
		}
	})
}
