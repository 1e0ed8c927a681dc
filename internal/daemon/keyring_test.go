package daemon_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/daemon"
	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// keyring opens the keys of the stage, with a clock.
func (s *stage) keyring(now func() time.Time) *daemon.Keyring {
	s.t.Helper()
	k, err := daemon.OpenKeyring(s.cfg, daemon.Options{Now: now})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = k.Close() })
	return k
}

func subject(name string) daemon.NameRequest { return daemon.NameRequest{Subject: "CN=" + name} }

func (s *stage) diagnose(now func() time.Time) daemon.Diagnosis {
	s.t.Helper()
	return daemon.Diagnose(s.t.Context(), s.cfg, daemon.DiagnoseOptions{Options: daemon.Options{Now: now}, ConfigPath: "config.yaml"})
}

// verdict returns that of a check, "" if it was not made.
func verdict(d daemon.Diagnosis, check string) string {
	i := slices.IndexFunc(d.Findings, func(f daemon.Finding) bool { return f.Check == check })
	if i < 0 {
		return ""
	}
	return d.Findings[i].Verdict
}

// withoutApplications leaves the identities that need no key but the agent's own.
func (s *stage) withoutApplications() {
	s.cfg.Identities = slices.DeleteFunc(s.cfg.Identities, func(id config.Identity) bool { return id.Application != nil })
	s.cfg.Rules[0].Identities = []string{"vm", "vm-user"}
}

// What an application of the configuration needs on this machine is said to be missing.
func TestTheDiagnosisOfAnApplication(t *testing.T) {
	s := newStage(t)
	const check = "identity app-cert: certificate"
	k := s.keyring(nil)
	for _, step := range []struct {
		name, verdict string
		do            func() error
	}{
		{"there is no key", daemon.VerdictFail, func() error { return nil }},
		{"the key has no certificate", daemon.VerdictFail, func() error {
			_, err := k.Create(t.Context(), "app", daemon.KeyRequest{Algorithm: "rsa-2048"})
			return err
		}},
		{"a self-signed certificate is no good over mutual TLS", daemon.VerdictWarn, func() error {
			_, err := k.SelfSign(t.Context(), "app", daemon.SelfSignOptions{NameRequest: subject("app")})
			return err
		}},
		{"it will do for assertions", daemon.VerdictOK, func() error {
			s.bind(config.BoundNever)
			return nil
		}},
		{"where they are but what is preferred, it will not", daemon.VerdictWarn, func() error {
			s.bind(config.BoundPrefer)
			return nil
		}},
		{"an issued one is there", daemon.VerdictOK, func() error {
			s.certify(k)
			return nil
		}},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		if d := s.diagnose(nil); verdict(d, check) != step.verdict {
			t.Errorf("%s: %+v", step.name, d)
		}
	}
}

// bind says how app-cert's credential is to be bound.
func (s *stage) bind(bound string) {
	for i := range s.cfg.Identities {
		if id := &s.cfg.Identities[i]; id.Name == "app-cert" {
			id.Application.Credentials[0].Bound = bound
		}
	}
}

// certify gets the key "app" a certificate that app-cert trusts by subject and issuer.
func (s *stage) certify(k *daemon.Keyring) {
	s.t.Helper()
	request, err := k.Request(s.t.Context(), "app", daemon.RequestOptions{NameRequest: subject("app")})
	if err != nil {
		s.t.Fatal(err)
	}
	chain, err := s.platform.Certify("app-cert", request)
	if err != nil {
		s.t.Fatal(err)
	}
	file := filepath.Join(s.t.TempDir(), "app.cer")
	if err := os.WriteFile(file, chain, 0o600); err != nil {
		s.t.Fatal(err)
	}
	if _, err := k.Import(s.t.Context(), "app", daemon.ImportOptions{File: file, Replace: true}); err != nil {
		s.t.Fatal(err)
	}
}

