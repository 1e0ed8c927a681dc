package statefile_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/keyagent/keyagent/internal/statefile"
)

const limit = 1 << 10

// stateDir is a directory as EnsureDir makes it.
func stateDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	if err := statefile.EnsureDir(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := statefile.Read(path, limit)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestWriteReplacesAndLeavesNothingElse(t *testing.T) {
	t.Parallel()
	dir := stateDir(t)
	path := filepath.Join(dir, "cert.json")
	for _, content := range []string{"first", "second, longer", ""} {
		if err := statefile.Write(path, []byte(content)); err != nil {
			t.Fatal(err)
		}
		if got := read(t, path); got != content {
			t.Errorf("read %q after writing %q", got, content)
		}
	}
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("the directory holds %v", got)
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestWriteReplacesASymbolicLinkItself(t *testing.T) {
	t.Parallel()
	dir := stateDir(t)
	target := filepath.Join(t.TempDir(), "target")
	if err := os.WriteFile(target, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "key")
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
	if err := statefile.Write(path, []byte("ours")); err != nil {
		t.Fatal(err)
	}
	if got := read(t, target); got != "untouched" {
		t.Errorf("the link's target now holds %q", got)
	}
}

func TestWriteNewNeverOverwrites(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		place func(path string) error
	}{
		{"a file with content", func(p string) error { return os.WriteFile(p, []byte("key"), 0o600) }},
		{"an empty file", func(p string) error { return os.WriteFile(p, nil, 0o600) }},
		{"a symbolic link to nowhere", func(p string) error { return os.Symlink("/nonexistent", p) }},
		{"a directory", func(p string) error { return os.Mkdir(p, 0o700) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := stateDir(t)
			path := filepath.Join(dir, "key.pem")
			if err := tt.place(path); err != nil {
				t.Fatal(err)
			}
			before, _ := os.Lstat(path)
			if err := statefile.WriteNew(path, []byte("other")); !errors.Is(err, fs.ErrExist) {
				t.Errorf("WriteNew returned %v", err)
			}
			after, err := os.Lstat(path)
			if err != nil || !os.SameFile(before, after) || before.Size() != after.Size() {
				t.Errorf("the file changed: %v", err)
			}
			if got := names(t, dir); len(got) != 1 {
				t.Errorf("the directory holds %v", got)
			}
		})
	}
}

func TestWriteNewHasOneWinner(t *testing.T) {
	t.Parallel()
	path := filepath.Join(stateDir(t), "key.pem")
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		wins []string
	)
	for _, content := range []string{"a", "b", "c", "d", "e", "f"} {
		wg.Go(func() {
			err := statefile.WriteNew(path, []byte(content))
			if err != nil && !errors.Is(err, fs.ErrExist) {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				wins = append(wins, content)
			}
		})
	}
	wg.Wait()
	if len(wins) != 1 || read(t, path) != wins[0] {
		t.Errorf("winners %v, content %q", wins, read(t, path))
	}
}

func TestWriteIntoAMissingDirectoryFails(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "missing", "key.pem")
	if err := statefile.Write(path, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Write returned %v", err)
	}
}

func TestReadRefusesFilesThatAreNotPrivate(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		place func(t *testing.T, path string)
		want  string
	}{
		{"a file that the group may read", func(t *testing.T, p string) { place(t, p, 0o640) }, "chmod 0600"},
		{"a file that others may write", func(t *testing.T, p string) { place(t, p, 0o602) }, "chmod 0600"},
		{"a file of another user", func(t *testing.T, p string) { place(t, p, 0o600); giveAway(t, p) }, "belongs to uid 12345"},
		{"a symbolic link", func(t *testing.T, p string) {
			place(t, p+".target", 0o600)
			must(t, os.Symlink(p+".target", p))
		}, "it is a symbolic link"},
		{"a directory", func(t *testing.T, p string) { must(t, os.Mkdir(p, 0o700)) }, "is a directory"},
		{"a named pipe that would block", func(t *testing.T, p string) { must(t, syscall.Mkfifo(p, 0o600)) }, "is a named pipe"},
		{"a file over the limit", func(t *testing.T, p string) {
			must(t, statefile.Write(p, bytes.Repeat([]byte("x"), limit+1)))
		}, "larger than 1024 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(stateDir(t), "state.json")
			tt.place(t, path)
			data, err := statefile.Read(path, limit)
			if err == nil {
				t.Fatalf("Read returned %d bytes", len(data))
			}
			if !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("the error does not help an operator: %v", err)
			}
		})
	}
}

