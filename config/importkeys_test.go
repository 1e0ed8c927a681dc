package config_test

import (
	"strings"
	"testing"

	"github.com/keyagent/keyagent/config"
)

// Two applications that are imported one after the other both have a key "app" unless the operator
// names another.
func TestAKeyOfAnotherApplicationIsNoted(t *testing.T) {
	application := func(name, id, credential string) string {
		return "  - name: " + name + "\n    application: {tenant: contoso.com, client_id: " + id + ", credentials: [" + credential + "]}\n"
	}
	const (
		this, other = "c0ffee00-0000-4000-8000-0000000000aa", "c0ffee00-0000-4000-8000-0000000000bb"
		withKey     = "{source: certificate, key: app}"
	)
	for name, tc := range map[string]struct {
		configured string
		noted      bool
	}{
		"another application with the key":             {application("shop", other, withKey), true},
		"one that has it as its second credential":     {application("shop", other, "{source: managed_identity, managed_identity: {}}, "+withKey), true},
		"this application, imported again":             {application("shop", strings.ToUpper(this), withKey), false},
		"another application with another key":         {application("shop", other, "{source: certificate, key: app-2}"), false},
		"a managed identity, which has no key of this": {"  - name: vm\n    managed_identity: {}\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, err := config.Parse("test.yaml", []byte("identities:\n"+tc.configured))
			if err != nil {
				t.Fatal(err)
			}
			imported, err := config.ImportAppSettings([]byte(`{"TenantId": "contoso.com", "ClientId": "`+this+`", "ClientCredentials": [{"SourceType": "KeyVault"}]}`), config.ImportOptions{})
			if err != nil {
				t.Fatal(err)
			}
			imported.NoteKeysOf(cfg, "/etc/test.yaml")
			const want = `key "app": identity "shop" in /etc/test.yaml has a credential with the key of this name, too`
			text, err := imported.YAML()
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Contains(strings.Join(imported.Notices, "\n"), want); got != tc.noted {
				t.Errorf("the notices are %q", imported.Notices)
			}
			if got := strings.Contains(string(text), want); got != tc.noted {
				t.Errorf("the comments are\n%s", text)
			}
		})
	}
	alone, err := config.ImportAppSettings([]byte(`{"Vault": {"AcquireTokenOptions": {"ManagedIdentity": {}}}}`), config.ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	before := len(alone.Notices)
	if alone.NoteKeysOf(config.Default(), "x"); len(alone.Notices) != before {
		t.Errorf("a managed identity has a key: %q", alone.Notices)
	}
}
