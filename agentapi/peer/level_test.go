package peer_test

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/agentapi/peer"
)

// checkLevel prints what this process can know of callers.
func checkLevel() error {
	level := (peer.Host{}).Level()
	fmt.Printf("process %s\ntcp %v\nexecutables %v\n", level.Process, level.TCP, (peer.Host{}).CheckExecutables())
	return nil
}

// A user without any privilege knows callers as well as root does, but for the programs that they
// run.
func TestTheLevelWithoutPrivilege(t *testing.T) {
	needRoot(t)
	out, err := command("check level", "", &syscall.Credential{Uid: victim, Gid: victim}).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"process " + string((peer.Host{}).Level().Process) + "\n", "tcp <nil>\n", "CAP_SYS_PTRACE"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%s, want %q", out, want)
		}
	}
}

// Under Landlock, nobody sees the programs of others, whatever the privileges.
func TestExecutablesUnderLandlock(t *testing.T) {
	needRoot(t)
	if out, err := command("see the parent's executable", "", nil).CombinedOutput(); err != nil {
		t.Fatalf("without Landlock: %v: %s", err, out)
	}
	out, err := command("see it under Landlock", "", nil).CombinedOutput()
	if strings.Contains(string(out), errNoLandlock.Error()) {
		t.Skip("no Landlock here")
	}
	if err == nil || !strings.Contains(string(out), "permission denied") || !strings.Contains(string(out), "an agent without Landlock") {
		t.Errorf("%v: %s", err, out)
	}
}

var errNoLandlock = errors.New("this kernel has no Landlock")

// checkUnderLandlock forbids this thread to make block devices, which nobody would miss. It returns
// why the executable of the parent cannot be seen then, and what is said of that at the start.
func checkUnderLandlock() error {
	runtime.LockOSThread()
	rules := unix.LandlockRulesetAttr{Handled_access_fs: unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&rules)), unsafe.Sizeof(rules.Handled_access_fs), 0)
	if errno != 0 {
		return errNoLandlock
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); errno != 0 {
		return errno
	}
	if err := peer.SeesExecutable(os.Getppid()); err != nil {
		return errors.Join(err, (peer.Host{}).CheckExecutables())
	}
	return nil
}

// Texts of the kernel have names in them that users choose.
func FuzzTexts(f *testing.F) {
	boot, err := peer.BootID()
	if err != nil {
		f.Fatal(err)
	}
	me := os.Getpid()
	for _, text := range []string{
		"0::/system.slice/web.service\n", "0::/../x\n", "1:a:/b\n0::/\n", fmt.Sprintf("%s/%d/i1", boot, me), fmt.Sprintf("%s/%d/s1", boot, me),
		"1 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 98765 20", "1 ()",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if dir, ok := peer.UnifiedPath(text); ok && (!strings.HasPrefix(dir, "/") || strings.Contains(dir+"/", "/../")) {
			t.Errorf("the path %q", dir)
		}
		if start, err := peer.StartTime([]byte(text)); (err == nil) != (start != "") || strings.Trim(start, "0123456789") != "" {
			t.Errorf("start %q, %v", start, err)
		}
		if peer.Running(text) && !strings.HasPrefix(text, boot+"/") {
			t.Errorf("%q runs", text)
		}
	})
}
