package doctor_test

import (
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/agenttest"
	"github.com/keyagent/keyagent/internal/daemon"
	"github.com/keyagent/keyagent/internal/doctor"
	"github.com/keyagent/keyagent/internal/keyring"
	"github.com/keyagent/keyagent/internal/statedir"
	"github.com/keyagent/keyagent/internal/tooltest"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// What an application of the configuration needs on this machine is said to be missing.
func TestTheDiagnosisOfAnApplication(t *testing.T) {
	s := agenttest.New(t)
	const check = "identity app-cert: certificate"
	k := s.Keyring(nil)
	for _, step := range []struct {
		name, verdict string
		do            func() error
	}{
		{"there is no key", doctor.VerdictFail, func() error { return nil }},
		{"the key has no certificate", doctor.VerdictFail, func() error {
			_, err := k.Create(t.Context(), "app", keyring.KeyRequest{Algorithm: "rsa-2048"})
			return err
		}},
		{"a self-signed certificate is no good over mutual TLS", doctor.VerdictWarn, func() error {
			_, err := k.SelfSign(t.Context(), "app", keyring.SelfSignOptions{NameRequest: agenttest.Subject("app")})
			return err
		}},
		{"it will do for assertions", doctor.VerdictOK, func() error {
			bind(s.Config, config.BoundNever)
			return nil
		}},
		{"where they are but what is preferred, it will not", doctor.VerdictWarn, func() error {
			bind(s.Config, config.BoundPrefer)
			return nil
		}},
		{"an issued one is there", doctor.VerdictOK, func() error {
			s.Certify(k)
			return nil
		}},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		if d := s.Diagnose(nil); agenttest.Verdict(d, check) != step.verdict {
			t.Errorf("%s: %+v", step.name, d)
		}
	}
}

// Another key does not help where the TPM is full or does not answer, and making one loses the key
// that was good.
func TestNoNewKeyIsAdvisedWhereTheTPMIsAtFault(t *testing.T) {
	s := agenttest.New(t)
	if err := s.TryOpen(); err != nil {
		t.Fatal(err)
	}
	proxy := tpmtest.NewProxy(t, s.Config.TPM)
	s.Config.TPM = proxy.Device()
	for name, answer := range map[string]func() ([]byte, error){
		"its slots are full":    func() ([]byte, error) { return tpmtest.Response(uint32(tpm2.TPMRCObjectMemory)), nil },
		"it cannot be reached":  func() ([]byte, error) { return nil, tpmtest.ErrHangUp },
		"it is in failure mode": func() ([]byte, error) { return tpmtest.Response(uint32(tpm2.TPMRCFailure)), nil },
	} {
		proxy.Handle(func(command []byte, forward tpmtest.Forward) ([]byte, error) {
			if tpm2.TPMCC(tpmtest.CommandCode(command)) == tpm2.TPMCCLoad {
				return answer()
			}
			return forward(command)
		})
		d := s.Diagnose(nil)
		if agenttest.Verdict(d, "key binding: as configured") != doctor.VerdictFail {
			t.Errorf("%s: %+v", name, d)
		}
		for _, f := range d.Findings {
			if strings.HasPrefix(f.Check, "key binding") && !strings.HasPrefix(f.Action, "restore the access to the TPM first") {
				t.Errorf("%s: %s: %s: the advice is %q", name, f.Check, f.Detail, f.Action)
			}
		}
	}
}

func TestACertificateIsWarnedOfBeforeItExpires(t *testing.T) {
	s := agenttest.New(t)
	s.WithoutApplications()
	offset := time.Duration(0)
	now := func() time.Time { return time.Now().Add(offset) }
	k := s.Keyring(now)
	if _, err := k.Create(t.Context(), "app", keyring.KeyRequest{Algorithm: "ecdsa-p256"}); err != nil {
		t.Fatal(err)
	}
	if _, err := k.SelfSign(t.Context(), "app", keyring.SelfSignOptions{NameRequest: agenttest.Subject("app")}); err != nil {
		t.Fatal(err)
	}
	const day = 24 * time.Hour
	for _, tt := range []struct {
		after   time.Duration
		verdict string
		warning string
		soon    bool
	}{
		{0, doctor.VerdictOK, "", false},
		{334 * day, doctor.VerdictOK, "", false},
		{336 * day, doctor.VerdictWarn, "expires soon", true},
		{366 * day, doctor.VerdictFail, "expired", true},
		{-day, doctor.VerdictFail, "not yet valid", false},
	} {
		offset = tt.after
		d := s.Diagnose(now)
		if got := agenttest.Verdict(d, "key app: certificate"); got != tt.verdict || d.OK != (tt.verdict != doctor.VerdictFail) {
			t.Errorf("after %v: %q, %+v", tt.after, got, d)
		}
		reports, err := k.Show(t.Context(), "app", keyring.AuthSource{})
		if err != nil || len(reports) != 1 {
			t.Fatal(reports, err)
		}
		warnings := strings.Join(reports[0].Warnings, "\n")
		if !strings.Contains(warnings, tt.warning) || tt.warning == "" && warnings != "" || reports[0].Certificate.ExpiresSoon != tt.soon {
			t.Errorf("after %v: warnings %q, soon %v", tt.after, warnings, reports[0].Certificate.ExpiresSoon)
		}
	}
	offset = 366 * day // what has expired may be replaced without a word
	if _, err := k.SelfSign(t.Context(), "app", keyring.SelfSignOptions{NameRequest: agenttest.Subject("app")}); err != nil {
		t.Error(err)
	}
}

// Files that root makes in the agent's directory are none that the agent takes.
func TestKeysOfAnotherUserAreNotTouched(t *testing.T) {
	s := agenttest.New(t)
	if err := s.TryOpen(); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(s.Config.StateDir, 12345, -1); err != nil {
		t.Skipf("cannot give a directory to another user: %v", err)
	}
	_, err := keyring.Open(s.Config, statedir.Options{})
	if !strings.Contains(agenttest.Advice(err), "sudo -u '#12345' [run any command]") {
		t.Errorf("got %v", err)
	}
	if d := s.Diagnose(nil); d.OK || len(d.Findings) != 1 || agenttest.Verdict(d, "user") != doctor.VerdictFail {
		t.Errorf("%+v", d)
	}
}

func TestADiagnosisChangesNothing(t *testing.T) {
	s := agenttest.New(t)
	s.Diagnose(nil)
	if _, err := os.Stat(s.Config.StateDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the state directory: %v", err)
	}
	k := s.Keyring(nil)
	if _, err := k.Create(t.Context(), "app", keyring.KeyRequest{Algorithm: "ecdsa-p256"}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.StateFile("storage-root"), []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := tree(t, s.Config.StateDir)
	if d := s.Diagnose(nil); agenttest.Verdict(d, "storage root") != doctor.VerdictWarn || agenttest.Verdict(d, "key app") != doctor.VerdictOK {
		t.Errorf("%+v", d)
	}
	if after := tree(t, s.Config.StateDir); !slices.Equal(before, after) {
		t.Errorf("%v became %v", before, after)
	}
}

func tree(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil {
			all = append(all, path+" "+info.ModTime().String())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// A key that is not what the configuration asks for is found before the agent does not start.
func TestTheDiagnosisOfTheAgentsOwnKeyIsThatOfItsStart(t *testing.T) {
	s := agenttest.New(t)
	s.WithoutApplications()
	if err := s.TryOpen(); err != nil {
		t.Fatal(err)
	}
	const check = "key binding: as configured"
	if d := s.Diagnose(nil); agenttest.Verdict(d, check) != doctor.VerdictOK || !d.OK {
		t.Errorf("%+v", d)
	}
	for name, tt := range map[string]struct {
		change func(*config.BindingKey)
		want   string
	}{
		"PCRs":       {func(k *config.BindingKey) { k.PCRs = []int{7} }, doctor.VerdictFail},
		"credential": {func(k *config.BindingKey) { k.AuthCredential = "none" }, doctor.VerdictWarn},
	} {
		before := s.Config.BindingKey
		tt.change(&s.Config.BindingKey)
		if d := s.Diagnose(nil); agenttest.Verdict(d, check) != tt.want {
			t.Errorf("%s: %+v", name, d)
		}
		s.Config.BindingKey = before
	}
}

// A name with a line break in it must not look like a finding, or like advice.
func TestANameInACertificateIsNoFinding(t *testing.T) {
	s := agenttest.New(t)
	k := s.Keyring(nil)
	report, err := k.Create(t.Context(), "app", keyring.KeyRequest{Algorithm: "ecdsa-p256"})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "leaf.pem")
	if err := os.WriteFile(path, agenttest.Issue(t, agenttest.PublicKey(t, report.PublicKey), "app\nok  all is well", x509.SHA256WithRSA), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Import(t.Context(), "app", keyring.ImportOptions{File: path}); err != nil {
		t.Fatal(err)
	}
	said := false
	for _, f := range s.Diagnose(nil).Findings {
		said = said || strings.Contains(f.Detail, "all is well")
		if strings.Contains(f.Detail, "\nok") {
			t.Errorf("%s: %q", f.Check, f.Detail)
		}
	}
	if !said {
		t.Error("the certificate's name is nowhere")
	}
}

// bind says how app-cert's credential is to be bound.
func bind(cfg *config.Config, bound string) {
	for i := range cfg.Identities {
		if id := &cfg.Identities[i]; id.Name == "app-cert" {
			id.Application.Credentials[0].Bound = bound
		}
	}
}

func TestDoctorSaysWhichRuleIsOff(t *testing.T) {
	tooltest.Tool(t, "getent")
	cfg := config.Default()
	cfg.StateDir, cfg.TPM = filepath.Join(t.TempDir(), "state"), "unix:/nowhere"
	off := daemon.Check(t.Context(), &config.Config{Rules: []config.Rule{myRule("a", []string{"nobody-here"}, nil)}, Admins: config.Principals{Groups: []string{"no-group-here"}}})
	diagnosis := doctor.Diagnose(t.Context(), cfg, doctor.Options{ConfigPath: "keyagent.yaml", ConfigError: fmt.Errorf("keyagent.yaml: %w", off)})
	verdicts := map[string]string{}
	for _, f := range diagnosis.Findings {
		verdicts[f.Check] = f.Verdict + " " + f.Detail
	}
	if got := verdicts["rule"]; !strings.HasPrefix(got, `fail "a" is not in force: user "nobody-here"`) {
		t.Errorf("of the rule: %q", got)
	}
	if got := verdicts["admins"]; !strings.HasPrefix(got, "fail ") || !strings.Contains(got, "no-group-here") {
		t.Errorf("of administrators: %q", got)
	}
	if got := verdicts["configuration"]; !strings.HasPrefix(got, "ok ") {
		t.Errorf("of the configuration, which the agent takes: %q", got)
	}
}

// myRule gives this process' user, by a name, what the stage's rule gives.
func myRule(name string, users, groups []string) config.Rule {
	return config.Rule{
		Name: name, Principals: config.Principals{Users: users, Groups: groups}, Identities: []string{"vm"},
		Resources: []string{"https://vault.azure.net"}, Types: []string{config.TypeBearer},
	}
}
