package peer_test

import (
	"io"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/agentapi/peer"
)

// program copies this test to a place that every user can reach, and returns its path.
func program(t *testing.T, name string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "program")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	path := filepath.Join(dir, name)
	to, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(to, from); err != nil {
		t.Fatal(err)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRuns(t *testing.T) {
	needRoot(t)
	trusted := program(t, "trusted")
	host, ln := peer.Host{}, listen(t)
	run := func(path string) *caller {
		t.Helper()
		cmd := command("connect", ln.Addr().String(), &syscall.Credential{Uid: other, Gid: other})
		cmd.Path = path
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		conn, found := accept(t, ln)
		t.Cleanup(func() { _ = found.Close() })
		c := &caller{T: t, cmd: cmd, conn: conn, Caller: found}
		t.Cleanup(c.end)
		return c
	}

	t.Run("the program itself", func(t *testing.T) {
		c := run(trusted)
		if !host.Runs(c.Caller, trusted) {
			t.Error("it does not")
		}
		link := filepath.Join(t.TempDir(), "link")
		if err := os.Symlink(trusted, link); err != nil {
			t.Fatal(err)
		}
		if !host.Runs(c.Caller, link) {
			t.Error("a path that leads to it does not")
		}
		for _, path := range []string{"/proc/self/exe", "/nonexistent", filepath.Dir(trusted), "/dev/null", ""} {
			if host.Runs(c.Caller, path) {
				t.Errorf("it runs %q", path)
			}
		}
		c.end()
		if host.Runs(c.Caller, trusted) {
			t.Error("it does when it has ended")
		}
	})

	t.Run("another program", func(t *testing.T) {
		if host.Runs(run("/proc/self/exe").Caller, trusted) {
			t.Error("it counts")
		}
	})

	t.Run("a copy in the place of the program", func(t *testing.T) {
		path := program(t, "replaced")
		c := run(path)
		if err := os.Rename(program(t, "new"), path); err != nil {
			t.Fatal(err)
		}
		if host.Runs(c.Caller, path) {
			t.Error("the program that was replaced counts for the one that has its place")
		}
	})

	t.Run("a caller over TCP, or that is not held", func(t *testing.T) {
		for _, c := range []peer.Caller{{Via: peer.ViaTCP}, {PID: int32(os.Getpid())}, {}} {
			if host.Runs(c, "/proc/self/exe") {
				t.Errorf("%+v runs a program", c)
			}
		}
	})
}

// In namespaces of their own, users can mount any program over the path of another one. The path
// that the kernel then shows to everybody is that of the latter.
func TestRunsInAnotherProgramsPlace(t *testing.T) {
	needRoot(t)
	trusted, forged := program(t, "trusted"), program(t, "forged")
	ln := listen(t)
	cmd := command("run in place of another", ln.Addr().String(), nil)
	cmd.Env = append(cmd.Env, placeEnv+"="+trusted, programEnv+"="+forged)
	cmd.Path = forged
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: other, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: other, Size: 1}},
		Credential:  &syscall.Credential{Uid: 0, Gid: 0, NoSetGroups: true},
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Skipf("no user namespaces here: %v", err)
	}
	conn, found := accept(t, ln)
	t.Cleanup(func() { _ = found.Close() })
	c := &caller{T: t, cmd: cmd, conn: conn, Caller: found}
	defer c.end()
	shown, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "exe"))
	if err != nil || shown != trusted {
		t.Fatalf("the kernel shows %q, %v: the test does not do what it says", shown, err)
	}
	if c.UID != other {
		t.Errorf("uid %d, want that outside of the namespace", c.UID)
	}
	host := peer.Host{}
	if host.Runs(c.Caller, trusted) {
		t.Error("it counts as the program whose path it has")
	}
	if !host.Runs(c.Caller, forged) {
		t.Error("it does not count as what it is")
	}
}

const (
	placeEnv   = "KEYAGENT_PEER_TEST_PLACE"
	programEnv = "KEYAGENT_PEER_TEST_PROGRAM"
)

// runInPlace mounts one program over another and executes that, as a caller.
func runInPlace() error {
	place := os.Getenv(placeEnv)
	if err := unix.Mount(os.Getenv(programEnv), place, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	if err := os.Setenv(childEnv, "connect"); err != nil {
		return err
	}
	return syscall.Exec(place, []string{place}, os.Environ())
}

// A caller in a user namespace is who it is outside, over both transports.
func TestUserNamespaces(t *testing.T) {
	needRoot(t)
	inside := func(role, address string) *caller {
		t.Helper()
		cmd := command(role, address, nil)
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: victim, Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: victim, Size: 1}},
			Credential:  &syscall.Credential{Uid: 0, Gid: 0, NoSetGroups: true},
		}
		if err := cmd.Start(); err != nil {
			t.Skipf("no user namespaces here: %v", err)
		}
		c := &caller{T: t, cmd: cmd}
		t.Cleanup(c.end)
		return c
	}
	t.Run("Unix", func(t *testing.T) {
		ln := listen(t)
		inside("connect", ln.Addr().String())
		if _, found := accept(t, ln); found.UID != victim || found.GID != victim || found.InGroup(0) {
			t.Errorf("got %+v", found)
		}
	})
	t.Run("TCP", func(t *testing.T) {
		w := newTCPWorld(t, loopback)
		inside("connect by tcp", w.ln.Addr().String())
		w.wantUID(victim)
	})
}
