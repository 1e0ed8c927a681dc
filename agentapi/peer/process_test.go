package peer_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/agentapi/peer"
)

// unified returns the directory of the cgroup v2 tree of this machine, or skips.
func unified(t testing.TB) string {
	t.Helper()
	for _, dir := range []string{peer.CgroupRoot, filepath.Join(peer.CgroupRoot, "unified")} {
		var fs unix.Statfs_t
		if err := unix.Statfs(dir, &fs); err == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
			return dir
		}
	}
	t.Skip("no cgroup v2 here")
	return ""
}

// newCgroup makes a cgroup and returns its path below the root, its directory and its id.
func newCgroup(t testing.TB, name string) (path, dir string, id uint64) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making a cgroup needs root")
	}
	path = "/" + name
	dir = filepath.Join(unified(t), path)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skipf("no cgroup can be made here: %v", err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	info, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	return path, dir, info.Sys().(*syscall.Stat_t).Ino
}

// testCgroup is a name that no other test has.
func testCgroup(t testing.TB) string {
	return fmt.Sprintf("keyagent-test-%d-%s", os.Getpid(), strings.ReplaceAll(filepath.Base(t.Name()), "/", "-"))
}

// caller is a process of the tests that has connected.
type caller struct {
	*testing.T
	cmd  *exec.Cmd
	conn net.Conn
	peer.Caller
	once bool
}