// Another key does not mend a TPM that is full or cannot be reached, and who makes one loses the one that was good.
func TestNoNewKeyIsAdvisedWhereTheTPMIsAtFault(t *testing.T) {
	s := newStage(t)
	if err := s.tryOpen(); err != nil {
		t.Fatal(err)
	}
	proxy := tpmtest.NewProxy(t, s.cfg.TPM)
	s.cfg.TPM = proxy.Device()
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
		d := s.diagnose(nil)
		if verdict(d, "key binding: as configured") != daemon.VerdictFail {
			t.Errorf("%s: %+v", name, d)
		}
		for _, f := range d.Findings {
			if strings.HasPrefix(f.Check, "key binding") && !strings.HasPrefix(f.Action, "mend the access to the TPM first") {
				t.Errorf("%s: %s: %s: the advice is %q", name, f.Check, f.Detail, f.Action)
			}
		}
	}
}

func TestACertificateIsWarnedOfBeforeItExpires(t *testing.T) {
	s := newStage(t)
	s.withoutApplications()
	offset := time.Duration(0)
	now := func() time.Time { return time.Now().Add(offset) }
	k := s.keyring(now)
	if _, err := k.Create(t.Context(), "app", daemon.KeyRequest{Algorithm: "ecdsa-p256"}); err != nil {
		t.Fatal(err)
	}
	if _, err := k.SelfSign(t.Context(), "app", daemon.SelfSignOptions{NameRequest: subject("app")}); err != nil {
		t.Fatal(err)
	}
	const day = 24 * time.Hour
	for _, tt := range []struct {
		after   time.Duration
		verdict string
		warning string
		soon    bool
	}{
		{0, daemon.VerdictOK, "", false},
		{334 * day, daemon.VerdictOK, "", false},
		{336 * day, daemon.VerdictWarn, "expires soon", true},
		{366 * day, daemon.VerdictFail, "expired", true},
		{-day, daemon.VerdictFail, "not yet valid", false},
	} {
		offset = tt.after
		d := s.diagnose(now)
		if got := verdict(d, "key app: certificate"); got != tt.verdict || d.OK != (tt.verdict != daemon.VerdictFail) {
			t.Errorf("after %v: %q, %+v", tt.after, got, d)
		}
		reports, err := k.Show(t.Context(), "app", daemon.AuthSource{})
		if err != nil || len(reports) != 1 {
			t.Fatal(reports, err)
		}
		warnings := strings.Join(reports[0].Warnings, "\n")
		if !strings.Contains(warnings, tt.warning) || tt.warning == "" && warnings != "" || reports[0].Certificate.ExpiresSoon != tt.soon {
			t.Errorf("after %v: warnings %q, soon %v", tt.after, warnings, reports[0].Certificate.ExpiresSoon)
		}
	}
	offset = 366 * day // what has expired may be replaced without a word
	if _, err := k.SelfSign(t.Context(), "app", daemon.SelfSignOptions{NameRequest: subject("app")}); err != nil {
		t.Error(err)
	}
}

// Files that root makes in the agent's directory are none that the agent takes.
func TestKeysOfAnotherUserAreLeftToHim(t *testing.T) {
	s := newStage(t)
	if err := s.tryOpen(); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(s.cfg.StateDir, 12345, -1); err != nil {
		t.Skipf("cannot give a directory to another user: %v", err)
	}
	_, err := daemon.OpenKeyring(s.cfg, daemon.Options{})
	var hinted interface{ Hint() string }
	if !errors.As(err, &hinted) || !strings.Contains(hinted.Hint(), "sudo -u '#12345' keyagent") {
		t.Errorf("got %v", err)
	}
	if d := s.diagnose(nil); d.OK || len(d.Findings) != 1 || verdict(d, "user") != daemon.VerdictFail {
		t.Errorf("%+v", d)
	}
}

