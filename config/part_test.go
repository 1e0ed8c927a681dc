package config_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/config"
)

func TestSettingsForAllMachines(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, text string
		settings   string // that it has
		problem    string // part of the error; "" for none
	}{
		{"nothing", "", "", ""},
		{"comments", "# nothing yet\n", "", ""},
		{"some", "proxy: {url: \"http://proxy.example:3128\"}\naudit: {to: journald}\n", "audit proxy", ""},
		{"identities", "identities: [{name: vm, managed_identity: {}}]\n", "", "site.yaml: identities: not in a file"},
		{"rules that are empty", "rules: []\n", "", "site.yaml: rules: not in a file"},
		{"a wrong value", "state_dir: here\n", "", "state_dir: path \"here\" is not absolute"},
		{"an unknown setting", "proxies: {}\n", "", "unknown setting proxies"},
		{"no YAML", "proxy: [\n", "", "site.yaml: "},
		{"a setting twice", "socket: /run/a\nsocket: /run/b\n", "", "already defined"},
		{"a list", "- proxy\n", "", "site.yaml: "},
	} {
		part, err := config.ParsePart("site.yaml", []byte(tt.text))
		if tt.problem != "" {
			if err == nil || !strings.Contains(err.Error(), tt.problem) {
				t.Errorf("%s: got %v, want %q", tt.name, err, tt.problem)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if got := strings.Join(slices.Sorted(maps.Keys(part.Settings)), " "); got != tt.settings || len(part.Config.Identities) > 0 || part.Config.TPM == "" {
			t.Errorf("%s: got %q, %+v", tt.name, got, part.Config)
		}
	}
}

func FuzzParsePart(f *testing.F) {
	f.Add([]byte("proxy: {url: \"http://proxy.example:3128\"}\n"))
	f.Add([]byte("- a\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		part, err := config.ParsePart("site.yaml", text)
		if (part == nil) == (err == nil) {
			t.Errorf("got %v, %v", part, err)
		}
	})
}
