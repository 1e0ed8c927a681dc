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
	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/agentapi/wire"
)

// maxStrangers is how many connections all strangers together may hold: users that neither a rule
// nor the administration names. They share one bound because a user can have thousands of uids
// (subuid(5)), and each gets the same refusal.
const maxStrangers = 32

// silencePatience is how long the end of the agent waits for a connection on which nothing was
// asked yet: it may have been made just now.
const silencePatience = time.Second

// share is what an account may have of all connections.
type share struct {
	account
	bound int
}

// sharesOf returns the accounts that a connection counts for. A user can have many uids, all of
// which are strangers or keep the user's groups. So all strangers share one account, and all
// callers who are known by a group only share another, with half of all connections at most.
// Callers of one unit that are known by nothing else share the bound of one user.
func (a *admission) sharesOf(caller peer.Caller) []share {
	own := share{accountOf(caller, policy.ByUID), a.server.cfg.MaxConnectionsPerUser}
	half := a.server.cfg.MaxConnections / 2
	standing := a.server.rules.Load().Policy.Standing(caller)
	together := accountOf(caller, standing)
	switch standing {
	case policy.ByUID:
		return []share{own}
	case policy.ByGroupOnly:
		return []share{own, {together, max(1, half)}}
	case policy.ByUnitOnly:
		return []share{own, {together, own.bound}}
	default:
		return []share{{together, min(maxStrangers, half)}}
	}
}

// admission is a listener that knows who connects and bounds how many connections there are.
// Callers beyond the bound of their account are turned away, so that they cannot keep others out;
// callers beyond the total wait in the kernel's queue.
type admission struct {
	net.Listener
	ctx    context.Context // for log records only
	server *Server
	face   *face
	slots  chan struct{} // one element for each open connection
	closed chan struct{}
	once   sync.Once
	strays *strays
	probes probes

	progress progress      // of Accept
	changed  chan struct{} // has an element when what drain looks at has changed

	mu     sync.Mutex
	open   map[account]int // connections; guarded by mu
	total  int             // of them; guarded by mu
	silent int             // those that have not asked for anything yet; guarded by mu
}

func (s *Server) admit(ctx context.Context, f *face) *admission {
	return &admission{
		Listener: f.listener,
		ctx:      ctx,
		server:   s,
		face:     f,
		slots:    make(chan struct{}, s.cfg.MaxConnections),
		closed:   make(chan struct{}),
		strays:   newStrays(),
		open:     make(map[account]int),
		changed:  make(chan struct{}, 1),
		progress: newProgress(),
	}
}

// Accept returns the next connection whose caller is known and within bounds, as an *admittedConn.
// A caller that cannot be known costs its own connection only.
func (a *admission) Accept() (net.Conn, error) {
	for {
		select {
		case a.slots <- struct{}{}:
		case <-a.closed:
			return nil, net.ErrClosed
		}
		conn, err := a.Listener.Accept()
		a.progress.note() // after an error, too: net/http goes on after a temporary one
		if err != nil {
			<-a.slots
			return nil, err
		}
		if !a.probes.took(conn) {
			if known := a.identify(conn); known != nil {
				return known, nil
			}
		}
		_ = conn.Close()
		<-a.slots
	}
}

// Close also wakes an Accept that waits for a free slot. Further calls do nothing.
func (a *admission) Close() (err error) {
	a.once.Do(func() {
		close(a.closed)
		err = a.Listener.Close()
	})
	return err
}

func (a *admission) identify(conn net.Conn) *admittedConn {
	caller, err := a.face.identify(conn)
	if err != nil {
		a.refuse(a.ctx, err)
		return nil
	}
	caller = a.server.rules.Load().certain(caller)
	shares := a.sharesOf(caller)
	if full, ok := a.take(shares); !ok {
		a.turnAway(conn, caller, full)
		_ = caller.Close()
		return nil
	}
	known := &admittedConn{Conn: conn, caller: caller, release: func() { a.give(shares) }}
	known.asked = sync.OnceFunc(a.asked)
	if a.server.rules.Load().stranger(caller) {
		known.askBy = time.Now().Add(a.server.cfg.StrangerTimeout)
	}
	return known
}

// take counts a connection for all its accounts, or for none and returns which of them is full.
func (a *admission) take(shares []share) (full share, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range shares {
		if a.open[s.account] >= s.bound {
			return s, false
		}
	}
	for _, s := range shares {
		a.open[s.account]++
	}
	a.total++
	a.silent++
	a.server.connections.Add(1)
	return share{}, true
}