func TestADiagnosisChangesNothing(t *testing.T) {
	s := newStage(t)
	s.diagnose(nil)
	if _, err := os.Stat(s.cfg.StateDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the state directory: %v", err)
	}
	k := s.keyring(nil)
	if _, err := k.Create(t.Context(), "app", daemon.KeyRequest{Algorithm: "ecdsa-p256"}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.stateFile("storage-root"), []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := tree(t, s.cfg.StateDir)
	if d := s.diagnose(nil); verdict(d, "storage root") != daemon.VerdictWarn || verdict(d, "key app") != daemon.VerdictOK {
		t.Errorf("%+v", d)
	}
	if after := tree(t, s.cfg.StateDir); !slices.Equal(before, after) {
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
	s := newStage(t)
	s.withoutApplications()
	if err := s.tryOpen(); err != nil {
		t.Fatal(err)
	}
	const check = "key binding: as configured"
	if d := s.diagnose(nil); verdict(d, check) != daemon.VerdictOK || !d.OK {
		t.Errorf("%+v", d)
	}
	for name, tt := range map[string]struct {
		change func(*config.BindingKey)
		want   string
	}{
		"PCRs":       {func(k *config.BindingKey) { k.PCRs = []int{7} }, daemon.VerdictFail},
		"credential": {func(k *config.BindingKey) { k.AuthCredential = "none" }, daemon.VerdictWarn},
	} {
		before := s.cfg.BindingKey
		tt.change(&s.cfg.BindingKey)
		if d := s.diagnose(nil); verdict(d, check) != tt.want {
			t.Errorf("%s: %+v", name, d)
		}
		s.cfg.BindingKey = before
	}
}

// One value is not that of all keys, and a TPM counts wrong ones: three lock it, for other programs' objects, too.
func TestAValueIsTriedOnOneKeyOnly(t *testing.T) {
	s := newStage(t)
	k := s.keyring(nil)
	value := filepath.Join(t.TempDir(), "value")
	if err := os.WriteFile(value, []byte("a value\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	source := daemon.AuthSource{File: value}
	if _, err := k.Create(t.Context(), "app", daemon.KeyRequest{Algorithm: "ecdsa-p256", Auth: source}); err != nil {
		t.Fatal(err)
	}
	_, err := k.Show(t.Context(), "", source)
	if _, usage := errors.AsType[daemon.UsageError](err); !usage {
		t.Errorf("got %v, want a refusal", err)
	}
	reports, err := k.Show(t.Context(), "app", source)
	if err != nil || len(reports) != 1 || !reports[0].Tested {
		t.Errorf("the one key: %+v, %v", reports, err)
	}
}

func TestAKeyFileIsNotOverwrittenByWhatACommandMakes(t *testing.T) {
	s := newStage(t)
	k := s.keyring(nil)
	report, err := k.Create(t.Context(), "app", daemon.KeyRequest{Algorithm: "ecdsa-p256"})
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(report.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := daemon.WriteFile(report.KeyFile, []byte("a request")); err == nil {
		t.Error("it was written over")
	}
	if after, err := os.ReadFile(report.KeyFile); err != nil || !slices.Equal(before, after) {
		t.Errorf("the key file was changed: %v", err)
	}
	bundle := filepath.Join(t.TempDir(), "bundle.pem")
	if err := os.WriteFile(bundle, append(before, make([]byte, 70<<10)...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := daemon.WriteFile(bundle, []byte("a request")); err == nil {
		t.Error("a key in a long file was written over")
	}
	out := filepath.Join(t.TempDir(), "request.pem")
	for _, text := range []string{"a long request", "a request"} {
		if err := daemon.WriteFile(out, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(out); err != nil || string(got) != text {
			t.Errorf("%q, %v", got, err)
		}
	}
}

// A value may come through a pipe, which has it once.
func TestARotationIsFinishedWithAValueFromAPipe(t *testing.T) {
	s := newStage(t)
	s.withoutApplications()
	k := s.keyring(nil)
	file := filepath.Join(t.TempDir(), "value")
	if err := os.WriteFile(file, []byte("a value"), 0o600); err != nil {
		t.Fatal(err)
	}
	auth := daemon.AuthSource{File: file}
	_, created := k.Create(t.Context(), "app", daemon.KeyRequest{Algorithm: "ecdsa-p256", Auth: auth})
	_, begun := k.BeginRotation(t.Context(), "app", daemon.KeyRequest{Auth: auth})
	_, certified := k.SelfSign(t.Context(), "app", daemon.SelfSignOptions{NameRequest: subject("app"), Next: true, Auth: auth})
	r, w, err := os.Pipe()
	if err := errors.Join(created, begun, certified, err); err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	_, err = w.WriteString("a value")
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	report, err := k.FinishRotation(t.Context(), "app", daemon.FinishOptions{Auth: daemon.AuthSource{File: fmt.Sprintf("/proc/self/fd/%d", r.Fd())}})
	if err != nil || report.Generation != 2 || report.Problem != "" {
		t.Errorf("%+v, %v", report, err)
	}
}

// What names a generation that is not there can be cleared away.
func TestAKeyWhoseGenerationIsMissingCanBeDeleted(t *testing.T) {
	s := newStage(t)
	k := s.keyring(nil)
	if _, err := k.Create(t.Context(), "app", daemon.KeyRequest{Algorithm: "ecdsa-p256"}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.stateFile("keys", "app", "current"), []byte("7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := k.Delete(t.Context(), "app", false); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(s.stateFile("keys", "app")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

// Where the TPM is gone, what is left can be looked at and cleared away; nothing that only the TPM can tell is told without it.
func TestWithoutTheTPM(t *testing.T) {
	s := newStage(t)
	s.withoutApplications()
	k := s.keyring(nil)
	for name, handle := range map[string]string{"app": "", "kept": "0x81010001"} {
		if _, err := k.Create(t.Context(), name, daemon.KeyRequest{Algorithm: "ecdsa-p256", Persistent: handle}); err != nil {
			t.Fatal(err)
		}
	}
	made, err := k.SelfSign(t.Context(), "app", daemon.SelfSignOptions{NameRequest: subject("app")})
	if err != nil {
		t.Fatal(err)
	}
	s.cfg.TPM = "unix:" + filepath.Join(t.TempDir(), "none.sock")
	k = s.keyring(nil)

	shown, err := k.Certificate("app", false)
	if err != nil || shown.ThumbprintSHA1 != made.ThumbprintSHA1 {
		t.Errorf("its certificate: %+v, %v", shown, err)
	}
	_, show := k.Show(t.Context(), "app", daemon.AuthSource{})
	_, create := k.Create(t.Context(), "another", daemon.KeyRequest{})
	_, request := k.Request(t.Context(), "app", daemon.RequestOptions{NameRequest: subject("app")})
	_, imported := k.Import(t.Context(), "app", daemon.ImportOptions{File: made.File})
	_, rotation := k.BeginRotation(t.Context(), "app", daemon.KeyRequest{})
	for what, err := range map[string]error{
		"show": show, "create": create, "request": request, "import": imported, "rotation": rotation,
		"delete of a key in the TPM": k.Delete(t.Context(), "kept", false),
	} {
		if !errors.Is(err, tpm.ErrUnavailable) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := k.Delete(t.Context(), "app", false); err != nil {
		t.Errorf("delete: %v", err)
	}
	if left, err := os.ReadDir(s.stateFile("keys")); err != nil || !slices.ContainsFunc(left, func(e os.DirEntry) bool { return e.Name() == "kept" }) {
		t.Errorf("left are %v, %v", left, err)
	}
}

// A certificate is of use with the key itself only: that the key's file fits shows nothing.
func TestNoCertificateIsImportedForAKeyOfAnotherTPM(t *testing.T) {
	s := newStage(t)
	k := s.keyring(nil)
	report, err := k.Create(t.Context(), "app", daemon.KeyRequest{Algorithm: "ecdsa-p256"})
	if err != nil {
		t.Fatal(err)
	}
	made, err := k.SelfSign(t.Context(), "app", daemon.SelfSignOptions{NameRequest: subject("app")})
	if err != nil {
		t.Fatal(err)
	}
	chain := filepath.Join(t.TempDir(), "chain.pem")
	if err := errors.Join(daemon.WriteFile(chain, []byte(made.PEM)), os.Remove(made.File), spoilKeyFile(report.KeyFile)); err != nil {
		t.Fatal(err)
	}
	_, err = k.Import(t.Context(), "app", daemon.ImportOptions{File: chain})
	var hinted interface{ Hint() string }
	if !errors.Is(err, tpm.ErrForeignTPM) || !errors.As(err, &hinted) || !strings.Contains(hinted.Hint(), "keyagent key delete app") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(made.File); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("imported all the same: %v", err)
	}
}

// Servers refuse such a signature in the chain that they verify, whoever made it.
func TestACertificateThatIsSignedWithSHA1IsWarnedOf(t *testing.T) {
	s := newStage(t)
	k := s.keyring(nil)
	report, err := k.Create(t.Context(), "app", daemon.KeyRequest{Algorithm: "ecdsa-p256"})
	if err != nil {
		t.Fatal(err)
	}
	key := publicKey(t, report.PublicKey)
	for algorithm, want := range map[x509.SignatureAlgorithm]bool{x509.SHA1WithRSA: true, x509.SHA256WithRSA: false} {
		path := filepath.Join(t.TempDir(), "leaf.pem")
		if err := os.WriteFile(path, issue(t, key, "app", algorithm), 0o600); err != nil {
			t.Fatal(err)
		}
		imported, err := k.Import(t.Context(), "app", daemon.ImportOptions{File: path, Replace: true})
		if err != nil {
			t.Fatal(err)
		}
		shown, err := k.Show(t.Context(), "app", daemon.AuthSource{})
		if err != nil {
			t.Fatal(err)
		}
		for _, warnings := range [][]string{imported.Warnings, shown[0].Warnings} {
			if got := strings.Contains(strings.Join(warnings, " "), "certificate CN=app is signed with SHA1-RSA"); got != want {
				t.Errorf("signed with %v: warnings %q", algorithm, warnings)
			}
		}
	}
}

// A name with a line break in it must not look like a finding, or like advice.
func TestANameInACertificateIsNoFinding(t *testing.T) {
	s := newStage(t)
	k := s.keyring(nil)
	report, err := k.Create(t.Context(), "app", daemon.KeyRequest{Algorithm: "ecdsa-p256"})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "leaf.pem")
	if err := os.WriteFile(path, issue(t, publicKey(t, report.PublicKey), "app\nok  all is well", x509.SHA256WithRSA), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Import(t.Context(), "app", daemon.ImportOptions{File: path}); err != nil {
		t.Fatal(err)
	}
	said := false
	for _, f := range s.diagnose(nil).Findings {
		said = said || strings.Contains(f.Detail, "all is well")
		if strings.Contains(f.Detail, "\nok") {
			t.Errorf("%s: %q", f.Check, f.Detail)
		}
	}
	if !said {
		t.Error("the certificate's name is nowhere")
	}
}

func publicKey(t *testing.T, text string) any {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue makes a certificate over a key as an issuer would who is not in the chain.
func issue(t *testing.T, public any, name string, algorithm x509.SignatureAlgorithm) []byte {
	t.Helper()
	issuer, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, SignatureAlgorithm: algorithm,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, &x509.Certificate{Subject: pkix.Name{CommonName: "issuer"}}, public, issuer)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// spoilKeyFile leaves a key file as another TPM would have made it: the public half is right, and the private one not ours.
func spoilKeyFile(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	file, err := tpm.DecodeKeyFile(text)
	if err != nil {
		return err
	}
	file.Private[len(file.Private)-1] ^= 1
	return os.WriteFile(path, file.Encode(), 0o600)
}