func TestReadOfAMissingFileIsErrNotExist(t *testing.T) {
	t.Parallel()
	if _, err := statefile.Read(filepath.Join(t.TempDir(), "none"), limit); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Read returned %v", err)
	}
}

func TestReadTakesAFileOfExactlyTheLimit(t *testing.T) {
	t.Parallel()
	path := filepath.Join(stateDir(t), "full")
	want := bytes.Repeat([]byte("y"), limit)
	must(t, statefile.Write(path, want))
	if got := read(t, path); got != string(want) {
		t.Errorf("read %d bytes", len(got))
	}
}

func TestEnsureDir(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		place func(t *testing.T, path string)
		want  string // in the error; empty: accepted
	}{
		{"a missing directory is made", func(*testing.T, string) {}, ""},
		{"a private one is taken", func(t *testing.T, p string) { must(t, os.Mkdir(p, 0o700)) }, ""},
		{"one that the group may enter is refused", func(t *testing.T, p string) { must(t, os.Mkdir(p, 0o750)) }, "chmod 0700"},
		{"one that others may list is refused", func(t *testing.T, p string) {
			must(t, os.Mkdir(p, 0o700))
			must(t, os.Chmod(p, 0o704)) // #nosec G302 -- the case under test
		}, "chmod 0700"},
		{"one of another user is refused", func(t *testing.T, p string) { must(t, os.Mkdir(p, 0o700)); giveAway(t, p) }, "belongs to uid 12345"},
		{"one below another user's is refused", func(t *testing.T, p string) {
			must(t, os.Mkdir(p, 0o700))
			giveAway(t, filepath.Dir(p))
		}, "on the way to it"},
		{"one below another user's sticky one is refused", func(t *testing.T, p string) {
			must(t, os.Mkdir(p, 0o700))
			giveAway(t, filepath.Dir(p))
			must(t, os.Chmod(filepath.Dir(p), 0o777|fs.ModeSticky)) // #nosec G302 -- the case under test
		}, "on the way to it"},
		{"one below what everybody writes is refused", func(t *testing.T, p string) {
			must(t, os.Mkdir(p, 0o700))
			must(t, os.Chmod(filepath.Dir(p), 0o777)) // #nosec G302 -- the case under test
		}, "on the way to it"},
		{"one in a sticky directory of ours is taken", func(t *testing.T, p string) {
			must(t, os.Mkdir(p, 0o700))
			must(t, os.Chmod(filepath.Dir(p), 0o777|fs.ModeSticky)) // #nosec G302 -- the case under test
		}, ""},
		{"a symbolic link is refused", func(t *testing.T, p string) { must(t, os.Symlink(t.TempDir(), p)) }, "symbolic link"},
		{"a file is refused", func(t *testing.T, p string) { place(t, p, 0o600) }, "is a regular file"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "state")
			tt.place(t, path)
			err := statefile.EnsureDir(path)
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				if info, _ := os.Lstat(path); info.Mode().Perm() != 0o700 {
					t.Errorf("mode %v", info.Mode())
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("EnsureDir returned %v", err)
			}
		})
	}
}

func TestEnsureDirMakesParents(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a", "b", "state")
	must(t, statefile.EnsureDir(path))
	must(t, statefile.EnsureDir(path)) // again: it is there now
}

func TestQuarantineKeepsEveryTornFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(stateDir(t), "cert.json")
	for _, content := range []string{"torn one", "torn two"} {
		must(t, statefile.Write(path, []byte(content)))
		torn, err := statefile.Quarantine(path)
		must(t, err)
		if got := read(t, torn); got != content {
			t.Errorf("%s holds %q", torn, got)
		}
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the torn file is still in place: %v", err)
		}
	}
	if _, err := statefile.Quarantine(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("quarantine of nothing returned %v", err)
	}
}

func place(t *testing.T, path string, mode fs.FileMode) {
	t.Helper()
	must(t, os.WriteFile(path, []byte("content"), 0o600))
	must(t, os.Chmod(path, mode))
}

func giveAway(t *testing.T, path string) {
	t.Helper()
	if err := os.Chown(path, 12345, -1); err != nil {
		t.Skipf("cannot give a file to another user: %v", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
