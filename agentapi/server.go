package agentapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/internal/forward"
	"github.com/keyagent/keyagent/internal/waiting"
)

// Limits that no configuration needs to change.
const (
	// maxHeaderBytes has room for claims of wire.MaxClaimsBytes, which take up to three times that
	// in a query.
	maxHeaderBytes    = 32 << 10
	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 2 * time.Minute
	// writeSlack is what an answer may take beyond the time of its handler.
	writeSlack = 15 * time.Second
	// lastGrace is how long requests have to say that they were cut short.
	lastGrace = 2 * time.Second
)

// errStopping is why the context of a request ends when the server gives up waiting for it.
var errStopping = errors.New("the agent is stopping")

// TokenSource gets tokens; [acquire.Acquirer] is one. It must be safe for concurrent use, return
// when the context ends, and fail with [*acquire.Error].
type TokenSource interface {
	Token(context.Context, acquire.Request) (acquire.Token, error)
}

// Identity is a configured identity as callers may name it. Name is what rules and the native API
// use, the ids (empty if unknown) select it in the IMDS protocol. A managed identity has one id at
// most, and the VM's own identity has none. Kind is wire.KindManagedIdentity or
// wire.KindApplication.
type Identity struct {
	Name, Kind, ClientID, ObjectID, ResourceID string
}

// DefaultMaxConnections is how many connections to one way are open at a time.
const DefaultMaxConnections = 1024

// Config is what a [Server] is made of. Fields without a comment on their zero value are required.
type Config struct {
	Tokens     TokenSource
	Status     func(context.Context) wire.Status // safe for concurrent use
	Identities []Identity                        // every configured identity
	Policy     *policy.Policy                    // must not be changed any more
	// Machine compares callers with units and programs that rules name; nil: this machine does.
	Machine  policy.Machine
	Pairs    Pairs
	Evidence Evidence
	// Capabilities must be safe for concurrent use, and answer soon.
	Capabilities func(context.Context) wire.Capabilities
	// Waits lists operations that have been waiting for long, in texts that any caller may read;
	// nil: not known. Safe for concurrent use.
	Waits func() []string

	// Programs are the endpoints on loopback for unmodified programs; the zero value: they are not.
	Programs Programs

	// Audit takes one record for each answer. Its handler is called by one goroutine at a time, and
	// may block: answers wait for half a second at most.
	Audit *slog.Logger
	// AuditRequired refuses tokens whose record is not written.
	AuditRequired bool
	AuditPlace    AuditPlace
	Metrics       Metrics          // nil: nothing is counted
	Logger        *slog.Logger     // nil: nothing is logged; its handler must not block
	Now           func() time.Time // nil: time.Now
	// Wait waits for the next time that the bound on records is lifted, or until ctx is done; nil:
	// a timer.
	Wait func(ctx context.Context, d time.Duration) error

	// RequestTimeout is how long a caller waits for a token before it is told to come back; 0: 60
	// s, as long as SDKs wait.
	RequestTimeout time.Duration
	// SDKTimeout is the same in the protocols of Azure's SDKs, some of which give up after 10 s and
	// never show why; 0: 8 s. The token is fetched all the same, for whoever asks again.
	SDKTimeout time.Duration
	// StreamIdle is how long nothing may be sent or received in a request that is passed on to a
	// resource; 0: five minutes.
	StreamIdle time.Duration
	// ShutdownGrace is how long requests in flight may go on after the server is told to stop; 0:
	// 10 s.
	ShutdownGrace time.Duration
	// MaxConnections is how many connections to one way are open at a time, 0:
	// [DefaultMaxConnections]. More wait in the kernel. MaxConnectionsPerUser is how many one uid
	// may hold, 0: 256. More are answered 503 and closed. All callers together that are known by a
	// group only may hold half of MaxConnections; more are answered 503, too. All strangers
	// together may hold few; more are answered 403.
	MaxConnections, MaxConnectionsPerUser int
	// StrangerTimeout is how long a stranger, named by neither a rule nor the administration, may
	// take to send a request; 0: 2 s.
	StrangerTimeout time.Duration
}

