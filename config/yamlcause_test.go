package config_test

import (
	"strings"
	"testing"

	"github.com/keyagent/keyagent/config"
)

// An error in YAML is explained with its line and what to write, not in the parser's words alone.
func TestASlipOfYAMLIsSaidWithItsCause(t *testing.T) {
	const rule = "identities: [{name: vm, managed_identity: {}}]\nrules:\n  # [*] would be a slip\n  - name: r\n    users: [root]\n    identities: [vm]\n"
	for _, tc := range []struct{ name, file, want string }{
		{"an asterisk in a list", rule + "    resources: [*]\n", `line 7: probably * is not in quotes: write "*"`},
		{"an asterisk alone", rule + "    resources: *\n", `line 7: probably * is not in quotes: write "*"`},
		{"an asterisk as an entry", rule + "    resources:\n      - *\n", `line 8: probably * is not in quotes: write "*"`},
		{"a value that begins with an asterisk", rule + "    resources: [*hunter2]\n", `line 7: probably a value that begins with * is not in quotes`},
		{"a value that begins with an ampersand", rule + "    resources: [& hunter2]\n", `line 7: probably a value that begins with & is not in quotes`},
		{"a tab before an entry", "identities:\n\t- name: hunter2\n", "line 2: probably a tab in the indentation: YAML takes spaces only"},
		{"a tab before a setting", "identities:\n  - name: vm\n\t  managed_identity: {}\n", "line 3: probably a tab in the indentation"},
		{"a tab after spaces", "identities:\n  - name: vm\n  \tmanaged_identity: {}\n", "line 3: probably a tab in the indentation"},
		{"an at sign", "socket: @hunter2\n", "line 1: probably a value that begins with @, ` or % is not in quotes"},
		{"a colon in a value", "tpm: unix: /run/tpm.sock\n", "line 1: probably a colon and a space within a value that is not in quotes"},
		{"a setting that is too far right", "identities:\n  - name: vm\n      managed_identity: {}\n", "line 3: probably a setting that is indented further than the one above it"},
		{"a quotation mark", "socket: \"hunter2\n", "line 1: probably a quotation mark without its counterpart"},
		{"something else", "rules: [\n  a,\n  b\nidentities: x\n", "did not find expected ',' or ']'"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := config.Parse("test.yaml", []byte(tc.file))
			if err == nil || !strings.Contains(err.Error(), "test.yaml: ") || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if err != nil && tc.name != "a value that begins with an asterisk" && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error holds a value: %v", err)
			}
		})
	}
}

// Without attestation, no certificate is ever issued on evidence.
func TestNothingIsAttestedWithoutAttestation(t *testing.T) {
	const off = "attestation: {provider: none}\n"
	floor := func(floor, kind string) string {
		return off + "identities:\n  - name: vm\n    min_strength: " + floor + "\n    " + kind + "\n"
	}
	application := func(credential string) string {
		return "application:\n      tenant: contoso.com\n      client_id: 8b0c3d0e-0000-4000-8000-00000000c1d1\n      credentials: [" + credential + "]"
	}
	const want = "identities[0].min_strength: without attestation (attestation.provider: none) no certificate is issued on evidence, so no token reaches attested; it can be tpm"
	for name, kind := range map[string]string{
		"a managed identity":                          "managed_identity: {}",
		"a managed identity that prefers to be bound": "managed_identity: {bound: prefer}",
		"an application":                              application("{source: managed_identity, managed_identity: {}}"),
	} {
		if _, err := config.Parse("test.yaml", []byte(floor("attested", kind))); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", name, err)
		}
		if _, err := config.Parse("test.yaml", []byte(floor("tpm", kind))); err != nil {
			t.Errorf("%s: with the floor tpm: %v", name, err)
		}
		if _, err := config.Parse("test.yaml", []byte(strings.TrimPrefix(floor("attested", kind), off))); err != nil {
			t.Errorf("%s: with attestation: %v", name, err)
		}
	}
}
