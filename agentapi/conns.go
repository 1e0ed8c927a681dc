package agentapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/wire"
)

// admission is a listener that knows who connects and bounds how many
// connections there are. Beyond its bound one user is turned away, so that it
// cannot keep others out; beyond the total, callers wait in the kernel's queue.
type admission struct {
	net.Listener
	ctx    context.Context // for log records only
	server *Server
	slots  chan struct{} // one element for each open connection
	closed chan struct{}
	once   sync.Once

	mu   sync.Mutex
	open map[uint32]int // connections by uid; guarded by mu
}

func (s *Server) admit(ctx context.Context, ln net.Listener) *admission {
	return &admission{
		Listener: ln,
		ctx:      ctx,
		server:   s,
		slots:    make(chan struct{}, s.cfg.MaxConnections),
		closed:   make(chan struct{}),
		open:     make(map[uint32]int),
	}
}

// Accept returns the next connection whose caller is known and within bounds,
// as an *admittedConn. A caller that cannot be known costs its own connection
// only.
func (a *admission) Accept() (net.Conn, error) {
	for {
		select {
		case a.slots <- struct{}{}:
		case <-a.closed:
			return nil, net.ErrClosed
		}
		conn, err := a.Listener.Accept()
		if err != nil {
			<-a.slots
			return nil, err
		}
		if known := a.identify(conn); known != nil {
			return known, nil
		}
		_ = conn.Close()
		<-a.slots
	}
}

// Close also wakes an Accept that waits for a free slot.
func (a *admission) Close() error {
	a.once.Do(func() { close(a.closed) })
	return a.Listener.Close()
}

func (a *admission) identify(conn net.Conn) *admittedConn {
	caller, err := peer.Of(conn)
	if err != nil {
		a.server.cfg.Logger.WarnContext(a.ctx, "closing a connection", "error", err)
		return nil
	}
	if !a.take(caller.UID) {
		a.server.turnAway(a.ctx, conn, caller)
		return nil
	}
	return &admittedConn{Conn: conn, caller: caller, release: func() { a.give(caller.UID) }}
}

func (a *admission) take(uid uint32) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.open[uid] >= a.server.cfg.MaxConnectionsPerUser {
		return false
	}
	a.open[uid]++
	return true
}

func (a *admission) give(uid uint32) {
	a.mu.Lock()
	a.open[uid]--
	if a.open[uid] == 0 {
		delete(a.open, uid)
	}
	a.mu.Unlock()
	<-a.slots
}

// admittedConn is a connection with its caller. Closing it makes room.
type admittedConn struct {
	net.Conn
	caller  peer.Caller
	release func()
	once    sync.Once
}

func (c *admittedConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(c.release)
	return err
}

// turnAway answers a request that was not read, since waiting for it would give
// the caller what the bound denies. The reply fits into the empty buffer of a
// new connection, so that writing it does not wait for the caller either.
func (s *Server) turnAway(ctx context.Context, conn net.Conn, caller peer.Caller) {
	p := newProblem(wire.CodeTooManyConnections, "uid %d holds %d connections to the agent", caller.UID, s.cfg.MaxConnectionsPerUser)
	p.Hint = "close connections that are not in use, or share one client among threads"
	p.RetryAfter = 1
	s.audit(ctx, &record{caller: caller}, p)
	body, err := json.Marshal(p.Problem)
	if err != nil {
		return
	}
	_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = fmt.Fprintf(conn, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"+
		"Retry-After: %d\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s",
		p.Status, http.StatusText(p.Status), wire.ContentTypeProblem, p.RetryAfter, len(body), body)
}