// startIn starts a process, in a cgroup unless dir is "", and accepts its connection.
func startIn(t *testing.T, dir string, ln *net.UnixListener, credential *syscall.Credential) *caller {
	t.Helper()
	cmd := command("connect", ln.Addr().String(), credential)
	if dir != "" {
		file, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(file.Fd())
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	conn, found := accept(t, ln)
	t.Cleanup(func() { _ = found.Close() })
	c := &caller{T: t, cmd: cmd, conn: conn, Caller: found}
	t.Cleanup(c.end)
	return c
}

// end kills the process and waits until it has ended.
func (c *caller) end() {
	if c.once {
		return
	}
	c.once = true
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}

func TestCgroupOfACaller(t *testing.T) {
	t.Run("over a Unix socket", func(t *testing.T) {
		_, dir, id := newCgroup(t, testCgroup(t))
		c := startIn(t, dir, listen(t), &syscall.Credential{Uid: victim, Gid: victim})
		if c.CgroupID != id || c.Weak && weakKernel(t) == false {
			t.Errorf("got %+v, want cgroup %d", c.Caller, id)
		}
		c.end()
	})
	t.Run("over TCP", func(t *testing.T) {
		_, dir, id := newCgroup(t, testCgroup(t))
		w := newTCPWorld(t, loopback)
		cmd := command("connect by tcp", w.ln.Addr().String(), &syscall.Credential{Uid: victim, Gid: victim})
		file, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(file.Fd())
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		conn := w.accept()
		found, err := w.tcp.Of(conn)
		if err != nil || found.CgroupID != id {
			t.Errorf("got %+v, %v, want cgroup %d", found, err, id)
		}
		_ = conn.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
}

// weakKernel reports whether this kernel has no pidfd of a socket's other end.
func weakKernel(t *testing.T) bool {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	fd, err := unix.GetsockoptInt(pair[0], unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if err == nil {
		_ = unix.Close(fd)
	}
	return errors.Is(err, unix.ENOPROTOOPT)
}

// When the process has ended, its cgroup does not count any more, though somebody else may go on
// with its connection.
func TestNowWithoutTheProcess(t *testing.T) {
	c := startIn(t, "", listen(t), nil)
	if now, err := c.Now(); err != nil || now.CgroupID != c.CgroupID || now.CgroupID == 0 {
		t.Fatalf("while the process runs: %+v, %v", now, err)
	}
	c.end()
	now, err := c.Now()
	if err != nil || now.CgroupID != 0 || now.UID != c.UID || !now.InGroup(c.GID) {
		t.Errorf("after the process has ended: %+v, %v, want the user and groups alone", now, err)
	}
	if id, ok := now.ProcessID(); ok {
		t.Errorf("process %q", id)
	}
}

// A process that has ended before the agent asks is not taken for the one that has its number.
func TestOfAProcessThatHasEnded(t *testing.T) {
	needRoot(t)
	ln := listen(t)
	cmd := command("connect and pass on", ln.Addr().String(), &syscall.Credential{Uid: victim, Gid: victim})
	_ = receiveFile(t, cmd)
	_, found := accept(t, ln)
	if found.UID != victim || found.CgroupID != 0 {
		t.Errorf("got %+v, want the user alone", found)
	}
	if err := found.ProcessError(); err == nil || !strings.Contains(err.Error(), "has ended") {
		t.Errorf("why the process is not known: %v", err)
	}
	if id, ok := found.ProcessID(); ok {
		t.Errorf("process %q", id)
	}
}

func TestCloseOfACaller(t *testing.T) {
	c := startIn(t, "", listen(t), nil)
	if err := errors.Join(c.Close(), c.Close()); err != nil {
		t.Fatal(err)
	}
	if now, err := c.Now(); err != nil || now.CgroupID != 0 {
		t.Errorf("got %+v, %v: a process that is not held may be another one by now", now, err)
	}
	if err := (peer.Caller{UID: 1}).Close(); err != nil {
		t.Error(err)
	}
}

func TestProcessID(t *testing.T) {
	ln := listen(t)
	c, second := startIn(t, "", ln, nil), startIn(t, "", ln, nil)
	id, ok := c.ProcessID()
	other, otherOK := second.ProcessID()
	if !ok || !otherOK || id == other {
		t.Fatalf("got %q, %v and %q, %v", id, ok, other, otherOK)
	}
	if again, _ := c.ProcessID(); again != id {
		t.Errorf("got %q, then %q", id, again)
	}
	if !peer.Running(id) || !peer.Running(other) {
		t.Errorf("%q runs: %v, %q runs: %v", id, peer.Running(id), other, peer.Running(other))
	}
	parts := strings.Split(id, "/")
	for name, changed := range map[string]string{
		"another boot":               "00000000-0000-4000-8000-000000000000/" + parts[1] + "/" + parts[2],
		"the number reused":          parts[0] + "/" + parts[1] + "/" + parts[2] + "1",
		"another process' number":    parts[0] + "/" + strconv.Itoa(os.Getpid()) + "/" + parts[2],
		"nobody's number":            parts[0] + "/2147483647/" + parts[2],
		"the agent itself":           parts[0] + "/0/" + parts[2],
		"a group of processes":       parts[0] + "/-" + parts[1] + "/" + parts[2],
		"nothing":                    "",
		"a part":                     parts[0] + "/" + parts[1],
		"more":                       id + "/1",
		"something that is too long": id + strings.Repeat("0", 200),
	} {
		if peer.Running(changed) {
			t.Errorf("%s: %q runs", name, changed)
		}
	}
	c.end()
	if peer.Running(id) || !peer.Running(other) {
		t.Errorf("after the end, %q runs: %v, %q runs: %v", id, peer.Running(id), other, peer.Running(other))
	}
}

// A process that nobody has waited for has ended all the same.
func TestRunningOfAZombie(t *testing.T) {
	c := startIn(t, "", listen(t), nil)
	id, ok := c.ProcessID()
	if !ok {
		t.Fatal("the process is not known")
	}
	if err := c.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_, _ = io.ReadAll(c.conn) // the end of the connection is that of the process
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PID, c.cmd.Process.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	if peer.Running(id) {
		t.Error("it runs")
	}
	if now, err := c.Now(); err != nil || now.CgroupID != 0 {
		t.Errorf("got %+v, %v", now, err)
	}
}

func TestStartTime(t *testing.T) {
	rest := " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 98765 20 21\n"
	for stat, want := range map[string]string{
		"12 (sleep)" + rest: "98765",
		"12 (a) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 1 (x)" + rest: "98765", // a name can be anything
		"12 (sleep) S 1 2 3": "",
		"":                   "",
		"12 (sleep)" + strings.Replace(rest, "98765", "-1", 1): "",
	} {
		if got, err := peer.StartTime([]byte(stat)); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q, %v, want %q", stat, got, err, want)
		}
	}
}

func TestUnifiedPath(t *testing.T) {
	for text, want := range map[string]string{
		"0::/system.slice/appx.service\n":                        "/system.slice/appx.service",
		"12:pids:/x\n1:name=systemd:/y\n0::/a.slice/b.service\n": "/a.slice/b.service",
		"0::/\n":                            "/",
		"0::/../appx.service\n":             "", // outside of the agent's cgroup namespace
		"0::/..\n":                          "",
		"0::/a/../system.slice/b.service\n": "",
		"0::/a/\n":                          "",
		"0::a\n":                            "",
		"10::/a\n":                          "",
		"1:name=systemd:/system.slice/appx.service\n": "",
		"": "",
	} {
		got, ok := peer.UnifiedPath(text)
		if ok != (want != "") || ok && got != want {
			t.Errorf("%q: got %q, %v, want %q", text, got, ok, want)
		}
	}
}
