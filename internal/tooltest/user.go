package tooltest

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// nobody is a user whom a test that runs as root can be.
const nobody = 65534

// User returns the uid of an ordinary user whom this process can connect as: its own one, or nobody
// if that is root.
func User() int {
	if uid := os.Geteuid(); uid != 0 {
		return uid
	}
	return nobody
}

// DialAs returns a way to make connections that the kernel takes for those of a user: its own one,
// or any if this process is root. The process goes on as who it is.
func DialAs(uid int) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		own := os.Geteuid()
		if uid == own {
			return new(net.Dialer).DialContext(ctx, network, address)
		}
		// The effective uid of this thread alone: Go's own functions change that of all threads.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := setThread(uid); err != nil {
			return nil, fmt.Errorf("becoming uid %d: %w", uid, err)
		}
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if failed := setThread(own); failed != nil {
			panic(failed) // the thread must not be used by others
		}
		return conn, err
	}
}

func setThread(uid int) error {
	const unchanged = ^uintptr(0)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, unchanged, uintptr(uid), unchanged); errno != 0 {
		return errno
	}
	return nil
}

// OnOwnThread runs f on a thread that ends with it, so that f may change what belongs to a thread:
// its user, its namespaces. That is never the process' first thread, which cannot end, and which
// others take for the process. F must not end its goroutine, as [testing.T.Fatal] does.
func OnOwnThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked, so that the thread ends with the goroutine
		if unix.Gettid() == os.Getpid() {
			defer runtime.UnlockOSThread()
			OnOwnThread(f) // this goroutine keeps the first thread meanwhile
			return
		}
		f()
	}()
	<-done
}
