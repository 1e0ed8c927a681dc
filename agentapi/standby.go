package agentapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/wire"
)

const (
	// standbyRetry is when callers are told to come back to an agent that cannot serve yet.
	standbyRetry = 5 * time.Second
	// maxStandbyConnections bounds the connections that root, the agent's own user and all others
	// together each hold to one way of such an agent. More are answered at once, without reading.
	maxStandbyConnections = 64
	// standbyTimeout is how long a caller may take to send a request to it.
	standbyTimeout = 2 * time.Second
)

// Standby answers in the place of a [Server] that cannot be made, since the configuration cannot be
// used: it grants nothing, and tells every caller to come back. Root and the agent's own user are
// told why, by the status; nobody else is. It is safe for concurrent use.
type Standby struct {
	// Status is what the agent says of itself. Safe for concurrent use.
	Status func() wire.Status
	Logger *slog.Logger

	mu      sync.Mutex
	serving []*bounded // guarded by mu
}

// Answers is [Server.Answers] for an agent that serves nothing.
func (s *Standby) Answers(ctx context.Context) error {
	s.mu.Lock()
	serving := slices.Clone(s.serving)
	s.mu.Unlock()
	var problems []error
	for _, b := range serving {
		if b.face.indirect {
			continue
		}
		if err := b.probes.accepted(ctx, b.Addr(), b.progress); err != nil {
			problems = append(problems, fmt.Errorf("the socket at %s takes no connections: %w", b.Addr(), err))
		}
	}
	return errors.Join(problems...)
}

// Serve answers what comes by the ways until ctx is done, and closes their listeners. A way that
// has an error (see [Way.Err]) is closed at once.
func (s *Standby) Serve(ctx context.Context, ways ...Way) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, way := range ways {
		if way.err != nil {
			_ = way.face.listener.Close()
			continue
		}
		g.Go(func() error { return s.serveFace(ctx, way.face) })
	}
	return g.Wait()
}

func (s *Standby) serveFace(ctx context.Context, f *face) error {
	srv := &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.answer(f, w, r) }),
		ReadHeaderTimeout: standbyTimeout,
		ReadTimeout:       standbyTimeout,
		WriteTimeout:      standbyTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(s.Logger.Handler(), slog.LevelWarn),
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, standbyKey{}, groupOf(conn) != standbyOthers)
		},
		DisableGeneralOptionsHandler: true,
	}
	srv.SetKeepAlivesEnabled(false) // so that nobody is still connected when the agent serves
	defer srv.Close()
	ln := &bounded{Listener: f.listener, face: f, changed: make(chan struct{}, 1), progress: newProgress()}
	s.mu.Lock()
	s.serving = append(s.serving, ln)
	s.mu.Unlock()
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	if err := errors.Join(ln.Close(), <-served); !errors.Is(err, net.ErrClosed) {
		return err
	}
	ln.drain(standbyTimeout) // connections that were accepted are answered
	return nil
}

type standbyKey struct{}

// standbyGroup identifies callers that share a bound of connections. Nobody can take the places of
// another group.
type standbyGroup int

const (
	standbyOthers standbyGroup = iota // and all whom nothing is known of
	standbyRoot
	standbyOwn // the agent's own user
	standbyGroups
)

// standbyGroupOf says whose a new connection is. Administrators whom a configuration names are not
// known.
func standbyGroupOf(f *face, conn net.Conn) standbyGroup {
	if f.socket() == "" {
		return standbyOthers
	}
	caller, err := peer.Of(conn)
	if err != nil {
		return standbyOthers
	}
	defer caller.Close()
	switch {
	case caller.UID == 0:
		return standbyRoot
	case int64(caller.UID) == int64(os.Geteuid()):
		return standbyOwn
	default:
		return standbyOthers
	}
}

func groupOf(conn net.Conn) standbyGroup {
	if counted, ok := conn.(*boundedConn); ok {
		return counted.group
	}
	return standbyOthers
}