// Server answers on the local socket. It is safe for concurrent use.
type Server struct {
	cfg    Config
	misses *misses
	learnt learnt
	trail  *trail
	recent recentStatus

	connections atomic.Int64  // open ones, by all ways
	turnedAway  atomic.Uint64 // connections, because of a bound

	signatures *signatures
	attesting  *turns // evidence is made

	servingMu sync.Mutex
	serving   []*admission // guarded by servingMu

	forwarder *forward.Forwarder

	rules    atomic.Pointer[Rules] // in force; a request is answered by one of them from its beginning to its end
	changing sync.Mutex            // of rules
}

// Rules are a policy with the identities that it names and the source of their tokens. They are one
// value because a name in a policy means the identity of the same configuration.
type Rules struct {
	Policy     *policy.Policy // must not be changed any more
	Identities []Identity     // every configured identity
	Tokens     TokenSource    // of these identities
	Pairs      Pairs          // likewise
	Evidence   Evidence       // likewise
}

// New checks the configuration. The agent's own user may administer it, as well as those that the
// policy names as administrators.
func New(cfg Config) (*Server, error) {
	if cfg.Tokens == nil || cfg.Status == nil || cfg.Capabilities == nil || cfg.Policy == nil || cfg.Audit == nil {
		return nil, errors.New("agentapi: Tokens, Status, Capabilities, Policy and Audit are required")
	}
	for _, routes := range [][]route{socketRoutes, appServiceRoutes, imdsRoutes} {
		if err := checkRoutes(routes); err != nil {
			return nil, err
		}
	}
	cfg = withDefaults(cfg)
	s := &Server{cfg: cfg, trail: newTrail(cfg), misses: newMisses(cfg.Now), learnt: learnt{ids: map[string]Identity{}}, signatures: newSignatures(cfg.Now), attesting: newTurns(), forwarder: &forward.Forwarder{Idle: cfg.StreamIdle}}
	s.recent.lock = waiting.NewLock()
	if cfg.AuditRequired && !s.trail.kept() {
		return nil, errors.New("agentapi: the audit is required, and its handler takes no records")
	}
	if err := s.SetRules(Rules{cfg.Policy, cfg.Identities, cfg.Tokens, cfg.Pairs, cfg.Evidence}); err != nil {
		return nil, err
	}
	return s, nil
}

// SetRules puts rules in force in the place of those that were, as a whole and for every request
// that begins from then on; others end as they have begun. Rules that are not valid, or name an
// identity that does not exist, are refused, and the others stay in force. What callers have used
// up of their bounds stays used up. It is safe for concurrent use.
func (s *Server) SetRules(r Rules) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	return s.set(r)
}

// set is SetRules with the lock held.
func (s *Server) set(r Rules) error {
	if err := r.Check(); err != nil {
		return err
	}
	own := *r.Policy
	own.AdminUIDs = append(slices.Clone(own.AdminUIDs), uint32(os.Geteuid())) //nolint:gosec // a uid
	own.Machine = s.cfg.Machine
	r.Policy = &own
	s.rules.Store(&r)
	return nil
}

// Note puts a record into the audit that does not belong to an answer, such as one of a reload. It
// does not wait until the record is written.
func (s *Server) Note(message string, attrs ...slog.Attr) { s.trail.note(message, attrs) }

// SetPolicy is [Server.SetRules] with the identities that are in force.
func (s *Server) SetPolicy(p *policy.Policy) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	r := *s.rules.Load()
	r.Policy = p
	return s.set(r)
}

func withDefaults(cfg Config) Config {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Machine == nil {
		cfg.Machine = peer.Host{}
	}
	if cfg.Metrics == nil {
		cfg.Metrics = noMetrics{}
	}
	if cfg.Wait == nil {
		cfg.Wait = waiting.Sleep
	}
	if cfg.RequestTimeout <= 0 {
		cfg.RequestTimeout = time.Minute
	}
	if cfg.SDKTimeout <= 0 {
		cfg.SDKTimeout = 8 * time.Second
	}
	if cfg.ShutdownGrace <= 0 {
		cfg.ShutdownGrace = 10 * time.Second
	}
	if cfg.StrangerTimeout <= 0 {
		cfg.StrangerTimeout = 2 * time.Second
	}
	if cfg.MaxConnections <= 0 {
		cfg.MaxConnections = DefaultMaxConnections
	}
	if cfg.MaxConnectionsPerUser <= 0 {
		cfg.MaxConnectionsPerUser = 256
	}
	return cfg
}

