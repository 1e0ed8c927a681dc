package statefile_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/internal/statefile"
)

func privateDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	if err := statefile.EnsureDir(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// mustLock takes the lock and returns what gives it back.
func mustLock(t *testing.T, dir string) func() {
	t.Helper()
	unlock, err := statefile.Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := unlock(); err != nil {
			t.Error(err)
		}
	}
}

func inUse(t *testing.T, dir string) *statefile.InUseError {
	t.Helper()
	unlock, err := statefile.Lock(dir)
	held, ok := errors.AsType[*statefile.InUseError](err)
	if !ok {
		t.Fatalf("got %v, want that the directory is in use", err)
	}
	if unlock != nil {
		t.Error("a lock that was not taken can be given back")
	}
	return held
}

// TestLockOfAStateDirectory covers what operators and crashes do to a directory while it is locked,
// and after.
func TestLockOfAStateDirectory(t *testing.T) {
	t.Run("held once, named, and given back", func(t *testing.T) {
		dir := privateDir(t)
		unlock := mustLock(t, dir)
		held := inUse(t, dir)
		if held.PID != os.Getpid() || !strings.Contains(held.Error(), dir) || held.Hint() == "" {
			t.Errorf("got %+v: %v", held, held)
		}
		if seen := statefile.Holder(dir); seen == nil || *seen != *held {
			t.Errorf("the holder is %+v, want %+v", seen, held)
		}
		unlock()
		if seen := statefile.Holder(dir); seen != nil {
			t.Errorf("the holder of a lock that was given back is %+v", seen)
		}
		mustLock(t, dir)()
	})
	t.Run("by another path", func(t *testing.T) {
		dir := privateDir(t)
		defer mustLock(t, dir)()
		link := filepath.Join(t.TempDir(), "parent")
		if err := os.Symlink(filepath.Dir(dir), link); err != nil {
			t.Fatal(err)
		}
		inUse(t, filepath.Join(link, filepath.Base(dir)))
	})
	t.Run("somebody removes all files in it", func(t *testing.T) {
		dir := privateDir(t)
		unlock := mustLock(t, dir)
		if err := os.Remove(filepath.Join(dir, "agent.pid")); err != nil {
			t.Fatal(err)
		}
		if held := inUse(t, dir); held.PID != 0 || strings.Contains(held.Error(), "process") {
			t.Errorf("got %v", held)
		}
		unlock()
	})
	for name, note := range map[string]string{
		"a note that a crash left":    "1\n", // of a process that lives and has nothing to do with it
		"a note that was cut off":     "",
		"a note that is no number":    "systemd\n",
		"a note longer than any":      strings.Repeat("9", 1000),
		"a note of a negative number": "-1\n",
	} {
		t.Run(name, func(t *testing.T) {
			dir := privateDir(t)
			path := filepath.Join(dir, "agent.pid")
			if err := os.WriteFile(path, []byte(note), 0o600); err != nil {
				t.Fatal(err)
			}
			unlock := mustLock(t, dir)
			if held := inUse(t, dir); held.PID != os.Getpid() {
				t.Errorf("with the new note: %v", held)
			}
			if err := os.WriteFile(path, []byte(note), 0o600); err != nil {
				t.Fatal(err)
			}
			if held := inUse(t, dir); held.PID != 0 && note != "1\n" {
				t.Errorf("with the old note: %v", held)
			}
			unlock()
		})
	}
	t.Run("a note of a process that is gone", func(t *testing.T) {
		dir := privateDir(t)
		defer mustLock(t, dir)()
		gone := exec.CommandContext(t.Context(), "true")
		if err := gone.Run(); err != nil {
			t.Skip(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "agent.pid"), []byte(strconv.Itoa(gone.ProcessState.Pid())), 0o600); err != nil {
			t.Fatal(err)
		}
		if held := inUse(t, dir); held.PID != 0 {
			t.Errorf("got %v", held)
		}
	})
}
