package peer_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/agentapi/peer"
)

// The test binary plays the callers, too: started with childEnv set it does what the variable says
// and exits.
const (
	childEnv  = "KEYAGENT_PEER_TEST_CHILD"
	socketEnv = "KEYAGENT_PEER_TEST_SOCKET"
)

func TestMain(m *testing.M) {
	role := os.Getenv(childEnv)
	if role == "" {
		os.Exit(m.Run())
	}
	if err := child(role); err != nil {
		_, _ = os.Stderr.WriteString(role + ": " + err.Error() + "\n")
		os.Exit(1)
	}
}

func child(role string) error {
	switch role {
	case "check uid map":
		return peer.CheckUIDMap()
	case "connect":
		return connectAndWait("unix")
	case "write to fd 3":
		_, err := os.NewFile(3, "inherited").WriteString("x")
		return err
	case "connect and pass on":
		return connectAndPassOn()
	case "connect by tcp":
		return connectAndWait("tcp")
	case "check level":
		return checkLevel()
	case "see the parent's executable":
		return peer.SeesExecutable(os.Getppid())
	case "see it under Landlock":
		return checkUnderLandlock()
	case "run in place of another":
		return runInPlace()
	case "listen by tcp":
		_, err := peer.ListenTCP(context.Background(), os.Getenv(socketEnv))
		return err
	}
	return os.ErrInvalid
}

// connectAndWait keeps the connection open until the server closes it.
func connectAndWait(network string) error {
	conn, err := net.Dial(network, os.Getenv(socketEnv))
	if err != nil {
		return err
	}
	_, _ = conn.Read(make([]byte, 1))
	return conn.Close()
}

// connectAndPassOn connects and sends the connection over the socket pair at descriptor 3, then
// exits.
func connectAndPassOn() error {
	conn, err := net.Dial("unix", os.Getenv(socketEnv))
	if err != nil {
		return err
	}
	file, err := conn.(*net.UnixConn).File()
	if err != nil {
		return err
	}
	return unix.Sendmsg(3, []byte("x"), unix.UnixRights(int(file.Fd())), nil, 0)
}

// command returns a re-execution of this test as the given role and user. The path /proc/self/exe
// works for a user who cannot reach the binary's directory.
func command(role, socket string, credential *syscall.Credential) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	// The race detector would wait a second before each exit.
	cmd.Env = []string{"GORACE=atexit_sleep_ms=0", childEnv + "=" + role, socketEnv + "=" + socket}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential}
	return cmd
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("starting a process as another user needs root")
	}
}