func (a *admission) give(shares []share) {
	a.mu.Lock()
	for _, s := range shares {
		a.open[s.account]--
		if a.open[s.account] == 0 {
			delete(a.open, s.account)
		}
	}
	a.total--
	a.mu.Unlock()
	a.tell()
	a.server.connections.Add(-1)
	<-a.slots
}

// asked notes that a connection is not silent any more.
func (a *admission) asked() {
	a.mu.Lock()
	a.silent--
	a.mu.Unlock()
	a.tell()
}

func (a *admission) tell() {
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// drain waits until all connections are closed, but for those that send nothing for
// silencePatience. It reports whether that was within grace.
func (a *admission) drain(grace time.Duration) bool {
	over, patience := time.NewTimer(grace), time.NewTimer(min(grace, silencePatience))
	defer over.Stop()
	defer patience.Stop()
	for patient := true; ; {
		a.mu.Lock()
		total, silent := a.total, a.silent
		a.mu.Unlock()
		if total == 0 || !patient && total == silent {
			return true
		}
		select {
		case <-a.changed:
		case <-patience.C:
			patient = false
		case <-over.C:
			return false
		}
	}
}

// stranger reports whether there is nothing at this socket for the caller.
func (r *Rules) stranger(caller peer.Caller) bool {
	return r.Policy.Standing(caller) == policy.Stranger
}

// admittedConn is a connection with its caller. Closing it makes room.
type admittedConn struct {
	net.Conn
	caller  peer.Caller
	program shownSecret
	asked   func()    // is called when a request has come, and when it is closed
	askBy   time.Time // when a stranger must have asked; zero: net/http's own deadlines
	release func()
	once    sync.Once
}

// SetReadDeadline never gives a stranger more time than it has.
func (c *admittedConn) SetReadDeadline(t time.Time) error {
	if !c.askBy.IsZero() && (t.IsZero() || t.After(c.askBy)) {
		t = c.askBy
	}
	return c.Conn.SetReadDeadline(t)
}

func (c *admittedConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() {
		c.program.close()
		_ = c.caller.Close()
		c.asked()
		c.release()
	})
	return err
}

// turnAway answers without reading a request: waiting for it would take the place of a connection
// that the bound denies. The reply fits into the empty buffer of a new connection, so that writing
// it does not wait for the caller either.
func (a *admission) turnAway(conn net.Conn, caller peer.Caller, full share) {
	a.server.turnedAway.Add(1)
	rules := a.server.rules.Load()
	p := rules.noRoom(caller, full)
	ids := requestIDs{own: newRequestID()}
	p.RequestID = ids.own
	rec := &record{rules: rules, face: a.face, caller: caller, ids: ids}
	_ = a.server.audit(rec, p) // which is noted and told by the trail itself
	a.server.count(rec, p, a.server.cfg.Now())
	status, contentType, problem := a.face.errors(p)
	body, err := json.Marshal(problem)
	if err != nil {
		return
	}
	headers := "x-ms-request-id: " + ids.own + "\r\n"
	if p.RetryAfter > 0 { // after the format, which may change it
		headers += fmt.Sprintf("Retry-After: %d\r\n", p.RetryAfter)
	}
	writeUnread(conn, status, contentType, headers, body)
}

// writeUnread writes the reply to a request that was not read. Each of the headers ends with CRLF.
func writeUnread(conn net.Conn, status int, contentType, headers string, body []byte) {
	_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = fmt.Fprintf(conn, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"+
		"%sConnection: close\r\nContent-Length: %d\r\n\r\n%s",
		status, http.StatusText(status), contentType, headers, len(body), body)
}

// noRoom says which bound was reached. A stranger gets the refusal that it would get to a request.
func (r *Rules) noRoom(caller peer.Caller, full share) *problem {
	var p *problem
	switch full.together {
	case policy.Stranger:
		return r.permit(forCallersOfRules, caller)
	case policy.ByGroupOnly:
		p = newProblem(wire.CodeTooManyConnections, "users known by a group only hold %d connections to the agent", full.bound).
			withHint("close connections that are not in use, or ask whoever administers the agent for a rule that names the user")
	case policy.ByUnitOnly:
		p = newProblem(wire.CodeTooManyConnections, "the users of this unit hold %d connections to the agent", full.bound).
			withHint("close connections that are not in use, or ask whoever administers the agent for a rule that names the user, too")
	default:
		p = newProblem(wire.CodeTooManyConnections, "uid %d holds %d connections to the agent", caller.UID, full.bound).
			withHint("close connections that are not in use, or share one client among threads")
	}
	p.RetryAfter = 1
	return p
}