func (s *Standby) answer(f *face, w http.ResponseWriter, r *http.Request) {
	admin, _ := r.Context().Value(standbyKey{}).(bool)
	if admin && r.Method == http.MethodGet {
		switch r.RequestURI {
		case wire.PathStatus:
			answerStandby(w, http.StatusOK, wire.ContentTypeJSON, s.Status())
			return
		case wire.PathHealth:
			answerStandby(w, http.StatusOK, wire.ContentTypeJSON, wire.Health{Status: wire.HealthOK})
			return
		}
	}
	p := standbyProblem()
	w.Header().Set(wire.HeaderError, string(p.Code))
	status, contentType, body := f.errors(p)
	w.Header().Set("Retry-After", "5")
	answerStandby(w, status, contentType, body)
}

func standbyProblem() *problem {
	return newProblem(wire.CodeUnavailable, "the agent cannot use its configuration, and serves nothing until that is corrected").
		withHint("whoever administers the agent finds the reason in its status and its log").retryable(standbyRetry)
}

func answerStandby(w http.ResponseWriter, status int, contentType string, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		status, text = http.StatusServiceUnavailable, nil // not reached: all of it can be encoded
	}
	write(w, status, contentType, "", text)
}

// bounded is a listener with a bound on the connections that each group has open at a time. It
// answers those beyond itself: whoever waited would keep others out of the kernel's queue.
type bounded struct {
	net.Listener
	face    *face
	changed chan struct{} // has an element when a connection was closed

	probes   probes
	progress progress

	mu   sync.Mutex
	open [standbyGroups]int // guarded by mu
}

// Accept implements [net.Listener].
func (b *bounded) Accept() (net.Conn, error) {
	for {
		conn, err := b.Listener.Accept()
		b.progress.note()
		if err != nil {
			return nil, err
		}
		if b.probes.took(conn) {
			_ = conn.Close()
			continue
		}
		group := standbyGroupOf(b.face, conn)
		if b.take(group) {
			return &boundedConn{Conn: conn, group: group, release: sync.OnceFunc(func() { b.give(group) })}, nil
		}
		b.turnAway(conn)
		_ = conn.Close()
	}
}

// turnAway answers without reading.
func (b *bounded) turnAway(conn net.Conn) {
	status, contentType, problem := b.face.errors(standbyProblem())
	body, err := json.Marshal(problem)
	if err != nil {
		return // not reached: all of it can be encoded
	}
	writeUnread(conn, status, contentType, "Retry-After: 5\r\n", body)
}

func (b *bounded) take(group standbyGroup) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open[group] >= maxStandbyConnections {
		return false
	}
	b.open[group]++
	return true
}

func (b *bounded) give(group standbyGroup) {
	b.mu.Lock()
	b.open[group]--
	b.mu.Unlock()
	select {
	case b.changed <- struct{}{}:
	default:
	}
}

func (b *bounded) idle() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.open == [standbyGroups]int{}
}

// drain waits until all connections are closed, or a time is over. Nothing may be accepted any
// more.
func (b *bounded) drain(grace time.Duration) {
	over := time.NewTimer(grace)
	defer over.Stop()
	for !b.idle() {
		select {
		case <-b.changed:
		case <-over.C:
			return
		}
	}
}

type boundedConn struct {
	net.Conn
	group   standbyGroup
	release func()
}

// Close implements [net.Conn].
func (c *boundedConn) Close() error {
	err := c.Conn.Close()
	c.release()
	return err
}

// StandbyTakeover is the way for what the firewall sends here, of an agent that serves nothing.
func StandbyTakeover(ln net.Listener) Way {
	return loopback(&face{listener: ln, identify: unknown, errors: takeoverErrors.format, name: "takeover", indirect: true})
}

// StandbyLoopback is the way for programs that speak a protocol of Azure's SDKs, of an agent that
// serves nothing.
func StandbyLoopback(ln net.Listener) Way {
	return loopback(&face{listener: ln, identify: unknown, errors: loopbackErrors.format, name: "standby"})
}
