package agentapi_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/wire"
)

const nativeRequest = "GET " + nativeTarget + " HTTP/1.1\r\nHost: agent\r\n\r\n"

func TestServeNeedsUnixSocket(t *testing.T) {
	server, _, _ := newServer(t, config(working, rulesFor(1000)))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Serve(t.Context(), agentapi.Socket(ln)); err == nil || !strings.Contains(err.Error(), "cannot be identified") {
		t.Errorf("got %v", err)
	}
	if conn, err := net.Dial("tcp", ln.Addr().String()); err == nil {
		_ = conn.Close()
		t.Error("the listener is left open")
	}
}

func TestServeFailsWithItsListener(t *testing.T) {
	server, _, _ := newServer(t, config(working, rulesFor(1000)))
	ln, err := agentapi.Listen(t.TempDir()+"/s", 0o600)
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	if err := server.Serve(t.Context(), agentapi.Socket(ln)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// The server stays up while an identity is not available, and recovers with it.
func TestServeOutlivesTrouble(t *testing.T) {
	var trouble atomic.Pointer[func()]
	down := func() {}
	a := start(t, config(func(_ context.Context, r acquire.Request) (acquire.Token, error) {
		if f := trouble.Load(); f != nil {
			(*f)()
			return acquire.Token{}, &acquire.Error{Kind: acquire.KindUnavailable, Identity: r.Identity, Err: errors.New("IMDS is down")}
		}
		return goodToken(r), nil
	}, rulesFor(os.Geteuid())))

	trouble.Store(&down)
	for range 3 {
		if p := a.get(t, nativeTarget).problem(t); p.Code != wire.CodeUnavailable || !strings.Contains(p.Detail, "IMDS is down") {
			t.Errorf("got %+v", p)
		}
	}
	crash := func() { panic("a fault of the source") }
	trouble.Store(&crash)
	conn := a.send(t, nativeRequest)
	if n, err := conn.Read(make([]byte, 1)); err == nil {
		t.Errorf("a panic was answered, %d bytes", n)
	}
	if !strings.Contains(a.log.String(), "a fault of the source") {
		t.Errorf("a panic is not logged: %s", a.log)
	}
	trouble.Store(nil)
	if got := a.get(t, nativeTarget); got.status != 200 {
		t.Errorf("%d %s", got.status, got.body)
	}
}

// gate is a source that lets a request in and waits.
type gate struct{ entered, open chan struct{} }

func newGate() *gate { return &gate{make(chan struct{}), make(chan struct{})} }

func (g *gate) token(ctx context.Context, r acquire.Request) (acquire.Token, error) {
	close(g.entered)
	select {
	case <-g.open:
		return goodToken(r), nil
	case <-ctx.Done():
		return acquire.Token{}, ctx.Err()
	}
}

func TestStopping(t *testing.T) {
	t.Run("a request in flight is finished, a new one is not taken", func(t *testing.T) {
		g := newGate()
		cfg := config(g.token, rulesFor(os.Geteuid()))
		cfg.ShutdownGrace = time.Hour
		a := start(t, cfg)
		conn := a.send(t, nativeRequest)
		<-g.entered
		a.cancel()
		for { // until the socket is gone
			late, err := a.dial(t.Context(), "", "")
			if err != nil {
				break
			}
			_ = late.Close()
		}
		close(g.open)
		if status, body := readReply(t, conn); status != 200 || !strings.Contains(body, tokenText) {
			t.Errorf("%d %s", status, body)
		}
		a.stop(t)
	})

	t.Run("a request that takes longer than the grace is answered all the same", func(t *testing.T) {
		g := newGate()
		cfg := config(g.token, rulesFor(os.Geteuid()))
		cfg.ShutdownGrace = time.Millisecond
		a := start(t, cfg)
		conn := a.send(t, nativeRequest)
		<-g.entered
		a.cancel()
		status, body := readReply(t, conn)
		if p := decode[wire.Problem](t, []byte(body)); status != 503 || p.Code != wire.CodeUnavailable || !strings.Contains(p.Detail, "stopping") {
			t.Errorf("%d %s", status, body)
		}
		a.stop(t)
	})

	t.Run("a source that does not listen to its context does not hold the server", func(t *testing.T) {
		g := newGate()
		cfg := config(func(_ context.Context, r acquire.Request) (acquire.Token, error) {
			return g.token(context.Background(), r)
		}, rulesFor(os.Geteuid()))
		cfg.ShutdownGrace = time.Millisecond
		a := start(t, cfg)
		a.send(t, nativeRequest)
		<-g.entered
		a.stop(t)
		close(g.open)
	})

	t.Run("a connection without a request does not hold the server", func(t *testing.T) {
		a := start(t, config(working, rulesFor(os.Geteuid())))
		for range 3 {
			conn := a.send(t, nativeRequest)
			if status, _ := readReply(t, conn); status != 200 {
				t.Errorf("status %d", status)
			}
		}
		a.stop(t)
	})
}

// Many at once, for the race detector.
func TestHerd(t *testing.T) {
	a := start(t, config(working, rulesFor(os.Geteuid())))
	var group sync.WaitGroup
	for i := range 40 {
		group.Go(func() {
			for range 10 {
				target := nativeTarget
				if i%2 == 0 {
					target = imdsTarget
				}
				if got := a.get(t, target, "Metadata", "true"); got.status != http.StatusOK {
					t.Errorf("%d %s", got.status, got.body)
				}
			}
		})
	}
	group.Wait()
	if got := len(a.audit.records(t)); got != 400 {
		t.Errorf("%d audit records of 400 requests", got)
	}
}

// One way that fails ends the others: an agent of which a part is deaf would look well to systemd.
func TestServeEndsAllWaysWithOne(t *testing.T) {
	server, _, _ := newServer(t, config(working, rulesFor(1000)))
	dir := t.TempDir()
	one, err := agentapi.Listen(dir+"/one", 0o600)
	if err != nil {
		t.Fatal(err)
	}
	other, err := agentapi.Listen(dir+"/other", 0o600)
	if err != nil {
		t.Fatal(err)
	}
	_ = other.Close()
	if err := server.Serve(t.Context(), agentapi.Socket(one), agentapi.Socket(other)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
	if conn, err := net.Dial("unix", dir+"/one"); err == nil {
		_ = conn.Close()
		t.Error("the other way is left open")
	}
}
