package acquire

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyagent/keyagent/acquire/entra"
	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/internal/inflight"
	"github.com/keyagent/keyagent/internal/waiting"
	"github.com/keyagent/keyagent/tlsbridge"
)

// credentialManagedIdentity is what the one credential of a managed identity is called.
const credentialManagedIdentity = "managed_identity"

// flightTimeout bounds one flight: IMDS' longest retry schedule, attestation,
// issuance and token request, none of which any single caller waits for longer
// than its own context allows.
const flightTimeout = 3 * time.Minute

const (
	// maxFlights bounds what is under way for one identity.
	maxFlights = 256
	// crowdedPause is how long a caller is asked to wait that finds no place.
	crowdedPause = time.Second
)

// Config configures an [Acquirer].
type Config struct {
	Identities []Identity

	Bindings BindingSource  // binding certificates of managed identities
	Key      BindingKey     // that they are about
	IMDS     IdentityTokens // unbound tokens of managed identities; nil if no identity may have one
	Keys     KeySource      // of applications; nil if no credential is a certificate
	Regions  RegionSource   // nil if no application is in RegionAuto
	Entra    *entra.Client
	TLS      tlsbridge.Config // towards Entra

	Now    func() time.Time                                 // nil means time.Now
	Wait   func(ctx context.Context, d time.Duration) error // pauses of Run; nil means a timer
	Jitter func(max time.Duration) time.Duration            // between 0 and max; nil means at random
	Logger *slog.Logger                                     // nil means no log

	way *atomic.Pointer[way] // to Entra, as TLS says now
}

// Acquirer gives tokens of the configured identities. It is safe for concurrent
// use. Close it to end what is under way.
type Acquirer struct {
	cfg      Config
	roster   atomic.Pointer[Roster] // in force
	regions  *regions
	meanings atomic.Uint64 // that identities have had so far

	cache    *tokenCache
	failures *failureMemory
	forced   *forcing
	flights  inflight.Group[Token]

	ctx    context.Context // ends with Close; parent of all flights
	cancel context.CancelFunc

	mu     sync.Mutex // guards closed, that no flight starts after it is set, and which identities are retired
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
		cfg:      cfg,
		cache:    newTokenCache(maxCachedTokens),
		failures: newFailureMemory(maxCachedTokens),
		forced:   newForcing(),
	}
	a.cfg.way = &atomic.Pointer[way]{}
	a.cfg.way.Store(newWay(cfg.TLS))
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
	return cfg
}

// Close ends all flights, waits for them and closes idle connections. It may be
// called more than once.
func (a *Acquirer) Close() error {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.cancel()
	a.wg.Wait()
	a.cfg.way.Load().unbound.CloseIdleConnections()
	for h := range a.roster.Load().holders() {
		h.close()
	}
	return nil
}

// Token returns a token for req, of the identities that are in force now, as
// [Roster.Token] has it.
func (a *Acquirer) Token(ctx context.Context, req Request) (Token, error) {
	return a.roster.Load().Token(ctx, req)
}

// token returns a token of an identity.
func (a *Acquirer) token(ctx context.Context, id *identityState, req Request) (Token, error) {
	req.Type = cmp.Or(req.Type, TypeBearer)
	key := keyOf(req)
	key.meaning = id.meaning
	now := a.cfg.Now()
	if !req.forced() {
		if token, ok := a.cached(id, key, now, req.Account); ok { //nolint:contextcheck // a refresh ahead of need is nobody's to wait for
			return token, nil
		}
	}
	f, err := newFlight(req)
	if err != nil {
		return Token{}, &Error{Kind: KindRefused, Identity: req.Identity, Err: err} // the caller's own fault, and nobody else's
	}
	if f.forced {
		if err := a.forced.permit(key, req.Account, now); err != nil {
			return Token{}, err
		}
	}
	if failure := a.failures.recall(key, id.client(), now, f.forced); failure != nil {
		return Token{}, failure
	}
	call, err := a.fly(id, key, f) //nolint:contextcheck // a flight outlives its callers
	if err != nil {
		return Token{}, err
	}
	return call.Wait(ctx)
}

// forced reports whether the request skips the cache.
func (r Request) forced() bool { return r.ForceRefresh || r.Claims != "" }

// CheckClaims reports why [Request.Claims] could not be passed on to Entra, or nil.
func CheckClaims(claims string) error {
	_, err := entra.MergeClaims(nil, claims)
	return err
}

