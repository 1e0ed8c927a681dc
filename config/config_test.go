package config_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/config"
)

const good = `
tpm: unix:/run/tpm.sock
state_dir: /var/lib/keyagent
identities:
  - name: vm
    managed_identity: {}
  - name: app-1
    managed_identity: {client_id: 8b0c3d0e-0000-4000-8000-00000000c1d1}
rules:
  - name: web
    users: [www-data, "1000"]
    groups: [web]
    identities: [vm]
    resources: ["https://vault.azure.net"]
admins:
  groups: [ops]
`

func TestParseAGoodFile(t *testing.T) {
	got, err := config.Parse("test.yaml", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	want := &config.Config{
		TPM:         "unix:/run/tpm.sock",
		StateDir:    "/var/lib/keyagent",
		Socket:      "/run/keyagent/agent.sock",
		Attestation: config.Attestation{Provider: config.ProviderAzureGuest},
		BindingKey:  config.BindingKey{PCRBank: config.BankSHA256},
		Identities: []config.Identity{
			{Name: "vm", ManagedIdentity: &config.ManagedIdentity{Bound: config.BoundRequire}},
			{Name: "app-1", ManagedIdentity: &config.ManagedIdentity{
				ManagedIdentitySelector: config.ManagedIdentitySelector{ClientID: "8b0c3d0e-0000-4000-8000-00000000c1d1"}, Bound: config.BoundRequire,
			}},
		},
		Rules: []config.Rule{{
			Name:       "web",
			Principals: config.Principals{Users: []string{"www-data", "1000"}, Groups: []string{"web"}},
			Identities: []string{"vm"},
			Resources:  []string{"https://vault.azure.net"},
			Types:      []string{"bearer"},
		}},
		CallerIdentity: config.CallerIdentityAvailable,
		Admins:         config.Principals{Groups: []string{"ops"}},
		Audit:          config.Audit{To: config.AuditToStdout},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("configuration differs (-want +got):\n%s", diff)
	}
}

func TestParseSaysWhatIsWrong(t *testing.T) {
	replace := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("the good file has no %q", old)
		}
		return strings.Replace(good, old, new, 1)
	}
	for _, tc := range []struct{ name, file, want string }{
		{"an empty file configures no identity", "", "identities: none is configured"},
		{"an unknown setting names its line", replace("tpm:", "tmp:"), "line 2: unknown setting tmp: did you mean tpm?"},
		{"an unknown setting inside a rule", replace("    groups: [web]", "    groop: [web]"), "unknown setting groop: did you mean groups?"},
		{"an unknown setting that is like none", replace("tpm:", "colour:"), "line 2: unknown setting colour"},
		{"a setting of a part that is repeated", replace("    managed_identity: {}", "    managed_identity: {client: x}"), "unknown setting client: there are client_id, object_id, resource_id, bound here"},
		{"a setting given twice", good + "tpm: unix:/other\n", `"tpm" already defined`},
		{"a second document", good + "---\ntpm: x\n", "more than one YAML document"},
		{"broken YAML", "identities: [", "line 1"},
		{"a number where a list belongs", replace("[web]", "7"), "line 12: groups is a list: begin the entry with '- '"},
		{"an entry where a list belongs", replace("  - name: web\n", "    name: web\n"), "line 10: rules is a list: begin the entry with '- '"},
		{"the second of two settings on a line is no list", good[:strings.Index(good, "admins:")] + "admins: {users: [a], groups: hunter2}\n", "line 15: groups is a list"},
		{"a list inside a list", replace("[web]", "[[web]]"), "line 12: an entry of groups is a single value"},
		{"text where settings belong", replace("managed_identity: {}", "managed_identity: system"), "line 6: managed_identity has settings of its own: write them below it"},
		{"text where an identity belongs", replace("  - name: vm\n    managed_identity: {}", "  - vm"), "line 5: an entry of identities has settings of its own"},
		{"a list where text belongs", replace("tpm: unix:/run/tpm.sock", "tpm: [a]"), "line 2: tpm is a single value"},
		{"text where a number belongs", good + "binding_key: {persistent_handle: hunter2}\n", "persistent_handle is a whole number"},
		{"text where a number of a list belongs", good + "binding_key: {pcrs: [hunter2]}\n", "an entry of pcrs is a whole number"},
		{"text where yes or no belongs", good + "binding_key: {insecure_software: hunter2}\n", "insecure_software is true or false"},
		{"a file that is a list", "- name: vm\n", "line 1: the file has settings of its own"},
		{"an unknown TPM transport", replace("unix:/run/tpm.sock", "usb:1"), `tpm: "usb:1" is not`},
		{"a relative TPM path", replace("unix:/run/tpm.sock", "unix:tpm.sock"), `tpm: path "tpm.sock" is not absolute`},
		{"a relative state directory", replace("/var/lib/keyagent", "state"), `state_dir: path "state" is not absolute`},
		{"a socket path the kernel would refuse", good + "socket: /" + strings.Repeat("x", 107) + "\n", "socket: path has 108 bytes"},
		{"an IMDS endpoint without scheme", good + "imds_endpoint: 169.254.169.254\n", "imds_endpoint"},
		{"an unknown attestation provider", good + "attestation: {provider: trust-me}\n", "attestation.provider"},
		{"a launch identity that is too short", good + "attestation: {id_key_digests: [aabb]}\n", "id_key_digests[0]"},
		{"an MRTD that is too short", good + "attestation: {tdx: {mrtds: [aabb]}}\n", "tdx.mrtds[0]"},
		{"collateral over plain HTTP", good + "attestation: {tdx: {collateral: 'http://cache.example'}}\n", "tdx.collateral"},
		{"collateral with a password", good + "attestation: {tdx: {collateral: 'https://a:b@cache.example'}}\n", "tdx.collateral"},
		{"a relative path of Intel roots", good + "attestation: {tdx: {roots: intel.pem}}\n", "tdx.roots"},
		{"a PCR that no TPM has", good + "binding_key: {pcrs: [24]}\n", "binding_key.pcrs: 24"},
		{"a bank of PCRs that is not used", good + "binding_key: {pcr_bank: sha1}\n", "binding_key.pcr_bank"},
		{"a persistent handle that is the platform's", good + "binding_key: {persistent_handle: 0x81000003}\n", "0x81000003"},
		{"an owner's credential with a path", good + "tpm_owner_credential: /etc/owner\n", "tpm_owner_credential"},
		{"a credential with a path", good + "binding_key: {auth_credential: ../key}\n", "binding_key.auth_credential"},
		{"a software key that is to be attested", good + "binding_key: {insecure_software: true}\n", "attestation.provider: none"},
		{"a software key bound to PCRs", good + "attestation: {provider: none}\nbinding_key: {insecure_software: true, pcrs: [7]}\n", "for a key in a TPM"},
		{"a floor that a software key never reaches", replace("    managed_identity: {}", "    min_strength: tpm\n    managed_identity: {}") +
			"attestation: {provider: none}\nbinding_key: {insecure_software: true}\n", "never reaches tpm"},
		{"a floor that a software key does not reach either", replace("    managed_identity: {}", "    min_strength: tpm-signed\n    managed_identity: {}") +
			"attestation: {provider: none}\nbinding_key: {insecure_software: true}\n", "never reaches tpm-signed"},
		{"a floor that tokens of IMDS do not reach", replace("    managed_identity: {}", "    min_strength: tpm-signed\n    managed_identity: {bound: never}"), "no token of it reaches tpm-signed"},
		{"a strength that does not exist", replace("    managed_identity: {}", "    min_strength: titanium\n    managed_identity: {}"), "identities[0].min_strength"},
		{"an identity name with a slash", replace("name: app-1", "name: ../app"), "identities[1].name"},
		{"the same identity twice", replace("name: app-1", "name: vm"), `identities[1].name: "vm" is configured twice`},
		{"an identity that is nothing", replace("    managed_identity: {}\n", ""), "identities[0]: neither managed_identity"},
		{"a client id that is no GUID", replace("8b0c3d0e-", "8b0c3d0e"), "client_id"},
		{"two selectors", replace("{client_id:", "{object_id: 8b0c3d0e-0000-4000-8000-00000000c1d1, client_id:"), "more than one of"},
		{"a rule without a name", replace("name: web", "name: ''"), "rules[0].name: missing"},
		{"programs alone", replace("    users: [www-data, \"1000\"]\n    groups: [web]\n", "    executables: [/usr/bin/web]\n"), "they only narrow a rule"},
		{"a program by its name alone", replace("    groups: [web]\n", "    executables: [web]\n"), `"web" is not an absolute path`},
		{"a path of a program with a detour", replace("    groups: [web]\n", "    executables: [/usr/bin/../web]\n"), "without detours"},
		{"a demand on callers that is not known", replace("admins:", "caller_identity: sure\nadmins:"), `caller_identity: "sure" is neither available nor strict`},
		{"a rule for nobody", replace("    users: [www-data, \"1000\"]\n    groups: [web]\n", ""), "names neither users nor groups"},
		{"a rule for an identity that is not there", replace("identities: [vm]", "identities: [other]"), `"other" is not a configured identity`},
		{"a rule without resources", replace(`["https://vault.azure.net"]`, "[]"), "rules[0].resources: none"},
		{"a wildcard inside a resource", replace("https://vault.azure.net", "https://*.azure.net"), "resources"},
		{"a wildcard beside other resources", replace(`"https://vault.azure.net"`, `"https://vault.azure.net", "*"`), "resources"},
		{"a proxy without a scheme", good + "proxy: {url: 'proxy.example:3128'}\n", "proxy.url: not an http"},
		{"a proxy of another protocol", good + "proxy: {url: 'socks5://proxy.example'}\n", "proxy.url: not an http"},
		{"a proxy with a path", good + "proxy: {url: 'http://proxy.example/p'}\n", "proxy.url: not an http"},
		{"a password in the proxy's URL", good + "proxy: {url: 'http://u:hunter2@proxy.example:3128'}\n", "proxy.credential"},
		{"a proxy's credential without a proxy", good + "proxy: {credential: proxy}\n", "proxy.url: missing"},
		{"a proxy's credential with a path", good + "proxy: {url: 'http://proxy.example', credential: ../p}\n", "proxy.credential"},
		{"a host's name that is too long", good + "proxy: {url: 'http://proxy.example', bypass: ['" + strings.Repeat("a", 254) + "']}\n", "proxy.bypass[0]"},
		{"a URL where a host belongs", good + "proxy: {url: 'http://proxy.example', bypass: ['https://a.example']}\n", "proxy.bypass[0]"},
		{"a managed identity that is bound a bit", replace("managed_identity: {}", "managed_identity: {bound: maybe}"), "identities[0].managed_identity.bound"},
		{"a floor that what is never bound cannot reach", replace("    managed_identity: {}", "    min_strength: software\n    managed_identity: {bound: never}"),
			"identities[0].min_strength: nothing of this identity is ever bound"},
		{"bound tokens of what is never bound", strings.Replace(replace("managed_identity: {}", "managed_identity: {bound: never}"), "    users:", "    types: [mtls_pop]\n    users:", 1),
			"rules[0].types: mtls_pop: nothing of identity \"vm\" is ever bound"},
		{"hosts alone to sign for, and none are there", replace(`["https://vault.azure.net"]`, "[\"https://vault.azure.net\"]\n    sign: true\n    sign_hosts_only: true"),
			"rules[0].sign_hosts_only: it narrows"},
		{"hosts without tokens for them", replace(`["https://vault.azure.net"]`, "[\"https://vault.azure.net\"]\n    hosts: [vault.azure.net]"),
			"rules[0].hosts: they are for tokens of type mtls_pop"},
		{"an unknown token type", replace("    identities: [vm]", "    types: [cookie]\n    identities: [vm]"), `"cookie" is not a token type`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := config.Parse("test.yaml", []byte(tc.file))
			if _, ok := errors.AsType[*config.Error](err); !ok {
				t.Fatalf("got %v, want a *config.Error", err)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error holds a password: %v", err)
			}
			if !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "test.yaml: ") {
				t.Errorf("got %q, want the file's name and %q", err, tc.want)
			}
		})
	}
}

