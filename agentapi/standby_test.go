package agentapi_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/internal/tooltest"
)

// TestSilentUsersDoNotKeepAdministratorsOutOfStandby: a user's connections beyond a bound are
// answered without waiting for a request, and so are not in the way of root's.
func TestSilentUsersDoNotKeepAdministratorsOutOfStandby(t *testing.T) {
	user := tooltest.User()
	dir, err := os.MkdirTemp("", "agent")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "agent.sock")
	ln, err := agentapi.Listen(path, 0o666)
	if err := errors.Join(err, os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	standby := &agentapi.Standby{Status: func() wire.Status { return wire.Status{PID: 4711} }, Logger: slog.New(slog.DiscardHandler)}
	go func() { served <- standby.Serve(ctx, agentapi.Socket(ln)) }()
	defer func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()

	const bound = 64
	silent := func() net.Conn {
		conn, err := tooltest.DialAs(user)(t.Context(), "unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	for range bound {
		silent()
	}
	answer := ""
	for i := 0; answer == "" && i < 3; i++ { // again, if the first ones have timed out on a busy machine
		text, err := io.ReadAll(silent())
		if err != nil {
			t.Fatal(err)
		}
		answer = string(text)
	}
	if !strings.HasPrefix(answer, "HTTP/1.1 503 ") || !strings.Contains(answer, "\r\nRetry-After: 5\r\n") || !strings.Contains(answer, string(wire.CodeUnavailable)) {
		t.Errorf("a connection beyond the bound is told %q", answer)
	}
	root := client.New(client.Config{Socket: path})
	defer root.Close()
	if status, err := root.Status(t.Context()); err != nil || status.PID != 4711 {
		t.Errorf("root is told %+v, %v", status, err)
	}
}

// An agent that serves nothing is found out, too, if it takes no connections any more.
func TestAStandbyThatTakesNoConnectionsIsFoundOut(t *testing.T) {
	ln := newGatedListener(t)
	standby := &agentapi.Standby{Status: func() wire.Status { return wire.Status{} }, Logger: slog.New(slog.DiscardHandler)}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- standby.Serve(ctx, agentapi.Socket(ln)) }()
	defer func() { stop(); <-served }()

	conn := sendTo(t, ln.Addr(), nativeRequest)
	ln.let <- struct{}{}
	if status, _ := readToEnd(t, conn); status != http.StatusServiceUnavailable { // so it serves
		t.Fatal(status)
	}
	asked := make(chan error, 1)
	go func() { asked <- standby.Answers(t.Context()) }()
	ln.let <- struct{}{}
	if err := <-asked; err != nil {
		t.Errorf("a listener that takes connections: %v", err)
	}
	soon, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := standby.Answers(soon); err == nil {
		t.Error("a listener that takes none is not found out")
	}
}
