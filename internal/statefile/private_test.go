package statefile_test

import (
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/keyagent/keyagent/internal/statefile"
)

func TestAnExportedSecretIsForItsOwnerAlone(t *testing.T) {
	dir := t.TempDir()
	other := filepath.Join(dir, "other")
	for name, prepare := range map[string]func(path string) error{
		"nothing is there":         func(string) error { return nil },
		"a file that all may read": func(path string) error { return os.WriteFile(path, []byte("old"), 0o644) },
		"a link to one": func(path string) error {
			if err := os.WriteFile(other, []byte("old"), 0o644); err != nil {
				return err
			}
			return os.Symlink(other, path)
		},
		"a link to nothing": func(path string) error { return os.Symlink("gone", path) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, name)
			if err := prepare(path); err != nil {
				t.Fatal(err)
			}
			if err := statefile.ExportPrivate(path, []byte("secret")); err != nil {
				t.Fatal(err)
			}
			info, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			content, err := os.ReadFile(path)
			if err != nil || info.Mode() != 0o600 || string(content) != "secret" {
				t.Errorf("%v, %q, %v", info.Mode(), content, err)
			}
		})
	}
	if content, err := os.ReadFile(other); err != nil || string(content) != "old" {
		t.Errorf("what a link led to is changed: %q, %v", content, err)
	}
}

func TestASecretForAPipeLeavesThePipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if err := statefile.ExportPrivate(path, []byte("secret")); err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(reader)
	info, statErr := os.Lstat(path)
	if err != nil || statErr != nil || string(content) != "secret" || info.Mode().Type() != os.ModeNamedPipe {
		t.Errorf("%q, %v, %v, %v", content, err, info, statErr)
	}
}

func TestADirectoryIsNoPlaceForASecret(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{dir, filepath.Join(dir, "none", "x"), ""} {
		if err := statefile.ExportPrivate(path, []byte("secret")); err == nil {
			t.Errorf("%q was written", path)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