// flight is what there is to know of a flight besides the token that it is for.
type flight struct {
	claims     string // capabilities and challenge, merged; JSON or ""
	forced     bool   // the cache is skipped
	ahead      bool   // the current token is still good
	challenged bool   // by claims that a caller brought

	account Account // that it is charged to; nil: none
}

func newFlight(req Request) (flight, error) {
	claims, err := entra.MergeClaims(req.Capabilities, req.Claims)
	return flight{claims: claims, forced: req.forced(), challenged: req.Claims != "", account: req.Account}, err
}

// name tells flights apart: who skips the cache does not join one that does not.
func (f flight) name(key cacheKey) string {
	if f.forced {
		return key.String() + "\x00forced\x00" + f.claims
	}
	return key.String()
}

// keyOf is what the token is kept under.
func keyOf(req Request) cacheKey {
	// "https://x/" and "https://x" may come back as two audiences, and so are two tokens.
	key := cacheKey{identity: req.Identity, resource: req.Resource, tokenType: req.Type}
	if len(req.Capabilities) > 0 {
		sorted := slices.Clone(req.Capabilities)
		slices.Sort(sorted)
		key.capabilities = strings.Join(slices.Compact(sorted), ",")
	}
	return key
}

// cached returns a kept token that is still good, and has the next one fetched if it is time.
func (a *Acquirer) cached(id *identityState, key cacheKey, now time.Time, account Account) (Token, bool) {
	token, state := a.cache.lookup(key, now)
	if state == cacheDue {
		a.refresh(id, key, account)
	}
	return token, state != cacheMiss
}

// refresh fetches the next token while the current one is still served, unless something stands against asking now.
// If it may not begin, as the account has too much on it, the next who asks for the token has it fetched.
func (a *Acquirer) refresh(id *identityState, key cacheKey, account Account) {
	if a.failures.recall(key, id.client(), a.cfg.Now(), false) != nil {
		return
	}
	f, err := newFlight(Request{Capabilities: key.splitCapabilities(), Account: account})
	if err != nil {
		return // not reached: they are those that obtained the current one
	}
	f.ahead = true
	if _, err := a.fly(id, key, f); err != nil {
		a.cache.remind(key, a.cfg.Now())
	}
}

// fly joins or starts the one flight for key. The flight belongs to the
// acquirer, not to the caller.
func (a *Acquirer) fly(id *identityState, key cacheKey, f flight) (*inflight.Call[Token], error) {
	return a.flights.Start(f.name(key), func() error { return a.begin(id, f.account) }, func() (Token, error) {
		defer a.end(id)
		// The flight before may have landed after this one's caller had looked.
		if !f.forced && !f.ahead {
			if token, state := a.cache.lookup(key, a.cfg.Now()); state != cacheMiss {
				return token, nil
			}
		}
		kept, err := a.land(id, key, f)
		now := a.cfg.Now()
		if err != nil {
			return Token{}, a.failed(id, key, f, err, now)
		}
		id.note(nil, false)
		a.notice(id, kept.token.ClientID)
		kept.account = f.account
		a.store(id, key, kept, now)
		return kept.token, nil
	})
}

// notice drops the tokens of an identity that has become another one, as the identity of a VM does that was taken away and given anew:
// who asks for the identity as it is now must not get what was issued to the one before.
func (a *Acquirer) notice(id *identityState, clientID string) {
	before, changed := id.becomes(clientID)
	if !changed {
		return
	}
	a.cache.drop(func(key cacheKey) bool { return key.identity == id.Name })
	a.cfg.Logger.Warn("an identity has another client id than before; its tokens are fetched anew", "identity", id.Name, "client_id", clientID, "before", before)
}

// store keeps a token, unless its identity is not in force any more: nobody would ask for it.
func (a *Acquirer) store(id *identityState, key cacheKey, kept cacheEntry, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !id.retired {
		a.cache.store(key, kept, now)
	}
}

