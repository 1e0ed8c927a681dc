package daemon_test

import (
	"context"
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/internal/daemon"
)

// failingListener fails to accept, with one error after the other.
type failingListener struct {
	net.Listener
	failures chan error
}

func (l failingListener) Accept() (net.Conn, error) {
	select {
	case err := <-l.failures:
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", err)}
	default:
		return l.Listener.Accept()
	}
}

// TestASocketWithoutUseDoesNotEndTheAgent: callers can take all descriptors, which passes.
func TestASocketWithoutUseDoesNotEndTheAgent(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	failures := make(chan error, 3)
	for _, err := range []error{unix.EMFILE, unix.ENFILE, unix.ENOBUFS} {
		failures <- err
	}
	pauses := 0
	pause := func(_ context.Context, d time.Duration) error {
		if d <= 0 {
			t.Errorf("it pauses for %v", d)
		}
		pauses++
		return nil
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- daemon.Disconnect(ctx, failingListener{inner, failures}, pause) }()

	conn, err := net.Dial("tcp", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	disconnected := make(chan struct{})
	go func() {
		defer close(disconnected)
		_, _ = conn.Read(make([]byte, 1))
	}()
	select {
	case <-disconnected:
	case err := <-ended:
		t.Fatalf("it has ended: %v", err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if pauses != 3 {
		t.Errorf("%d pauses after 3 failures", pauses)
	}
}

// A socket that is gone is not tried for ever.
func TestASocketThatIsClosedEndsTheAgent(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	if err := daemon.Disconnect(t.Context(), ln, nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
}
