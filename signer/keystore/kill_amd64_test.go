package keystore_test

import (
	"bytes"
	"errors"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// TestAProcessThatDiesAtAnyMomentLosesNoKey kills the process that does a step after its first file
// operation, after its second, and so on, until it comes to the end. What a power cut can do
// besides is statefile's matter, which syncs each file and directory.
//
// The processor's registers tell which operation it is, therefore amd64 only.
func TestAProcessThatDiesAtAnyMomentLosesNoKey(t *testing.T) {
	t.Parallel()
	v := tpmtest.Simulator(t)
	on := tpmtest.ConnectWith(t, tpm.Config{Device: v.Device(), PlainSessions: true}) // so that it keeps no session
	for name, st := range steps() {
		t.Run(name, func(t *testing.T) {
			scene := newShelf(t, on)
			st.scene(scene)
			for n := 1; ; n++ {
				dir := copyTree(t, scene.dir)
				ended, err := runUntil(t, name, dir, v.Device(), n)
				if errors.Is(err, syscall.EPERM) {
					t.Skipf("processes may not be traced here: %v", err)
				}
				if err != nil {
					t.Fatal(err)
				}
				if ended {
					if n < 3 {
						t.Errorf("only %d file operations were seen", n-1)
					}
					return
				}
				t.Run("dies after "+strconv.Itoa(n), func(t *testing.T) { survived(t, openShelf(t, on, dir), name) })
			}
		})
	}
}

// runUntil starts a step and kills it after its n-th file operation below dir. Ended says that it
// came to its end before.
func runUntil(t *testing.T, name, dir, device string, n int) (ended bool, err error) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // a tracer is a thread; this one ends with the goroutine
		ended, err = trace(name, dir, device, n)
	}()
	<-done
	return ended, err
}

func trace(name, dir, device string, n int) (ended bool, err error) {
	cmd := stepProcess(name, dir, device)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return false, err
	}
	defer null.Close()
	p, err := os.StartProcess(cmd.Path, cmd.Args, &os.ProcAttr{
		Env: cmd.Env, Files: []*os.File{null, null, null}, Sys: &syscall.SysProcAttr{Ptrace: true},
	})
	if err != nil {
		return false, err
	}
	defer p.Release() // it is waited for below, by its threads
	tr := tracer{pid: p.Pid, dir: dir, left: n, inside: map[int]bool{}}
	return tr.run()
}

// tracer follows all threads of a process from system call to system call (ptrace(2)).
type tracer struct {
	pid    int
	dir    string
	left   int          // file operations until the end
	inside map[int]bool // threads that are in a system call
}

func (tr *tracer) run() (ended bool, err error) {
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(tr.pid, &status, 0, nil); err != nil {
		return false, err
	}
	const options = syscall.PTRACE_O_TRACESYSGOOD | syscall.PTRACE_O_TRACECLONE | unix.PTRACE_O_EXITKILL
	err = errors.Join(syscall.PtraceSetOptions(tr.pid, options), syscall.PtraceSyscall(tr.pid, 0))
	for err == nil {
		// Of this thread's children only: other tests have theirs.
		var tid int
		if tid, err = syscall.Wait4(-1, &status, unix.WALL|unix.WNOTHREAD, nil); err != nil {
			break
		}
		switch {
		case tid == tr.pid && (status.Exited() || status.Signaled()):
			if status.Exited() && status.ExitStatus() != 0 {
				return true, errors.New("the step failed")
			}
			return status.Exited(), nil
		case status.Stopped():
			err = tr.goOn(tid, status.StopSignal())
		}
	}
	return false, err
}

// goOn lets a stopped thread run, or kills the process.
func (tr *tracer) goOn(tid int, signal syscall.Signal) error {
	deliver := 0
	switch signal {
	case syscall.SIGTRAP | 0x80:
		tr.inside[tid] = !tr.inside[tid]
		if !tr.inside[tid] && tr.isFileOperation(tid) {
			tr.left--
		}
		if tr.left == 0 {
			tr.left = -1
			return syscall.Kill(tr.pid, syscall.SIGKILL)
		}
	case syscall.SIGTRAP, syscall.SIGSTOP: // a thread was born
	default:
		deliver = int(signal)
	}
	if err := syscall.PtraceSyscall(tid, deliver); !errors.Is(err, syscall.ESRCH) { // a thread that dies meanwhile
		return err
	}
	return nil
}

// isFileOperation says whether the system call that a thread comes out of changed a name below dir.
func (tr *tracer) isFileOperation(tid int) bool {
	var r syscall.PtraceRegs
	if err := syscall.PtraceGetRegs(tid, &r); err != nil || int64(r.Rax) < 0 { // #nosec G115 -- an error is negative
		return false
	}
	switch r.Orig_rax {
	case syscall.SYS_OPENAT:
		return r.Rdx&syscall.O_CREAT != 0 && tr.below(tid, r.Rsi)
	case syscall.SYS_MKDIRAT, syscall.SYS_RENAMEAT, syscall.SYS_LINKAT, syscall.SYS_UNLINKAT:
		return tr.below(tid, r.Rsi) || r.Orig_rax == syscall.SYS_UNLINKAT && tr.relative(tid, r.Rsi)
	}
	return false
}

func (tr *tracer) below(tid int, address uint64) bool {
	return strings.HasPrefix(peek(tid, address), tr.dir)
}

// relative is how os.RemoveAll names what it removes.
func (tr *tracer) relative(tid int, address uint64) bool {
	name := peek(tid, address)
	return name != "" && !strings.HasPrefix(name, "/")
}

func peek(tid int, address uint64) string {
	var text []byte
	for word := make([]byte, 8); len(text) < 4096; address += 8 {
		if _, err := syscall.PtracePeekData(tid, uintptr(address), word); err != nil {
			return ""
		}
		if end := bytes.IndexByte(word, 0); end >= 0 {
			return string(append(text, word[:end]...))
		}
		text = append(text, word...)
	}
	return ""
}
