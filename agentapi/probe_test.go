package agentapi_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/agentapi"
)

// gatedListener accepts as often as it is let, and has room for one connection that waits.
type gatedListener struct {
	net.Listener
	let, closed chan struct{}
	once        *sync.Once
}

func newGatedListener(t *testing.T) gatedListener {
	t.Helper()
	inner, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := inner.(*net.UnixListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = unix.Listen(int(fd), 0) }); err != nil || failed != nil {
		t.Fatal(err, failed)
	}
	return gatedListener{inner, make(chan struct{}), make(chan struct{}), new(sync.Once)}
}

func (l gatedListener) Accept() (net.Conn, error) {
	select {
	case <-l.let:
		return l.Listener.Accept()
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l gatedListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// fill connects until the kernel has no room for one more.
func (l gatedListener) fill(t *testing.T) {
	t.Helper()
	for range 16 {
		conn, err := net.Dial("unix", l.Addr().String())
		if errors.Is(err, unix.EAGAIN) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	t.Fatal("the queue does not get full")
}

// Any user can keep the kernel's queue full, and must not have the agent taken for dead by that.
// An agent that takes nothing any more is found out all the same.
func TestAFullQueueIsNotTakenForADeadListener(t *testing.T) {
	ln := newGatedListener(t)
	server, _, _ := newServer(t, config(working, rulesFor(os.Geteuid())))
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, agentapi.Socket(ln)) }()
	defer func() { stop(); <-done }()

	conn := sendTo(t, ln.Addr(), nativeRequest)
	ln.let <- struct{}{}
	answered(t, conn) // so it was taken
	ln.fill(t)
	if err := server.Answers(t.Context()); err != nil {
		t.Errorf("of a listener that has taken a connection since the last look: %v", err)
	}
	soon, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := server.Answers(soon); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("a listener that has taken none since the last look: %v", err)
	}
}

func TestWhichFailuresOfALookCallersCanCause(t *testing.T) {
	for err, want := range map[error]bool{
		unix.EAGAIN: true, unix.EMFILE: true, unix.ENFILE: true, unix.EADDRINUSE: true, context.DeadlineExceeded: true,
		unix.ECONNREFUSED: false, unix.ENOENT: false, unix.EACCES: false,
	} {
		failed := &net.OpError{Op: "dial", Net: "unix", Err: err}
		if errno, ok := err.(syscall.Errno); ok { //nolint:errorlint // it is that itself
			failed.Err = os.NewSyscallError("connect", errno)
		}
		if got := agentapi.CallersCanCause(failed); got != want {
			t.Errorf("%v: %v, want %v", failed, got, want)
		}
	}
}
