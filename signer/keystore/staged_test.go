package keystore_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// stage makes a next generation and stages files for it.
func (s *shelf) stage(names ...string) (dir string) {
	s.t.Helper()
	next := s.begin("app", ecOptions())
	files, err := s.Stage(next)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, name := range names {
		if err := files.Write(name, []byte(name)); err != nil {
			s.t.Fatal(err)
		}
	}
	return filepath.Dir(files.Path("any"))
}

func TestStagedFilesAreMovedOnceTheGenerationIsInUse(t *testing.T) {
	t.Parallel()
	s := newShelf(t, tpmtest.Open(t))
	s.create("app", ecOptions())
	from, to := s.stage("taken", "refused", "unknown"), t.TempDir()
	if err := os.WriteFile(filepath.Join(from, ".taken.tmp-1"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	next, err := s.Next("app")
	if err != nil {
		t.Fatal(err)
	}
	unsure := true
	take := func() error {
		return s.TakeStaged(t.Context(), next, to, func(path string) (bool, error) {
			switch filepath.Base(path) {
			case "unknown":
				if unsure {
					return false, errors.New("it cannot be read")
				}
				return true, nil
			case "taken":
				return true, nil
			}
			return false, nil
		})
	}
	if err := take(); err == nil {
		t.Error("no error for a file of which it is not known what becomes of it")
	}
	if left := s.files(filepath.Join("app", filepath.Base(from))); len(left) != 1 || left[0] != "unknown" {
		t.Errorf("left are %q", left)
	}
	unsure = false
	for range 2 { // as every start does
		if err := take(); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"taken", "unknown"} {
		if text, err := os.ReadFile(filepath.Join(to, name)); err != nil || string(text) != name {
			t.Errorf("%s: %q, %v", name, text, err)
		}
	}
	if _, err := os.Stat(filepath.Join(to, "refused")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("refused: %v", err)
	}
	if _, err := os.Stat(from); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory is still there: %v", err)
	}
}

func TestStagedFilesGoWithTheirGeneration(t *testing.T) {
	t.Parallel()
	s := newShelf(t, tpmtest.Open(t))
	s.create("app", ecOptions())
	from := s.stage("binding.json")
	if err := s.CancelRotation(t.Context(), s.reach, "app"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(from); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory is still there: %v", err)
	}
}
