package statefile_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/internal/statefile"
)

func TestAnInstalledFileIsNeverLost(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "etc", "agent", "config.yaml")
	how := statefile.Installation{Mode: 0o640, GID: os.Getegid()}
	install := func(text string, replace bool) (string, error) {
		how.Replace = replace
		return statefile.Install(path, []byte(text), how)
	}
	if kept, err := install("first", true); err != nil || kept != "" {
		t.Fatalf("nothing was there: %q, %v", kept, err)
	}
	info, err := os.Stat(path)
	if must(t, err); info.Mode().Perm() != 0o640 {
		t.Errorf("its mode is %v", info.Mode())
	}
	if _, err := install("second", false); !errors.Is(err, fs.ErrExist) || content(t, path) != "first" {
		t.Errorf("got %v, and %q is there", err, content(t, path))
	}
	for n, want := range []string{"first", "second"} {
		next := []string{"second", "third"}[n]
		kept, err := install(next, true)
		if err != nil || content(t, kept) != want || content(t, path) != next {
			t.Errorf("got %q, %v", kept, err)
		}
	}
	if got := names(t, filepath.Dir(path)); strings.Join(got, " ") != "config.yaml config.yaml.old-1 config.yaml.old-2" {
		t.Errorf("there are %q", got)
	}
}

func TestAFileIsNotInstalledWhereOthersCouldExchangeIt(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(dir string) error{
		"in a directory that others write": func(dir string) error { return os.Chmod(dir, 0o777) }, // #nosec G302 -- the case under test
		"over a symbolic link":             func(dir string) error { return os.Symlink("/etc/passwd", filepath.Join(dir, "config.yaml")) },
		"over a directory":                 func(dir string) error { return os.Mkdir(filepath.Join(dir, "config.yaml"), 0o700) },
	} {
		dir := t.TempDir()
		must(t, prepare(dir))
		before := strings.Join(names(t, dir), " ")
		_, err := statefile.Install(filepath.Join(dir, "config.yaml"), []byte("text"), statefile.Installation{Mode: 0o600, GID: -1, Replace: true})
		if after := strings.Join(names(t, dir), " "); err == nil || after != before {
			t.Errorf("%s: got %v, and %q became %q", name, err, before, after)
		}
	}
}
