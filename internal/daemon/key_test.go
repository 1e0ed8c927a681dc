package daemon_test

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/daemon"
	"github.com/keyagent/keyagent/tpm"
)

// tryOpen opens the agent once more on the stage and returns what it says.
func (s *stage) tryOpen() error {
	s.t.Helper()
	d, err := daemon.Open(s.t.Context(), s.cfg, daemon.Options{
		Audit: slog.New(slog.DiscardHandler), Logger: slog.New(slog.NewTextHandler(&s.log, nil)),
	})
	if err != nil {
		return err
	}
	return d.Close()
}

func (s *stage) stateFile(elements ...string) string {
	return filepath.Join(append([]string{s.cfg.StateDir}, elements...)...)
}

// Whoever puts another storage root in place of the TPM's is noticed from the second start on.
func TestAnotherStorageRootIsNotAccepted(t *testing.T) {
	s := newStage(t)
	if err := s.tryOpen(); err != nil {
		t.Fatal(err)
	}
	pin, err := os.ReadFile(s.stateFile("storage-root"))
	if err != nil || len(pin) != 2*(2+32)+1 {
		t.Fatalf("the storage root was not noted: %q, %v", pin, err)
	}
	if err := s.tryOpen(); err != nil {
		t.Fatalf("the same root: %v", err)
	}
	other := append([]byte(nil), pin...)
	if other[10] = '0'; pin[10] == '0' { // a digit still: what is damaged is another story
		other[10] = '1'
	}
	if err := os.WriteFile(s.stateFile("storage-root"), other, 0o600); err != nil {
		t.Fatal(err)
	}
	err = s.tryOpen()
	if !errors.Is(err, tpm.ErrStorageRoot) || !strings.Contains(err.Error(), s.stateFile("storage-root")) {
		t.Errorf("got %v, want a refusal that names the file", err)
	}
}

