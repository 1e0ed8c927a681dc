package confine_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/internal/confine"
	"github.com/keyagent/keyagent/internal/tooltest"
)

// roleEnv has the test binary play a process that confines itself; its value is a directory.
const roleEnv = "KEYAGENT_CONFINE_TEST_DIR"

func TestMain(m *testing.M) {
	dir := os.Getenv(roleEnv)
	if dir == "" {
		os.Exit(m.Run())
	}
	if err := json.NewEncoder(os.Stdout).Encode(confined(dir)); err != nil {
		os.Exit(1)
	}
}

// confined confines this process, and says what it can do then.
func confined(dir string) map[string]string {
	said := map[string]string{}
	own, other := filepath.Join(dir, "own"), filepath.Join(dir, "other")
	ln, err := net.Listen("unix", filepath.Join(other, "s"))
	if err != nil {
		return map[string]string{"listen": err.Error()}
	}
	defer ln.Close()
	note := func(what string, err error) {
		switch {
		case err == nil:
			said[what] = "yes"
		case errors.Is(err, fs.ErrPermission):
			said[what] = "no"
		default:
			said[what] = err.Error()
		}
	}
	if err := confine.Writing([]string{own}, []string{"/dev"}); err != nil {
		return map[string]string{"confine": err.Error()}
	}
	note("write own", os.WriteFile(filepath.Join(own, "a"), nil, 0o600))
	note("rename own", os.Rename(filepath.Join(own, "a"), filepath.Join(own, "b")))
	note("make a directory", os.Mkdir(filepath.Join(own, "d"), 0o700))
	note("rename into another directory", os.Rename(filepath.Join(own, "b"), filepath.Join(own, "d", "b")))
	note("remove own", os.RemoveAll(filepath.Join(own, "d")))
	note("a device", os.WriteFile(os.DevNull, []byte("x"), 0))
	note("write other", os.WriteFile(filepath.Join(other, "a"), nil, 0o600))
	note("overwrite other", os.WriteFile(filepath.Join(other, "there"), nil, 0o600))
	note("remove other", os.Remove(filepath.Join(other, "there")))
	_, err = os.ReadFile(filepath.Join(other, "there"))
	note("read other", err)
	_, err = os.ReadFile("/proc/1/cgroup")
	note("read the cgroup of another process", err)
	conn, err := net.Dial("unix", ln.Addr().String())
	if err == nil {
		err = conn.Close()
	}
	note("connect", err)
	note("run a program", exec.Command("/bin/sh", "-c", "exit 0").Run())
	out, _ := exec.Command("/bin/sh", "-c", "echo x >"+filepath.Join(other, "child")).CombinedOutput()
	said["a program writes other"] = "yes"
	if strings.Contains(string(out), "ermission denied") {
		said["a program writes other"] = "no"
	}
	return said
}

// run plays the process, as an ordinary user: root has the capability that keeps it unconfined.
func run(t *testing.T, root bool) map[string]string {
	t.Helper()
	dir, err := os.MkdirTemp("", "confine")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	program := filepath.Join(dir, "program")
	for _, name := range []string{"own", "other"} {
		if err := errors.Join(os.Mkdir(filepath.Join(dir, name), 0o777), os.Chmod(filepath.Join(dir, name), 0o777)); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err := errors.Join(err, os.WriteFile(program, self, 0o755), os.Chmod(dir, 0o755),
		os.WriteFile(filepath.Join(dir, "other", "there"), nil, 0o666), os.Chmod(filepath.Join(dir, "other", "there"), 0o666)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), roleEnv+"="+dir)
	cmd.Stderr = os.Stderr
	if uid := tooltest.User(); !root && uid != os.Geteuid() {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	said := map[string]string{}
	if err := json.Unmarshal(out, &said); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, off := range []error{confine.ErrNoLandlock, confine.ErrTooOld} {
		if strings.Contains(said["confine"], off.Error()) {
			t.Skip(said["confine"])
		}
	}
	return said
}

func TestAProcessWritesOnlyWhereItSays(t *testing.T) {
	want := map[string]string{
		"write own": "yes", "rename own": "yes", "make a directory": "yes", "rename into another directory": "yes", "remove own": "yes", "a device": "yes",
		"write other": "no", "overwrite other": "no", "remove other": "no", "a program writes other": "no",
		"read other": "yes", "read the cgroup of another process": "yes", "connect": "yes", "run a program": "yes",
	}
	if diff := cmp.Diff(want, run(t, false)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestAProcessThatSeesProgramsIsNotConfined(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("an ordinary user has no capability")
	}
	if said := run(t, true); said["confine"] != confine.ErrMaySee.Error() {
		t.Errorf("got %v", said)
	}
}
