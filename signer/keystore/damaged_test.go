package keystore_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/signer/keystore"
	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// A damaged file is reported, and never leads to another key or certificate in silence.
func TestDamagedFiles(t *testing.T) {
	t.Parallel()
	on := tpmtest.Open(t)
	for _, tt := range []struct {
		name    string
		file    string
		content string
		mode    fs.FileMode
		want    string // in Current's error; empty: it works on
	}{
		{"current is empty", "current", "", 0o600, "write the number"},
		{"current is half written", "current", "2", 0o600, ""},
		{"current has words", "current", "two\n", 0o600, "write the number"},
		{"current is negative", "current", "-1\n", 0o600, "write the number"},
		{"current is zero", "current", "0\n", 0o600, "write the number"},
		{"current has a leading zero", "current", "02\n", 0o600, "write the number"},
		{"current is huge", "current", strings.Repeat("9", 30), 0o600, "write the number"},
		{"current is far too long", "current", strings.Repeat("1", 100), 0o600, "larger than"},
		{"current is open to others", "current", "2\n", 0o644, "chmod 0600"},
		{"notes are empty", "2.json", "", 0o600, ""},
		{"notes are torn", "2.json", `{"created": "20`, 0o600, ""},
		{"notes are open to others", "2.json", `{}`, 0o666, ""},
		{"notes name a handle that is none", "2.json", `{"persistent_handle": "elsewhere"}`, 0o600, ""},
		{"notes name the storage root's handle", "2.json", `{"persistent_handle": "0x81000001"}`, 0o600, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newShelf(t, on)
			s.certify(s.create("app", ecOptions()))
			next := s.begin("app", ecOptions())
			s.certify(next)
			if err := s.finish(next, believe); err != nil {
				t.Fatal(err)
			}
			path := s.file("app", tt.file)
			if err := errors.Join(os.WriteFile(path, []byte(tt.content), 0o600), os.Chmod(path, tt.mode)); err != nil {
				t.Fatal(err)
			}
			e, err := s.Current("app")
			switch {
			case tt.want == "" && err != nil:
				t.Fatal(err)
			case tt.want == "" && (e.Generation != 2 || !s.works(e)):
				t.Errorf("%+v is in use", e)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path)):
				t.Errorf("got %v", err)
			}
			if err != nil {
				if _, err := s.Create(t.Context(), s.on, "app", ecOptions()); err == nil {
					t.Error("another key was made in its place")
				}
			}
			if err := s.Delete(t.Context(), s.reach, "app"); err != nil {
				t.Errorf("it cannot be deleted: %v", err)
			}
		})
	}
}