// listen opens a socket that every user can reach.
func listen(t *testing.T) *net.UnixListener {
	t.Helper()
	dir, err := os.MkdirTemp("", "peer")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	for name, mode := range map[string]os.FileMode{dir: 0o711, path: 0o666} {
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := ln.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return ln
}

func accept(t *testing.T, ln *net.UnixListener) (net.Conn, peer.Caller) {
	t.Helper()
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	caller, err := peer.Of(conn)
	if err != nil {
		t.Fatal(err)
	}
	return conn, caller
}

func TestOf(t *testing.T) {
	t.Run("this process is named by its own ids", func(t *testing.T) {
		ln := listen(t)
		client, err := net.Dial("unix", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		_, got := accept(t, ln)
		if int(got.UID) != os.Geteuid() || int(got.GID) != os.Getegid() || int(got.PID) != os.Getpid() {
			t.Errorf("got %+v, want uid %d gid %d pid %d", got, os.Geteuid(), os.Getegid(), os.Getpid())
		}
	})

	t.Run("another user is named by its uid, gid and pid", func(t *testing.T) {
		needRoot(t)
		got, pid := callAs(t, &syscall.Credential{Uid: 65534, Gid: 65533})
		if got.UID != 65534 || got.GID != 65533 || int(got.PID) != pid || len(got.Groups) != 0 {
			t.Errorf("got %+v, want uid 65534 gid 65533 pid %d and no groups", got, pid)
		}
	})

	t.Run("supplementary groups are seen", func(t *testing.T) {
		needRoot(t)
		got, _ := callAs(t, &syscall.Credential{Uid: 65534, Gid: 65533, Groups: []uint32{7001, 7002}})
		if !slices.Equal(got.Groups, []uint32{7001, 7002}) {
			t.Fatalf("groups %v, want [7001 7002]", got.Groups)
		}
		for gid, want := range map[uint32]bool{65533: true, 7001: true, 7002: true, 7003: false, 0: false} {
			if got.InGroup(gid) != want {
				t.Errorf("InGroup(%d) = %v, want %v", gid, !want, want)
			}
		}
	})

	t.Run("more groups than there is room for at first are seen", func(t *testing.T) {
		needRoot(t)
		var groups []uint32
		for gid := range uint32(1000) {
			groups = append(groups, 10000+gid)
		}
		got, _ := callAs(t, &syscall.Credential{Uid: 65534, Gid: 65533, Groups: groups})
		if !slices.Equal(got.Groups, groups) {
			t.Errorf("got %d groups, want %d", len(got.Groups), len(groups))
		}
	})

	t.Run("a TCP connection has no caller", func(t *testing.T) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		client, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		if caller, err := peer.Of(client); err == nil {
			t.Errorf("got %+v, want an error", caller)
		}
	})

	t.Run("a closed connection has no caller", func(t *testing.T) {
		ln := listen(t)
		client, err := net.Dial("unix", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		conn, _ := accept(t, ln)
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
		if caller, err := peer.Of(conn); err == nil {
			t.Errorf("got %+v, want an error", caller)
		}
	})
}

// callAs has a process with the credential connect, and returns who the kernel says it was, and its
// pid.
func callAs(t *testing.T, credential *syscall.Credential) (peer.Caller, int) {
	t.Helper()
	ln := listen(t)
	cmd := command("connect", ln.Addr().String(), credential)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	conn, caller := accept(t, ln)
	_ = conn.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("child: %v", err)
	}
	return caller, cmd.Process.Pid
}

// A connection speaks for the process that made it, whichever process holds it now.
func TestOfPassedDescriptor(t *testing.T) {
	needRoot(t)
	nobody := &syscall.Credential{Uid: 65534, Gid: 65534}

	t.Run("a child of another user that inherits the connection does not change the caller", func(t *testing.T) {
		ln := listen(t)
		client, err := net.Dial("unix", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		file, err := client.(*net.UnixConn).File()
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		cmd := command("write to fd 3", "", nobody)
		cmd.ExtraFiles = []*os.File{file}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("child: %v: %s", err, out)
		}
		conn, caller := accept(t, ln)
		if _, err := conn.Read(make([]byte, 1)); err != nil { // what the child wrote
			t.Fatal(err)
		}
		if caller.UID != 0 || int(caller.PID) != os.Getpid() {
			t.Errorf("got %+v, want uid 0, pid %d: the one who connected", caller, os.Getpid())
		}
	})

	t.Run("root that is passed the connection of another user does not lend it root", func(t *testing.T) {
		ln := listen(t)
		cmd := command("connect and pass on", ln.Addr().String(), nobody)
		client := receiveFile(t, cmd)
		conn, caller := accept(t, ln)
		if _, err := client.WriteString("x"); err != nil { // root speaks
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if caller.UID != 65534 || int(caller.PID) != cmd.Process.Pid {
			t.Errorf("got %+v, want uid 65534, pid %d: the one who connected, though it has exited", caller, cmd.Process.Pid)
		}
	})
}

// receiveFile runs cmd with one end of a socket pair as its descriptor 3 and returns the descriptor
// that comes out of the other.
func receiveFile(t *testing.T, cmd *exec.Cmd) *os.File {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	childEnd := os.NewFile(uintptr(pair[1]), "pair")
	cmd.ExtraFiles = []*os.File{childEnd}
	out, err := cmd.CombinedOutput()
	_ = childEnd.Close()
	if err != nil {
		t.Fatalf("child: %v: %s", err, out)
	}
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(pair[0], make([]byte, 1), oob, 0)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		t.Fatalf("%d control messages, %v", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Fatalf("descriptors %v, %v", fds, err)
	}
	file := os.NewFile(uintptr(fds[0]), "passed")
	t.Cleanup(func() { _ = file.Close() })
	return file
}

func TestCheckIDMap(t *testing.T) {
	tests := []struct {
		name string
		text string
		ok   bool
	}{
		{"the initial namespace is accepted", "         0          0 4294967295\n", true},
		{"one user mapped to root is refused", "         0       1000          1\n", false},
		{"a shifted range is refused", "0 100000 65536\n", false},
		{"an identity map of a part is refused, the rest would look alike", "0 0 65536\n", false},
		{"an identity map that leaves root out is refused", "1 1 4294967294\n", false},
		{"two ranges are refused", "0 0 1000\n1000 1000 4294966295\n", false},
		{"an empty map is refused", "", false},
		{"text is refused", "identity\n", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := peer.CheckIDMap("uid_map", tt.text); (err == nil) != tt.ok {
				t.Errorf("got %v, want accepted = %v", err, tt.ok)
			}
		})
	}
}

func TestCheckUIDMapInNamespaces(t *testing.T) {
	if err := peer.CheckUIDMap(); err != nil {
		t.Skipf("the test itself runs in a user namespace: %v", err)
	}
	cmd := command("check uid map", "", nil)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Skipf("no user namespaces here: %v", err)
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("a user namespace with one mapped user was accepted")
	}
	if !strings.Contains(stderr.String(), "PrivateUsers=no") {
		t.Errorf("the error gives no advice: %s", stderr.String())
	}
}
