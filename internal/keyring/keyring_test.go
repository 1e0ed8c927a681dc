package keyring_test

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/internal/agenttest"
	"github.com/keyagent/keyagent/internal/keyring"
	"github.com/keyagent/keyagent/tpm"
)

// One value is not that of all keys, and a TPM counts wrong ones: three lock it, for other
// programs' objects, too.
func TestAValueIsTriedOnOneKeyOnly(t *testing.T) {
	s := agenttest.New(t)
	k := s.Keyring(nil)
	value := filepath.Join(t.TempDir(), "value")
	if err := os.WriteFile(value, []byte("a value\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	source := keyring.AuthSource{File: value}
	if _, err := k.Create(t.Context(), "app", keyring.KeyRequest{Algorithm: "ecdsa-p256", Auth: source}); err != nil {
		t.Fatal(err)
	}
	_, err := k.Show(t.Context(), "", source)
	if _, usage := errors.AsType[keyring.RequestError](err); !usage {
		t.Errorf("got %v, want a refusal", err)
	}
	reports, err := k.Show(t.Context(), "app", source)
	if err != nil || len(reports) != 1 || !reports[0].Tested {
		t.Errorf("the one key: %+v, %v", reports, err)
	}
}

func TestAKeyFileIsNotOverwrittenByACommandsOutput(t *testing.T) {
	s := agenttest.New(t)
	k := s.Keyring(nil)
	report, err := k.Create(t.Context(), "app", keyring.KeyRequest{Algorithm: "ecdsa-p256"})
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(report.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := keyring.WriteFile(report.KeyFile, []byte("a request")); err == nil {
		t.Error("it was written over")
	}
	if after, err := os.ReadFile(report.KeyFile); err != nil || !slices.Equal(before, after) {
		t.Errorf("the key file was changed: %v", err)
	}
	bundle := filepath.Join(t.TempDir(), "bundle.pem")
	if err := os.WriteFile(bundle, append(before, make([]byte, 70<<10)...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := keyring.WriteFile(bundle, []byte("a request")); err == nil {
		t.Error("a key in a long file was written over")
	}
	out := filepath.Join(t.TempDir(), "request.pem")
	for _, text := range []string{"a long request", "a request"} {
		if err := keyring.WriteFile(out, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(out); err != nil || string(got) != text {
			t.Errorf("%q, %v", got, err)
		}
	}
}

// A value may come through a pipe, which has it once.
func TestARotationIsFinishedWithAValueFromAPipe(t *testing.T) {
	s := agenttest.New(t)
	s.WithoutApplications()
	k := s.Keyring(nil)
	file := filepath.Join(t.TempDir(), "value")
	if err := os.WriteFile(file, []byte("a value"), 0o600); err != nil {
		t.Fatal(err)
	}
	auth := keyring.AuthSource{File: file}
	_, created := k.Create(t.Context(), "app", keyring.KeyRequest{Algorithm: "ecdsa-p256", Auth: auth})
	_, begun := k.BeginRotation(t.Context(), "app", keyring.KeyRequest{Auth: auth})
	_, certified := k.SelfSign(t.Context(), "app", keyring.SelfSignOptions{NameRequest: agenttest.Subject("app"), Next: true, Auth: auth})
	r, w, err := os.Pipe()
	if err := errors.Join(created, begun, certified, err); err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	_, err = w.WriteString("a value")
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	report, err := k.FinishRotation(t.Context(), "app", keyring.FinishOptions{Auth: keyring.AuthSource{File: fmt.Sprintf("/proc/self/fd/%d", r.Fd())}})
	if err != nil || report.Generation != 2 || report.Problem != "" {
		t.Errorf("%+v, %v", report, err)
	}
}

// What names a generation that is not there can be cleared away.
func TestAKeyWhoseGenerationIsMissingCanBeDeleted(t *testing.T) {
	s := agenttest.New(t)
	k := s.Keyring(nil)
	if _, err := k.Create(t.Context(), "app", keyring.KeyRequest{Algorithm: "ecdsa-p256"}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.StateFile("keys", "app", "current"), []byte("7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := k.Delete(t.Context(), "app", false); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(s.StateFile("keys", "app")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

// Where the TPM is gone, what is left can be looked at and cleared away; nothing that only the TPM
// can tell is told without it.
func TestWithoutTheTPM(t *testing.T) {
	s := agenttest.New(t)
	s.WithoutApplications()
	k := s.Keyring(nil)
	for name, handle := range map[string]uint32{"app": 0, "kept": 0x81010001} {
		if _, err := k.Create(t.Context(), name, keyring.KeyRequest{Algorithm: "ecdsa-p256", Persistent: handle}); err != nil {
			t.Fatal(err)
		}
	}
	made, err := k.SelfSign(t.Context(), "app", keyring.SelfSignOptions{NameRequest: agenttest.Subject("app")})
	if err != nil {
		t.Fatal(err)
	}
	s.Config.TPM = "unix:" + filepath.Join(t.TempDir(), "none.sock")
	k = s.Keyring(nil)

	shown, err := k.Certificate("app", false)
	if err != nil || shown.ThumbprintSHA1 != made.ThumbprintSHA1 {
		t.Errorf("its certificate: %+v, %v", shown, err)
	}
	_, show := k.Show(t.Context(), "app", keyring.AuthSource{})
	_, create := k.Create(t.Context(), "another", keyring.KeyRequest{})
	_, request := k.Request(t.Context(), "app", keyring.RequestOptions{NameRequest: agenttest.Subject("app")})
	_, imported := k.Import(t.Context(), "app", keyring.ImportOptions{File: made.File})
	_, rotation := k.BeginRotation(t.Context(), "app", keyring.KeyRequest{})
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
	if left, err := os.ReadDir(s.StateFile("keys")); err != nil || !slices.ContainsFunc(left, func(e os.DirEntry) bool { return e.Name() == "kept" }) {
		t.Errorf("left are %v, %v", left, err)
	}
}

// A certificate is of use with the key itself only: that the key's file fits shows nothing.
func TestNoCertificateIsImportedForAKeyOfAnotherTPM(t *testing.T) {
	s := agenttest.New(t)
	k := s.Keyring(nil)
	report, err := k.Create(t.Context(), "app", keyring.KeyRequest{Algorithm: "ecdsa-p256"})
	if err != nil {
		t.Fatal(err)
	}
	made, err := k.SelfSign(t.Context(), "app", keyring.SelfSignOptions{NameRequest: agenttest.Subject("app")})
	if err != nil {
		t.Fatal(err)
	}
	chain := filepath.Join(t.TempDir(), "chain.pem")
	if err := errors.Join(keyring.WriteFile(chain, []byte(made.PEM)), os.Remove(made.File), spoilKeyFile(report.KeyFile)); err != nil {
		t.Fatal(err)
	}
	_, err = k.Import(t.Context(), "app", keyring.ImportOptions{File: chain})
	if !errors.Is(err, tpm.ErrForeignTPM) || !strings.Contains(agenttest.Advice(err), "[delete key app]") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(made.File); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("imported all the same: %v", err)
	}
}

// Servers refuse such a signature in the chain that they verify, whoever made it.
func TestACertificateThatIsSignedWithSHA1IsWarnedOf(t *testing.T) {
	s := agenttest.New(t)
	k := s.Keyring(nil)
	report, err := k.Create(t.Context(), "app", keyring.KeyRequest{Algorithm: "ecdsa-p256"})
	if err != nil {
		t.Fatal(err)
	}
	key := agenttest.PublicKey(t, report.PublicKey)
	for algorithm, want := range map[x509.SignatureAlgorithm]bool{x509.SHA1WithRSA: true, x509.SHA256WithRSA: false} {
		path := filepath.Join(t.TempDir(), "leaf.pem")
		if err := os.WriteFile(path, agenttest.Issue(t, key, "app", algorithm), 0o600); err != nil {
			t.Fatal(err)
		}
		imported, err := k.Import(t.Context(), "app", keyring.ImportOptions{File: path, Replace: true})
		if err != nil {
			t.Fatal(err)
		}
		shown, err := k.Show(t.Context(), "app", keyring.AuthSource{})
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

// spoilKeyFile leaves a key file as another TPM would have made it: the public half is right, and
// the private one not ours.
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