// failed makes a caller's error of what stopped a flight, and remembers it for as long as asking again is of no use. What became of the
// claims that one caller brought is nothing to the others, but for a pause that was asked for.
func (a *Acquirer) failed(id *identityState, key cacheKey, f flight, err error, now time.Time) *Error {
	failure := classify(key.identity, err)
	a.cfg.Logger.Warn("token not obtained", "identity", key.identity, "resource", key.resource, "kind", failure.Kind, "error", err)
	if f.challenged && failure.Kind != KindThrottled {
		return failure
	}
	id.note(err, ofRequest(failure))
	a.cache.postpone(key, now, failure.RetryAfter)
	a.failures.remember(key, id.client(), failure, now)
	return failure
}

// land makes the flight within its time. A panic on its way is that flight's error:
// what is parsed there comes from others.
func (a *Acquirer) land(id *identityState, key cacheKey, f flight) (kept cacheEntry, err error) {
	ctx, cancel := context.WithTimeout(a.ctx, flightTimeout)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			// The value could quote foreign bytes; the stack says where.
			a.cfg.Logger.Error("panic while obtaining a token", "identity", key.identity, "stack", string(debug.Stack()))
			kept, err = cacheEntry{}, errPanic
		}
	}()
	return a.fetch(ctx, id, key, f)
}

// begin counts a flight, unless the acquirer is closed, the identity is retired or has too many: flights outlive their callers, and a caller that
// goes away must not leave ever more of them behind.
func (a *Acquirer) begin(id *identityState, account Account) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.closed:
		return &Error{Kind: KindUnavailable, Identity: id.Name, Err: errClosed}
	case id.retired:
		return &Error{Kind: KindUnavailable, Identity: id.Name, RetryAfter: crowdedPause, Err: errRetired}
	case id.flights >= maxFlights:
		return &Error{Kind: KindUnavailable, Identity: id.Name, RetryAfter: crowdedPause, Err: errCrowded}
	}
	if err := charge(id, account); err != nil {
		return err
	}
	id.flights++
	a.wg.Add(1)
	return nil
}

// charge puts a flight on an account. What is said against it is said of the identity.
func charge(id *identityState, account Account) error {
	if account == nil {
		return nil
	}
	err := account.Charge()
	if refusal, ok := errors.AsType[*Error](err); ok {
		named := *refusal
		named.Identity = id.Name
		return &named
	}
	return err
}

func (a *Acquirer) end(id *identityState) {
	a.mu.Lock()
	defer a.mu.Unlock()
	id.flights--
	a.wg.Done()
}

// fetch walks the identity's list of credentials to a token.
func (a *Acquirer) fetch(ctx context.Context, id *identityState, key cacheKey, f flight) (cacheEntry, error) {
	asked := a.cfg.Now() // the life that Entra states began after this moment
	g, by, err := id.chain.obtain(ctx, &ask{
		resource: key.resource, tokenType: key.tokenType, claims: f.claims, fresh: f.forced, reissued: map[imds.Selector]bool{},
	})
	if err != nil {
		return cacheEntry{}, err
	}
	return a.keep(id, key, g, by, asked), nil
}

// keep makes a token, and what has to be known to keep it, of what was granted.
func (a *Acquirer) keep(id *identityState, key cacheKey, g *grant, by *step, asked time.Time) cacheEntry {
	now := asked.Round(0) // an expiry is a time of the wall clock
	token := Token{
		AccessToken: g.answer.AccessToken,
		TokenType:   g.answer.TokenType,
		NotBefore:   now,
		ExpiresOn:   now.Add(g.answer.ExpiresIn),
		RefreshOn:   a.refreshOn(now, g),
		Resource:    key.resource,
		Identity:    id.Name,
		ClientID:    g.clientID,
		Credential:  by.entry,
		Bound:       by.bound,
		Strength:    g.strength,
		Fallback:    g.passed,
	}
	named := ownerOf(token.AccessToken, token.ClientID)
	token.ObjectID, token.ResourceID = named.objectID, named.resourceID
	kept := cacheEntry{token: token, asked: asked}
	if g.over == nil {
		return kept
	}
	handshake := g.over.bridge.Handshake()
	kept.token.Binding = Binding{
		Thumbprint:         g.over.thumbprint,
		TLSVersion:         handshake.VersionName(),
		SignatureAlgorithm: handshake.SignatureName(),
	}
	if g.answer.Confirmation != "" {
		// It is of no use with any other certificate than the one in use, even if it calls itself Bearer.
		kept.bound = g.over.current
		a.cfg.Logger.Debug("the token is bound to the certificate", "identity", id.Name, "resource", key.resource, "type", token.TokenType)
	}
	return kept
}