// What cannot be read may be in order: the root that the TPM shows is not believed, and the note stays.
func TestANoteOfTheStorageRootThatCannotBeReadIsKept(t *testing.T) {
	s := newStage(t)
	if err := s.tryOpen(); err != nil {
		t.Fatal(err)
	}
	note := s.stateFile("storage-root")
	before, err := os.ReadFile(note)
	if err != nil {
		t.Fatal(err)
	}
	for name, fault := range map[string]struct{ begin, end func() error }{
		"it is open to others": {
			func() error { return os.Chmod(note, 0o644) }, // #nosec G302 -- the case under test
			func() error { return os.Chmod(note, 0o600) },
		},
		"a link is in its place": {
			func() error { return errors.Join(os.Rename(note, note+".away"), os.Symlink(note+".away", note)) },
			func() error { return os.Rename(note+".away", note) },
		},
		"a directory is in its place": {
			func() error { return errors.Join(os.Rename(note, note+".away"), os.Mkdir(note, 0o700)) },
			func() error { return errors.Join(os.Remove(note), os.Rename(note+".away", note)) },
		},
	} {
		if err := fault.begin(); err != nil {
			t.Fatal(err)
		}
		opened := s.tryOpen()
		if err := fault.end(); err != nil {
			t.Fatal(err)
		}
		if after, err := os.ReadFile(note); opened == nil || string(after) != string(before) {
			t.Errorf("%s: got %v, and the note is %q (%v)", name, opened, after, err)
		}
	}
	if err := s.tryOpen(); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestATornNoteOfTheStorageRootStopsNothing(t *testing.T) {
	s := newStage(t)
	if err := s.tryOpen(); err != nil {
		t.Fatal(err)
	}
	for _, content := range []string{"", "\n", "000b", "000b0123456789abcdef", "00040123", "no hexadecimal\n", strings.Repeat("0", 300)} {
		if err := os.WriteFile(s.stateFile("storage-root"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := s.tryOpen(); err != nil {
			t.Errorf("%q: %v", content, err)
		}
	}
	if !strings.Contains(s.log.String(), "put aside") {
		t.Error("nobody was told")
	}
	if _, err := os.Stat(s.stateFile("storage-root.torn-1")); err != nil {
		t.Error(err)
	}
}

// A setting that the key does not have would be protection that is believed in and not there.
func TestAKeyThatIsNotAsConfiguredStopsTheAgent(t *testing.T) {
	credentials := t.TempDir()
	if err := os.WriteFile(filepath.Join(credentials, "key-auth"), []byte("a value\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", credentials)
	for _, tt := range []struct {
		name   string
		change func(*config.BindingKey)
		want   string
	}{
		{"PCRs", func(k *config.BindingKey) { k.PCRs = []int{7} }, "bound to PCRs"},
		{"an authorization value", func(k *config.BindingKey) { k.AuthCredential = "key-auth" }, "made without one"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStage(t)
			if err := s.tryOpen(); err != nil {
				t.Fatal(err)
			}
			tt.change(&s.cfg.BindingKey)
			err := s.tryOpen()
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "keyagent key rotate binding") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestAKeyBoundToPCRsAndACredential(t *testing.T) {
	credentials := t.TempDir()
	value := filepath.Join(credentials, "key-auth")
	if err := os.WriteFile(value, []byte("first value\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", credentials)
	s := newStage(t)
	s.cfg.BindingKey = config.BindingKey{PCRs: []int{7, 4}, PCRBank: config.BankSHA256, AuthCredential: "key-auth", PersistentHandle: 0x81010001}
	for range 2 {
		if err := s.tryOpen(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(value, []byte("second value\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := s.tryOpen()
	if !errors.Is(err, tpm.ErrAuthValue) || strings.Contains(err.Error(), "value\n") {
		t.Errorf("with another value: %v", err)
	}
	if err := os.WriteFile(value, []byte("first value\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	extend(t, s.cfg.TPM, 7)
	err = s.tryOpen()
	if !errors.Is(err, tpm.ErrPCRsChanged) || !strings.Contains(err.Error(), "PCR 7 was") || strings.Contains(err.Error(), "PCR 4 was") {
		t.Errorf("after PCR 7 changed: %v", err)
	}
	for _, text := range []string{s.log.String(), err.Error()} {
		if strings.Contains(text, "first value") {
			t.Error("the authorization value was told")
		}
	}
}

func extend(t *testing.T, device string, pcr uint32) {
	t.Helper()
	on, err := tpm.Open(t.Context(), tpm.Config{Device: device})
	if err != nil {
		t.Fatal(err)
	}
	defer on.Close()
	if err := on.Do(t.Context(), func(c transport.TPM) error {
		_, err := tpm2.PCRExtend{
			PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
			Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: make([]byte, 32)}}},
		}.Execute(c)
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func TestCredentialsThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"empty": "\n", "huge": strings.Repeat("x", 5000)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	for name, want := range map[string]string{"empty": "is empty", "huge": "larger", "missing": "no such file", "../passwd": "not the name", ".": "not the name"} {
		if v, err := daemon.ReadCredential(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v", name, v, err)
		}
	}
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	if _, err := daemon.ReadCredential("key-auth"); err == nil || !strings.Contains(err.Error(), "LoadCredential=") {
		t.Errorf("outside of systemd: %v", err)
	}
}

// What another user owns or may write is no secret, whether systemd is said to have put it there or an operator names it.
func TestSecretsOfAnotherUserAreNotTaken(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("giving a file to another user needs root")
	}
	dir := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	path := filepath.Join(dir, "value")
	for _, tt := range []struct {
		name string
		mode fs.FileMode
		uid  int
		want string // in the error of the credential; "": taken
		file string // in that of the file
	}{
		{"as systemd makes it", 0o400, 0, "", ""},
		{"readable for a group, as with an access control list", 0o440, 0, "", ""},
		{"readable for all", 0o444, 0, "", "open to every user"},
		{"another user's", 0o400, 65534, "belongs to uid 65534", "belongs to uid 65534"},
		{"writable for a group", 0o460, 0, "lets others write it", "lets others write it"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := errors.Join(os.WriteFile(path, []byte("secret"), 0o600), os.Chmod(path, tt.mode), os.Chown(path, tt.uid, 0)); err != nil {
				t.Fatal(err)
			}
			defer os.Remove(path)
			_, err := daemon.ReadCredential("value")
			checkSaid(t, "as a credential", err, tt.want)
			_, err = daemon.AuthSource{File: path}.Read()
			checkSaid(t, "as a file", err, tt.file)
		})
	}
}

// checkSaid compares an error with a part of its text; "" is no error.
func checkSaid(t *testing.T, what string, err error, want string) {
	t.Helper()
	if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
		t.Errorf("%s: got %v, want …%s…", what, err, want)
	}
}

// A key in software works, says what it is wherever somebody looks, and satisfies no floor.
func TestASoftwareKeyIsMarkedAndReachesNoFloor(t *testing.T) {
	s := newStage(t)
	s.cfg.Attestation.Provider = config.ProviderNone
	s.cfg.BindingKey.InsecureSoftware = true
	s.cfg.TPM = "unix:/nonexistent"
	s.start()
	status, err := s.client.Status(t.Context())
	if err != nil || status.Key.Strength != "software" {
		t.Errorf("status says %q, %v", status.Key.Strength, err)
	}
	if !strings.Contains(s.log.String(), "for development only") {
		t.Error("the log does not say it")
	}
	if _, err := s.token(); err == nil {
		t.Error("the issuer gave a certificate to a key that nobody attested")
	} else if e, ok := errors.AsType[*client.Error](err); !ok || e.Status == 200 {
		t.Error(err)
	}
}
