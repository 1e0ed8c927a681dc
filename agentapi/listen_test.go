package agentapi_test

import (
	"bufio"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/agentapi"
)

// socketDir returns a directory with a short path, that only its owner writes.
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "listen")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func mustListen(t *testing.T, path string) net.Listener {
	t.Helper()
	ln, err := agentapi.Listen(path, 0o660)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return ln
}

// answers reports whether somebody accepts connections at path.
func answers(path string) bool {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// stale leaves a socket behind at which nobody listens.
func stale(t *testing.T, path string) {
	t.Helper()
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	_ = ln.Close()
}

func TestListen(t *testing.T) {
	t.Run("the socket has the mode that was asked for", func(t *testing.T) {
		path := filepath.Join(socketDir(t), "s")
		mustListen(t, path)
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o660 || info.Mode().Type() != fs.ModeSocket {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
		if !answers(path) {
			t.Error("it does not answer")
		}
	})
	t.Run("a missing directory is made, for others to pass through", func(t *testing.T) {
		dir := filepath.Join(socketDir(t), "run")
		mustListen(t, filepath.Join(dir, "s"))
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
	})
	t.Run("a stale socket is replaced", func(t *testing.T) {
		path := filepath.Join(socketDir(t), "s")
		stale(t, path)
		mustListen(t, path)
		if !answers(path) {
			t.Error("it does not answer")
		}
	})
	t.Run("the socket of a killed agent is replaced", func(t *testing.T) {
		path := filepath.Join(socketDir(t), "s")
		cmd := process("listen", path, "", nil)
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		defer stdin.Close()
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "listening\n" {
			t.Fatalf("%q, %v", line, err)
		}
		if _, err := agentapi.Listen(path, 0o600); !errors.Is(err, agentapi.ErrInUse) {
			t.Errorf("while it lives: %v", err)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		if _, err := os.Lstat(path); err != nil {
			t.Fatalf("it left no socket, the test shows nothing: %v", err)
		}
		mustListen(t, path)
	})
	t.Run("closing removes the socket, twice is once, and it can be opened again", func(t *testing.T) {
		path := filepath.Join(socketDir(t), "s")
		ln := mustListen(t, path)
		if err := ln.Close(); err != nil {
			t.Error(err)
		}
		if err := ln.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("it is still there: %v", err)
		}
		mustListen(t, path)
	})
}

func TestListenRefuses(t *testing.T) {
	tests := []struct {
		name    string
		prepare func(t *testing.T, path string)
		want    string // part of the error
	}{
		{"another agent's socket", func(t *testing.T, path string) { mustListen(t, path) }, "another agent"},
		{"the socket of a program that takes no lock", func(t *testing.T, path string) {
			ln, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = ln.Close() })
		}, "another agent"},
		{"a socket whose owner is too busy to answer", busy, "in use"},
		{"a file", func(t *testing.T, path string) { writeFile(t, path) }, "not a socket"},
		{"a directory", func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, "not a socket"},
		{"a symlink, even to a stale socket", func(t *testing.T, path string) {
			stale(t, path+".other")
			if err := os.Symlink(path+".other", path); err != nil {
				t.Fatal(err)
			}
		}, "not a socket"},
		{"a lock that is a symlink", func(t *testing.T, path string) {
			if err := os.Symlink(path+".target", path+".lock"); err != nil {
				t.Fatal(err)
			}
		}, "symbolic links"},
		{"a directory that everybody writes to", func(t *testing.T, path string) {
			if err := os.Chmod(filepath.Dir(path), 0o777); err != nil {
				t.Fatal(err)
			}
		}, "other users could put a socket there"},
		{"a sticky directory such as /tmp, where somebody could have been first", func(t *testing.T, path string) {
			if err := os.Chmod(filepath.Dir(path), 0o777|os.ModeSticky); err != nil {
				t.Fatal(err)
			}
		}, "other users could put a socket there"},
		{"a directory of another user", func(t *testing.T, path string) {
			needRoot(t)
			if err := os.Chown(filepath.Dir(path), 65534, 65534); err != nil {
				t.Fatal(err)
			}
		}, "belongs to uid 65534"},
		{"a file where the directory should be", func(t *testing.T, path string) {
			if err := os.Remove(filepath.Dir(path)); err != nil {
				t.Fatal(err)
			}
			writeFile(t, filepath.Dir(path))
		}, "not a directory"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(socketDir(t), "s")
			tt.prepare(t, path)
			before, _ := os.Lstat(path)
			_, err := agentapi.Listen(path, 0o600)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
				t.Fatalf("got %v, want …%s…", err, tt.want)
			}
			if after, _ := os.Lstat(path); before != nil && !os.SameFile(before, after) {
				t.Error("what was there is gone")
			}
		})
	}
	t.Run("a directory that is missing deeply, and says what to do", func(t *testing.T) {
		_, err := agentapi.Listen(filepath.Join(socketDir(t), "a", "b", "s"), 0o600)
		if err == nil || !strings.Contains(err.Error(), "make the directory, with mode 0755") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a directory that is a symlink to another user's", func(t *testing.T) {
		needRoot(t)
		dir := socketDir(t)
		theirs := filepath.Join(dir, "theirs")
		if err := errors.Join(os.Mkdir(theirs, 0o755), os.Chown(theirs, 65534, 65534), os.Symlink(theirs, filepath.Join(dir, "link"))); err != nil {
			t.Fatal(err)
		}
		if _, err := agentapi.Listen(filepath.Join(dir, "link", "s"), 0o600); err == nil || !strings.Contains(err.Error(), "not a directory") {
			t.Errorf("got %v", err)
		}
	})
	for name, mode := range map[string]fs.FileMode{"another user's directory": 0o755, "another user's sticky directory": 0o777 | os.ModeSticky} {
		t.Run("a directory below "+name, func(t *testing.T) {
			needRoot(t)
			theirs := filepath.Join(socketDir(t), "theirs") // and nothing above it
			ours := filepath.Join(theirs, "ours")
			if err := errors.Join(os.MkdirAll(ours, 0o755), os.Chown(theirs, 65534, 65534), os.Chmod(theirs, mode)); err != nil {
				t.Fatal(err)
			}
			_, err := agentapi.Listen(filepath.Join(ours, "s"), 0o600)
			if err == nil || !strings.Contains(err.Error(), theirs+": belongs to uid 65534") {
				t.Errorf("got %v", err)
			}
		})
	}
	for name, path := range map[string]string{
		"a relative path": "agent.sock", "an abstract name": "@agent", "nothing": "",
		"a path that is too long": "/tmp/" + strings.Repeat("x", 120),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := agentapi.Listen(path, 0o600); err == nil {
				t.Error("accepted")
			}
		})
	}
}

// busy leaves a socket at which somebody listens whose queue is full.
func busy(t *testing.T, path string) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	for {
		conn, err := net.Dial("unix", path)
		if errors.Is(err, unix.EAGAIN) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
}

func writeFile(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Of agents that start together at a stale socket exactly one gets it, and the others do not take
// it away again.
func TestListenTogether(t *testing.T) {
	path := filepath.Join(socketDir(t), "s")
	stale(t, path)
	var winners atomic.Int32
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() {
			ln, err := agentapi.Listen(path, 0o600)
			if err == nil {
				winners.Add(1)
				t.Cleanup(func() { _ = ln.Close() })
			} else if !errors.Is(err, agentapi.ErrInUse) {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if winners.Load() != 1 || !answers(path) {
		t.Errorf("%d winners, answers: %v", winners.Load(), answers(path))
	}
}
