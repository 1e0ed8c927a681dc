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

// maxStrangers is how many connections there are, together, of users whom neither
// a rule nor the administration names. One bound for all of them: a user can have
// thousands of uids (subuid(5)), and the answer to each is the same refusal.
const maxStrangers = 32

// account is whose connections are counted together.
type account struct {
	stranger bool
	uid      uint32 // 0 for strangers
}

// admission is a listener that knows who connects and bounds how many
// connections there are. Beyond its bound one user is turned away, so that it
// cannot keep others out, and so are strangers beyond theirs; beyond the total,
// callers wait in the kernel's queue.
type admission struct {
	net.Listener
	ctx    context.Context // for log records only
	server *Server
	slots  chan struct{} // one element for each open connection
	closed chan struct{}
	once   sync.Once

	mu   sync.Mutex
	open map[account]int // connections; guarded by mu
}

func (s *Server) admit(ctx context.Context, ln net.Listener) *admission {
	return &admission{
		Listener: ln,
		ctx:      ctx,
		server:   s,
		slots:    make(chan struct{}, s.cfg.MaxConnections),
		closed:   make(chan struct{}),
		open:     make(map[account]int),
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
	whose, bound := account{uid: caller.UID}, a.server.cfg.MaxConnectionsPerUser
	if a.server.stranger(caller) {
		whose, bound = account{stranger: true}, min(maxStrangers, bound)
	}
	if !a.take(whose, bound) {
		a.server.turnAway(a.ctx, conn, caller)
		return nil
	}
	return &admittedConn{Conn: conn, caller: caller, release: func() { a.give(whose) }}
}

func (a *admission) take(whose account, bound int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.open[whose] >= bound {
		return false
	}
	a.open[whose]++
	return true
}

func (a *admission) give(whose account) {
	a.mu.Lock()
	a.open[whose]--
	if a.open[whose] == 0 {
		delete(a.open, whose)
	}
	a.mu.Unlock()
	<-a.slots
}

// stranger reports whether there is nothing at this socket for the caller.
func (s *Server) stranger(caller peer.Caller) bool {
	return !s.policy.Named(caller) && !s.policy.Admin(caller)
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
	p := s.permit(forCallersOfRules, caller) // what a stranger would hear anyway
	if !s.stranger(caller) {
		p = newProblem(wire.CodeTooManyConnections, "uid %d holds %d connections to the agent", caller.UID, s.cfg.MaxConnectionsPerUser).
			withHint("close connections that are not in use, or share one client among threads")
		p.RetryAfter = 1
	}
	s.audit(ctx, &record{caller: caller}, p)
	body, err := json.Marshal(p.Problem)
	if err != nil {
		return
	}
	_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
	retry := ""
	if p.RetryAfter > 0 {
		retry = fmt.Sprintf("Retry-After: %d\r\n", p.RetryAfter)
	}
	_, _ = fmt.Fprintf(conn, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"+
		"%sConnection: close\r\nContent-Length: %d\r\n\r\n%s",
		p.Status, http.StatusText(p.Status), wire.ContentTypeProblem, retry, len(body), body)
}