// Check reports why [Server.SetRules] would refuse the rules, or nil. It finds the rule that will
// never work because its identity does not exist: a typing error that would show as a refusal much
// later.
func (r Rules) Check() error {
	if err := r.Policy.Validate(); err != nil {
		return err
	}
	for i := range r.Policy.Rules {
		for _, name := range r.Policy.Rules[i].Identities {
			if !slices.ContainsFunc(r.Identities, func(id Identity) bool { return id.Name == name }) {
				return fmt.Errorf("rule %q: there is no identity %q", r.Policy.Rules[i].Name, name)
			}
		}
	}
	return nil
}

// Serve answers what comes by the ways until ctx is done, then stops gracefully and returns nil. It
// closes their listeners. If one fails before that, or callers cannot be known on it, all are
// stopped and the error says which.
func (s *Server) Serve(ctx context.Context, ways ...Way) error {
	var refused []error
	for _, way := range ways {
		refused = append(refused, way.err)
	}
	if err := errors.Join(refused...); err != nil {
		for _, way := range ways {
			_ = way.face.listener.Close()
		}
		return err
	}
	defer s.keepTrail(ctx)()
	g, ctx := errgroup.WithContext(ctx)
	for _, way := range ways {
		g.Go(func() error { return s.serveFace(ctx, way.face) })
	}
	return g.Wait()
}

// serveFace is [Server.Serve] for one way. The audit must be kept meanwhile.
func (s *Server) serveFace(ctx context.Context, f *face) error {
	requests, cutShort := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cutShort(nil)
	srv := s.httpServer(requests, f)
	served := make(chan error, 1)
	admission := s.admit(requests, f)
	defer s.serves(admission)()
	go func() { served <- srv.Serve(admission) }()
	select {
	case err := <-served:
		_ = srv.Close()
		return fmt.Errorf("serving %s: %w", f.listener.Addr(), err)
	case <-ctx.Done():
		if err := errors.Join(admission.Close(), <-served); !errors.Is(err, net.ErrClosed) {
			s.cfg.Logger.WarnContext(ctx, "closing the listener", "error", err)
		}
		s.stop(context.WithoutCancel(ctx), srv, admission, cutShort)
		return nil
	}
}

// keepTrail has the bounds of the audit lifted until the function that it returns is called, which
// also writes the records that are left.
func (s *Server) keepTrail(ctx context.Context) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		s.trail.watch(ctx, s.cfg.Wait)
	}()
	return func() {
		cancel()
		<-watched
		s.trail.close()
	}
}

// stop waits for requests in flight, then cuts them short so that their callers still get an
// answer, then closes all other connections. No connection is accepted any more.
//
// Connections that were accepted are answered first: [http.Server.Shutdown] drops, without an
// answer, a request that it reads after it was called, and an accepted connection cannot be given
// back to the listening socket, from which the next agent would accept it.
func (s *Server) stop(ctx context.Context, srv *http.Server, a *admission, cutShort context.CancelCauseFunc) {
	srv.SetKeepAlivesEnabled(false)
	if a.drain(s.cfg.ShutdownGrace) && shutDown(ctx, srv, lastGrace) {
		return
	}
	s.cfg.Logger.WarnContext(ctx, "stopping with requests in flight", "waited_seconds", s.cfg.ShutdownGrace.Seconds())
	cutShort(errStopping)
	if !shutDown(ctx, srv, lastGrace) {
		_ = srv.Close()
	}
}

// shutDown reports whether all connections were done in time.
func shutDown(ctx context.Context, srv *http.Server, within time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	return srv.Shutdown(ctx) == nil
}
