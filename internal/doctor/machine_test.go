package doctor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/config"
)

func TestRoomOnADisk(t *testing.T) {
	const blockBytes = 4096
	roomy := unix.Statfs_t{Bsize: blockBytes, Blocks: 1 << 20, Bavail: 1 << 18, Files: 1 << 16, Ffree: 1 << 15}
	for _, tt := range []struct {
		name    string
		change  func(*unix.Statfs_t)
		verdict string
		detail  string
	}{
		{"a gigabyte", func(*unix.Statfs_t) {}, VerdictOK, "1024 MB are free"},
		{"read-only", func(fs *unix.Statfs_t) { fs.Flags |= unix.ST_RDONLY }, VerdictFail, "read-only"},
		{"full for all but root", func(fs *unix.Statfs_t) { fs.Bavail, fs.Bfree = 0, 1<<10 }, VerdictFail, "full"},
		{"nearly full", func(fs *unix.Statfs_t) { fs.Bavail = 255 }, VerdictFail, "1020 KB"},
		{"scarce", func(fs *unix.Statfs_t) { fs.Bavail = 1 << 10 }, VerdictWarn, "4 MB"},
		{"no inodes", func(fs *unix.Statfs_t) { fs.Ffree = 0 }, VerdictFail, "room for 0 files"},
		{"one that counts neither", func(fs *unix.Statfs_t) { fs.Blocks, fs.Bavail, fs.Files, fs.Ffree = 0, 0, 0, 0 }, VerdictOK, ""},
	} {
		fs := roomy
		tt.change(&fs)
		if verdict, detail := roomIn(fs); verdict != tt.verdict || !strings.Contains(detail, tt.detail) {
			t.Errorf("%s: %s, %q; want %s, %q", tt.name, verdict, detail, tt.verdict, tt.detail)
		}
	}
}

func TestTheSocketsDirectory(t *testing.T) {
	for _, tt := range []struct {
		name    string
		prepare func(dir string) error
		below   string // of the directory
		verdict string
		detail  string
	}{
		{"one that others can enter", func(dir string) error { return os.Chmod(dir, 0o755) }, "", VerdictOK, "callers can reach it"},
		{"one that others cannot enter", func(dir string) error { return os.Chmod(dir, 0o700) }, "", VerdictWarn, "cannot reach"},
		{"one that others can write", func(dir string) error { return os.Chmod(dir, 0o777) }, "", VerdictFail, "lets others write"},
		{"none, which can be made", func(string) error { return nil }, "new", VerdictOK, "the agent makes it"},
		{"none, and none above it", func(string) error { return nil }, "new/one", VerdictWarn, "cannot make it"},
		{"a file", func(dir string) error { return os.WriteFile(filepath.Join(dir, "file"), nil, 0o600) }, "file", VerdictFail, "not a directory"},
		{"a path that is too long", func(string) error { return nil }, strings.Repeat("x", 120), VerdictFail, "longer than"},
	} {
		dir, err := os.MkdirTemp("", "socket")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		if err := tt.prepare(dir); err != nil {
			t.Fatal(err)
		}
		cfg := config.Default()
		cfg.Socket = filepath.Join(dir, tt.below, "agent.sock")
		d := &doctor{cfg: cfg}
		d.checkSocket()
		said := d.findings[len(d.findings)-1]
		if said.Check != "socket directory" || said.Verdict != tt.verdict || !strings.Contains(said.Detail, tt.detail) {
			t.Errorf("%s: %v; want %s, %q", tt.name, fmt.Sprintf("%+v", said), tt.verdict, tt.detail)
		}
	}
}

// The directory of systemd's sockets is root's. Advice must not give it away to the agent, which
// could exchange the sockets then.
func TestADirectoryOfRootsStaysRoots(t *testing.T) {
	if socket := os.Getenv(socketOfTest); socket != "" { // in a process of another user's
		d := &doctor{cfg: activatedAt(socket)}
		d.checkSocket()
		_ = json.NewEncoder(os.Stdout).Encode(d.findings[len(d.findings)-1])
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root: a directory of root's, looked at by another user")
	}
	for _, tt := range []struct {
		name    string
		mode    fs.FileMode
		socket  bool
		missing bool
		verdict string
		detail  string
	}{
		{"with systemd's socket", 0o755, true, false, VerdictOK, "the socket in it is systemd's"},
		{"which others cannot enter", 0o750, true, false, VerdictWarn, "cannot reach the socket"},
		{"without a socket", 0o755, false, false, VerdictFail, "none of systemd's"},
		{"that is not there", 0o755, false, true, VerdictWarn, "does not exist"},
	} {
		dir, err := os.MkdirTemp("", "socket")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		socket := filepath.Join(dir, "agent.sock")
		if tt.missing {
			socket = filepath.Join(dir, "new", "agent.sock")
		}
		if tt.socket {
			ln, err := net.Listen("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = ln.Close() })
		}
		if err := os.Chmod(dir, tt.mode); err != nil {
			t.Fatal(err)
		}
		said := socketCheckedByNobody(t, socket)
		if said.Verdict != tt.verdict || !strings.Contains(said.Detail, tt.detail) {
			t.Errorf("%s: %+v", tt.name, said)
		}
		if strings.Contains(said.Action, "RuntimeDirectory") || strings.Contains(said.Action, "own user") {
			t.Errorf("%s: advice %q", tt.name, said.Action)
		}
	}
}

// socketOfTest is the variable with the socket that a process of another user's is to look at.
const socketOfTest = "DOCTOR_TEST_SOCKET"

func activatedAt(socket string) *config.Config {
	cfg := config.Default()
	cfg.Activated, cfg.Socket = true, socket
	return cfg
}

// socketCheckedByNobody is what the check says to a user who owns nothing, in root's group.
func socketCheckedByNobody(t *testing.T, socket string) (said Finding) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestADirectoryOfRootsStaysRoots$")
	cmd.Env = []string{"GORACE=atexit_sleep_ms=0", socketOfTest + "=" + socket}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 0}}
	out, err := cmd.Output()
	if err == nil {
		err = json.NewDecoder(bytes.NewReader(out)).Decode(&said)
	}
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return said
}
