package inspect_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/accounts"
	"github.com/keyagent/keyagent/internal/agenttest"
	"github.com/keyagent/keyagent/internal/inspect"
	"github.com/keyagent/keyagent/internal/setup"
	"github.com/keyagent/keyagent/simulator"
	"github.com/keyagent/keyagent/simulator/imds"
)

// machine looks at the stage as root's setup of an agent of the user keyagent would, where passwd
// and group are the texts.
func machine(s *agenttest.Stage, passwd, group string, change func(*inspect.Options)) setup.Facts {
	s.T.Helper()
	dir := s.T.TempDir()
	files := accounts.Finder{Getent: "/bin/false", PasswdFile: filepath.Join(dir, "passwd"), GroupFile: filepath.Join(dir, "group")}
	for path, text := range map[string]string{files.PasswdFile: passwd, files.GroupFile: group} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			s.T.Fatal(err)
		}
	}
	opts := inspect.Options{Base: s.Config, Choices: &setup.Choices{}, User: "keyagent", Accounts: files}
	if change != nil {
		change(&opts)
	}
	return inspect.Machine(s.T.Context(), opts)
}

const keyagentUser = "keyagent:x:64990:64991::/:/usr/sbin/nologin\n"

func TestAConfidentialVMIsSeenAsSuch(t *testing.T) {
	s := agenttest.New(t)
	facts := machine(s, keyagentUser, "", nil)
	vm := s.Platform.Info().Identities[0]
	if facts.Kind != setup.KindSNP || facts.TPM.Fault != "" || facts.TPM.Maker == "" || facts.TPM.NoSHA256 || facts.TPM.NoManager {
		t.Errorf("got %+v", facts)
	}
	want := setup.Host{
		Endpoint: s.Config.IMDSEndpoint, V1: setup.Present, V2: setup.Present, Region: "westeurope", Cloud: "AzurePublicCloud",
		Size: "Standard_DC2as_v5", SecurityType: "ConfidentialVM", ClientID: vm.ClientID, TenantID: s.Platform.Info().TenantID,
	}
	if facts.Host != want {
		t.Errorf("got %+v, want %+v", facts.Host, want)
	}
	if facts.Agent != (setup.Agent{User: "keyagent"}) {
		t.Errorf("got %+v", facts.Agent)
	}
	// Another of its identities, and one that it has not.
	user := s.Platform.Info().Identities[1].ClientID
	facts = machine(s, keyagentUser, "", func(o *inspect.Options) { o.Choices.Managed.ClientID = user })
	if facts.Host.ClientID != user {
		t.Errorf("got %+v", facts.Host)
	}
	facts = machine(s, keyagentUser, "", func(o *inspect.Options) { o.Choices.Managed.ClientID = "c0ffee00-0000-4000-8000-0000000000bb" })
	if facts.Host.ClientID != "" || !strings.Contains(facts.Host.NoIdentity, "identity_not_found") {
		t.Errorf("got %+v", facts.Host)
	}
	// Nothing was made, and nothing asked for that is issued.
	if _, err := os.Stat(s.Config.StateDir); !os.IsNotExist(err) {
		t.Errorf("the state directory: %v", err)
	}
	for _, entry := range s.Platform.Journal().Entries() {
		if entry.Operation == imds.OpCredential || entry.Operation == imds.OpToken && entry.Status == 200 {
			t.Errorf("it asked for %+v", entry)
		}
	}
}

func TestATDXMachineIsSeenAsSuch(t *testing.T) {
	s := agenttest.NewOn(t, simulator.Config{Dir: t.TempDir(), TEE: simulator.TDX})
	if facts := machine(s, keyagentUser, "", nil); facts.Kind != setup.KindTDX {
		t.Errorf("got %+v", facts)
	}
}

func TestMissingPartsAreReported(t *testing.T) {
	s := agenttest.New(t)
	if err := s.Platform.SetIMDS(imds.Behaviour{NoV2: true}); err != nil {
		t.Fatal(err)
	}
	facts := machine(s, "", "", func(o *inspect.Options) {
		o.Choices.TPM = "unix:" + filepath.Join(s.T.TempDir(), "none.sock")
		o.Choices.Users, o.Choices.Groups = []string{"web", "1000"}, []string{"devs"}
	})
	if facts.Kind != setup.KindUnknown || facts.TPM.Fault == "" || !facts.Agent.Missing {
		t.Errorf("got %+v", facts)
	}
	if facts.Host.V2 != setup.Absent || facts.Host.V1 != setup.Present || facts.Host.ClientID != "" {
		t.Errorf("got %+v", facts.Host)
	}
	if len(facts.Unknown) != 2 || !strings.Contains(facts.Unknown[0], `user "web"`) || !strings.Contains(facts.Unknown[1], `group "devs"`) {
		t.Errorf("got %q", facts.Unknown)
	}
	if err := s.Platform.Close(); err != nil {
		t.Fatal(err)
	}
	if facts = machine(s, "", "", nil); facts.Host.Fault == "" || facts.Host.V2 != setup.Unknown {
		t.Errorf("a host that is gone: got %+v", facts.Host)
	}
}

// Whether the agent's user may use the TPM is told before the agent fails for it.
func TestWhoMayOpenTheTPM(t *testing.T) {
	s := agenttest.New(t)
	socket := strings.TrimPrefix(s.Config.TPM, "unix:")
	const tss = 64059
	if err := os.Chown(socket, -1, tss); err != nil {
		t.Skipf("cannot give a file to another group: %v", err)
	}
	for _, tt := range []struct {
		name, passwd, group string
		mode                os.FileMode
		barred              bool
		join                string
	}{
		{"a member of its group", keyagentUser, "tss:x:64059:keyagent\n", 0o660, false, ""},
		{"their own group is its group", "keyagent:x:64990:64059::/:/bin/false\n", "", 0o660, false, ""},
		{"no member", keyagentUser, "tss:x:64059:eve\n", 0o660, true, "tss"},
		{"a member, and the group may not", keyagentUser, "tss:x:64059:keyagent\n", 0o600, true, ""},
		{"a member who may only read", keyagentUser, "tss:x:64059:keyagent\n", 0o646, true, ""},
		{"everybody may", keyagentUser, "", 0o666, false, ""},
		{"root", "keyagent:x:0:0::/:/bin/sh\n", "", 0o600, false, ""},
	} {
		if err := os.Chmod(socket, tt.mode); err != nil {
			t.Fatal(err)
		}
		got := machine(s, tt.passwd, tt.group, func(o *inspect.Options) {
			own := *config.Default()
			own.TPM, own.IMDSEndpoint = s.Config.TPM, "http://127.0.0.1:1"
			o.Base = &own
		}).TPM
		if (got.Barred != "") != tt.barred || got.Group != tt.join || got.Fault != "" {
			t.Errorf("%s: got %+v", tt.name, got)
		}
	}
}
