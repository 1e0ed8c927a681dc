package acquire

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyagent/keyagent/acquire/entra"
	"github.com/keyagent/keyagent/internal/inflight"
	"github.com/keyagent/keyagent/internal/waiting"
	"github.com/keyagent/keyagent/tlsbridge"
)

// credentialManagedIdentity is the name of a managed identity's one credential.
const credentialManagedIdentity = "managed_identity"

// Config configures an [Acquirer].
type Config struct {
	Identities []Identity

	Bindings BindingSource  // binding certificates of managed identities
	Key      BindingKey     // the key of those certificates
	IMDS     IdentityTokens // unbound tokens of managed identities; nil if no identity may have one
	Keys     KeySource      // of applications; nil if no credential is a certificate
	Regions  RegionSource   // nil if no application is in RegionAuto
	Entra    *entra.Client
	TLS      tlsbridge.Config // towards Entra

	Now    func() time.Time                                 // nil means time.Now
	Wait   func(ctx context.Context, d time.Duration) error // pauses of Run; nil means a timer
	Jitter func(max time.Duration) time.Duration            // between 0 and max; nil means at random
	Logger *slog.Logger                                     // nil means no log

	Observer Observer // is told how tokens are obtained; nil: nobody is

	transport *atomic.Pointer[transport] // to Entra, made of TLS
}

// Acquirer obtains tokens for the configured identities. It is safe for concurrent use. Close it to
// end the flights under way.
type Acquirer struct {
	cfg      Config
	roster   atomic.Pointer[Roster] // in force
	regions  *regions
	meanings atomic.Uint64 // how many meanings identities have had so far

	cache         *tokenCache
	failures      *failureMemory
	refreshLimits *refreshLimits
	flights       inflight.Group[Token]
	flying        atomic.Int64  // flights under way
	hits, misses  atomic.Uint64 // of the cache, for callers

	ctx    context.Context // ends with Close; parent of all flights
	cancel context.CancelFunc

	// mu guards closed, after which no flight starts, and the flights and retired of identities.
	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup
}

var (
	errClosed = errors.New("the agent is stopping")
	errPanic  = errors.New("a fault in the agent; its log says where")

	errCrowded = errors.New("too many tokens are being obtained for this identity at once")
	errRetired = errors.New("the agent's configuration has changed meanwhile, and with it this identity")
)

// New returns an acquirer. It does no I/O.
func New(cfg Config) (*Acquirer, error) {
	cfg = cfg.withDefaults()
	a := &Acquirer{
		cfg:           cfg,
		cache:         newTokenCache(maxCachedTokens),
		failures:      newFailureMemory(maxCachedTokens),
		refreshLimits: newRefreshLimits(),
	}
	a.cfg.transport = &atomic.Pointer[transport]{}
	a.cfg.transport.Store(newTransport(cfg.TLS))
	a.regions = &regions{cfg: &a.cfg}
	a.roster.Store(&Roster{acquirer: a})
	first, err := a.Prepare(cfg.Identities)
	if err != nil {
		return nil, err
	}
	a.roster.Store(first)
	a.ctx, a.cancel = context.WithCancel(context.Background()) // flights outlive their first caller
	return a, nil
}

func (cfg Config) withDefaults() Config {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Wait == nil {
		cfg.Wait = waiting.Sleep
	}
	if cfg.Jitter == nil {
		cfg.Jitter = randomly
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Observer == nil {
		cfg.Observer = nobody{}
	}
	return cfg
}

// Close ends all flights, waits for them and closes idle connections. It may be called more than
// once.
func (a *Acquirer) Close() error {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.cancel()
	a.wg.Wait()
	a.cfg.transport.Load().unbound.CloseIdleConnections()
	for h := range a.roster.Load().holders() {
		h.close()
	}
	return nil
}

// transport is how Entra is reached: TLS settings, and the client for hosts that ask for no
// certificate.
type transport struct {
	tls     tlsbridge.Config
	unbound *http.Client // to hosts that ask for no certificate
}

func newTransport(cfg tlsbridge.Config) *transport { return &transport{cfg, tlsbridge.NewClient(cfg)} }

// SetTLS changes how Entra is reached. Connections that were made with other settings close once
// the requests on them are done; cached tokens stay ([Acquirer.PrepareAnew] is for those that may
// not).
func (a *Acquirer) SetTLS(cfg tlsbridge.Config) {
	current := newTransport(cfg)
	before := a.cfg.transport.Swap(current)
	before.unbound.CloseIdleConnections()
	for h := range a.roster.Load().holders() {
		h.leave(current)
	}
}

// Reconsider forgets refusals for which no pause was asked, so that the next request is made: call
// it after a change that may have removed the cause.
func (a *Acquirer) Reconsider() { a.failures.reconsider() }