func TestAKeyFileThatIsTornOrOpenIsAnErrorAndCanBeDeleted(t *testing.T) {
	t.Parallel()
	on := tpmtest.Open(t)
	for name, damage := range map[string]func(string) error{
		"torn":             func(p string) error { return os.WriteFile(p, []byte("-----BEGIN TSS2 PRIV"), 0o600) },
		"open to others":   func(p string) error { return os.Chmod(p, 0o644) },
		"of another owner": func(p string) error { return os.Chown(p, 12345, -1) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newShelf(t, on)
			e := s.create("app", ecOptions())
			if err := damage(e.KeyFile); err != nil {
				t.Skipf("it takes root to give files away: %v", err)
			}
			if _, err := s.Open(t.Context(), e, signer.Config{TPM: on}); err == nil || !strings.Contains(err.Error(), e.KeyFile) {
				t.Errorf("opened: %v", err)
			}
			if _, err := s.Create(t.Context(), on, "app", ecOptions()); !errors.Is(err, keystore.ErrKeyExists) {
				t.Errorf("made anew: %v", err)
			}
			// Keys in no persistent place go without their TPM.
			out := func(context.Context) (*tpm.TPM, error) { return nil, errors.New("the TPM was asked") }
			if err := s.Delete(t.Context(), out, "app"); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestATornCertificateIsAnErrorAndCanBeReplaced(t *testing.T) {
	t.Parallel()
	s := newShelf(t, tpmtest.Open(t))
	e := s.create("app", ecOptions())
	chain := s.certify(e)
	for _, content := range []string{"", "-----BEGIN CERTIFICATE-----\nMIIB", strings.Repeat("x", 100<<10)} {
		if err := os.WriteFile(e.CertFile, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Certificates(e); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%.20q: %v", content, err)
		}
		if err := s.put(t.Context(), e, s.open(e), chain); err != nil {
			t.Error(err)
		}
		if !s.works(e) {
			t.Error("it has no certificate")
		}
	}
}

// An operator who moves a key file away, as the errors advise, gets another key: without the old
// one's certificate, and also after a rotation, when current does not say 1.
func TestAKeyFileThatWasMovedAwayIsReplaced(t *testing.T) {
	t.Parallel()
	s := newShelf(t, tpmtest.Open(t))
	s.certify(s.create("app", ecOptions()))
	for generation := 1; generation <= 2; generation++ {
		e := s.current("app")
		if err := os.Rename(e.KeyFile, filepath.Join(t.TempDir(), "moved")); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			k, opened, err := s.OpenOrCreate(t.Context(), s.on, "app", ecOptions(), signer.Config{})
			if err != nil {
				t.Fatal(err)
			}
			defer k.Close()
			if opened.Generation != generation || !opened.Current || s.works(opened) {
				t.Errorf("generation %d: %+v", generation, opened)
			}
		}
		s.certify(s.current("app"))
		next := s.begin("app", ecOptions())
		s.certify(next)
		if err := s.finish(next, believe); err != nil {
			t.Fatal(err)
		}
	}
}

func TestALostNoteOfTheCurrentGenerationIsNotGuessed(t *testing.T) {
	t.Parallel()
	s := newShelf(t, tpmtest.Open(t))
	s.create("app", ecOptions())
	for range 2 { // so that generation 1 is gone
		if err := s.finish(s.begin("app", ecOptions()), believe); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(s.file("app", "current")); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		func() error { _, err := s.Current("app"); return err }(),
		func() error { _, err := s.Create(t.Context(), s.on, "app", ecOptions()); return err }(),
	} {
		if err == nil || errors.Is(err, keystore.ErrNoKey) || !strings.Contains(err.Error(), "[2 3]") {
			t.Errorf("got %v", err)
		}
	}
	if names, err := s.Names(); err != nil || !slices.Equal(names, []string{"app"}) {
		t.Errorf("listed: %v, %v", names, err)
	}
}

func TestAGenerationInUseThatIsMissing(t *testing.T) {
	t.Parallel()
	s := newShelf(t, tpmtest.Open(t))
	s.create("app", ecOptions())
	if err := os.WriteFile(s.file("app", "current"), []byte("7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := s.Current("app")
	if !errors.Is(err, keystore.ErrGenerationMissing) || !errors.Is(err, keystore.ErrNoKey) ||
		!strings.Contains(err.Error(), s.file("app", "current")+" names generation 7, and there are the files of [1]") {
		t.Errorf("got %v", err)
	}
	if e := s.create("app", ecOptions()); e.Generation != 7 {
		t.Errorf("made in its place: %+v", e)
	}
}

func TestLeftoversAreNotKeys(t *testing.T) {
	t.Parallel()
	s := newShelf(t, tpmtest.Open(t))
	for _, dir := range []string{"begun", ".deleted-old-1", "NotAName"} {
		if err := os.Mkdir(s.file(dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"begun/.1.key.pem.tmp-123", "begun/1.json", "begun/1.cert.pem", "begun/01.key.pem", "file"} {
		if err := os.WriteFile(s.file(file), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if names, err := s.Names(); err != nil || len(names) != 0 {
		t.Errorf("listed: %v, %v", names, err)
	}
	if e := s.create("begun", ecOptions()); s.works(e) {
		t.Error("the new key has a certificate")
	}
	s.create("app", ecOptions())
	if err := s.Delete(t.Context(), s.reach, "app"); err != nil {
		t.Fatal(err)
	}
	if got := s.files(""); slices.Contains(got, ".deleted-old-1") {
		t.Errorf("still there: %v", got)
	}
}

func TestADirectoryThatIsOpenToOthersIsRefused(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "keys")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	if _, err := keystore.Open(keystore.Config{StateDir: filepath.Dir(dir)}); err == nil || !strings.Contains(err.Error(), "chmod 0700") {
		t.Errorf("got %v", err)
	}
	s := newShelf(t, tpmtest.Open(t))
	if err := errors.Join(os.Mkdir(s.file("app"), 0o700), os.Chmod(s.file("app"), 0o770)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Create(t.Context(), s.on, "app", ecOptions()); err == nil || !strings.Contains(err.Error(), "chmod 0700") {
		t.Errorf("got %v", err)
	}
}