func TestParseReportsAllProblemsAtOnce(t *testing.T) {
	_, err := config.Parse("test.yaml", []byte("tpm: usb:1\nstate_dir: here\n"))
	e, ok := errors.AsType[*config.Error](err)
	if !ok || len(e.Problems) != 3 {
		t.Errorf("got %v, want three problems", err)
	}
}

func TestLoadChecksWhoCouldHaveWrittenTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yaml")
	write := func(mode fs.FileMode) {
		t.Helper()
		if err := os.WriteFile(path, []byte(good), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	write(0o640)
	if _, err := config.Load(path); err != nil {
		t.Errorf("mode 0640: %v", err)
	}
	for _, mode := range []fs.FileMode{0o660, 0o606, 0o666} {
		write(mode)
		if _, err := config.Load(path); err == nil || !strings.Contains(err.Error(), "chmod go-w") {
			t.Errorf("mode %o: got %v, want a refusal that names the cure", mode, err)
		}
	}
	write(0o600)
	dir := filepath.Dir(path)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := config.Load(path); err == nil || !strings.Contains(err.Error(), "chmod go-w "+dir) {
		t.Errorf("a directory that everybody can write: got %v, want a refusal", err)
	}
	if err := os.Chmod(dir, 0o777|fs.ModeSticky); err != nil {
		t.Fatal(err)
	}
	if _, err := config.Load(path); err != nil {
		t.Errorf("a sticky directory: %v", err)
	}
	if os.Geteuid() != 0 {
		t.Skip("giving a file to another user needs root")
	}
	write(0o600)
	if err := os.Chown(path, 65534, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := config.Load(path); err == nil || !strings.Contains(err.Error(), "uid 65534") {
		t.Errorf("foreign owner: got %v, want a refusal", err)
	}
}

func TestReadTrustedTakesFilesOnly(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, make([]byte, 1<<20+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{fifo, dir, big} {
		if _, err := config.ReadTrusted(path); err == nil {
			t.Errorf("%s: accepted", path)
		}
	}
}

func TestLoadWithoutAFile(t *testing.T) {
	if _, err := config.Load(filepath.Join(t.TempDir(), "none.yaml")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want fs.ErrNotExist", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("identities: [{name: a, managed_identity: }]"))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := config.Parse("fuzz.yaml", data)
		if (cfg == nil) == (err == nil) {
			t.Fatalf("got configuration %v and error %v", cfg, err)
		}
		if cfg != nil && len(cfg.Identities) == 0 {
			t.Fatal("accepted a configuration without identities")
		}
	})
}
