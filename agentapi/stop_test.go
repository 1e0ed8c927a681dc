package agentapi_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/keyagent/keyagent/agentapi"
)

// TestAConnectionAcceptedBeforeTheStopIsAnswered: under socket activation, a restart must refuse
// nobody, and an accepted connection cannot be given back to the socket.
func TestAConnectionAcceptedBeforeTheStopIsAnswered(t *testing.T) {
	inner, err := agentapi.Listen(filepath.Join(t.TempDir(), "s"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	server, _, _ := newServer(t, config(working, rulesFor(os.Geteuid())))
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, agentapi.Socket(inner)) }()

	const part = len(nativeRequest) / 2
	late := sendTo(t, inner.Addr(), nativeRequest[:part])
	idle := sendTo(t, inner.Addr(), nativeRequest)
	answered(t, idle) // so the one before it was accepted, too
	stop()
	if n, err := idle.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Fatalf("the idle connection: %d bytes, %v", n, err)
	}
	if _, err := io.WriteString(late, nativeRequest[part:]); err != nil { // when the server ends already
		t.Fatal(err)
	}
	answered(t, late)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// sendTo sends a request, or the beginning of one, on a connection of its own.
func sendTo(t *testing.T, to net.Addr, request string) net.Conn {
	t.Helper()
	conn, err := net.Dial(to.Network(), to.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	return conn
}

func answered(t *testing.T, conn net.Conn) {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("%s, %v", resp.Status, err)
	}
}

// Whether connections are taken is found out by one that nobody is told of.
func TestAnswersLeavesNoTrace(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := start(t, config(working, rulesFor(os.Geteuid())), agentapi.MetricsPort(tcp))
	a.get(t, nativeTarget) // it serves
	before := a.audit.String() + a.log.String()
	for range 3 {
		if err := a.server.Answers(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if after := a.audit.String() + a.log.String(); after != before {
		t.Errorf("it has left\n%s", after[len(before):])
	}
	a.stop(t)
	if err := a.server.Answers(t.Context()); err == nil {
		t.Error("a server that has ended answers")
	}
}

// stuckListener has ceased to accept.
type stuckListener struct {
	net.Listener
	closed chan struct{}
}

func (l stuckListener) Accept() (net.Conn, error) {
	<-l.closed
	return nil, net.ErrClosed
}

func (l stuckListener) Close() error {
	defer close(l.closed)
	return l.Listener.Close()
}

func TestAListenerThatTakesNoConnectionsIsFound(t *testing.T) {
	inner, err := agentapi.Listen(filepath.Join(t.TempDir(), "s"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	a := start(t, config(working, rulesFor(os.Geteuid())), agentapi.Socket(stuckListener{inner, make(chan struct{})}))
	a.get(t, nativeTarget)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("time is up"))
	if err := a.server.Answers(ctx); err == nil {
		t.Error("it is not found")
	}
}

// Callers who hold as many connections as may be open must not have the agent taken for dead.
func TestAListenerAtItsBoundIsNotTakenForDead(t *testing.T) {
	cfg := config(working, rulesFor(os.Geteuid()))
	cfg.MaxConnections = 2
	a := start(t, cfg)
	for range 2 {
		conn := sendTo(t, &net.UnixAddr{Net: "unix", Name: a.socket}, nativeRequest)
		answered(t, conn) // and is kept open
	}
	if err := a.server.Answers(t.Context()); err != nil {
		t.Error(err)
	}
}
