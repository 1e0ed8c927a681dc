package acquire

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/keyagent/keyagent/acquire/binding"
	"github.com/keyagent/keyagent/acquire/entra"
	"github.com/keyagent/keyagent/acquire/imds"
)

// credentialManagedIdentity is the one kind of credential so far.
const credentialManagedIdentity = "managed_identity"

// flightTimeout bounds one flight: IMDS' longest retry schedule, attestation,
// issuance and token request, none of which any single caller waits for longer
// than its own context allows.
const flightTimeout = 3 * time.Minute

// Identity is a configured managed identity.
type Identity struct {
	Name     string
	Selector imds.Selector // zero: system-assigned
	// MinStrength refuses tokens that a weaker credential would obtain, before it is shown to anybody. Empty: any will do.
	MinStrength Strength
}

// BindingSource gives the binding certificate of an identity.
type BindingSource interface {
	Certificate(ctx context.Context, sel imds.Selector) (*binding.Certificate, error)
}

// Config configures an [Acquirer].
type Config struct {
	Identities []Identity
	Bindings   BindingSource
	Entra      *entra.Client

	// Signer returns a view of the binding key whose signatures honour ctx, and
	// SignatureSchemes what it can do in TLS.
	Signer           func(ctx context.Context) crypto.Signer
	SignatureSchemes []tls.SignatureScheme
	// KeyStrength is where the binding key is: StrengthTPM or StrengthSoftware. Anything else counts as StrengthNone.
	KeyStrength Strength

	RootCAs *x509.CertPool   // for Entra; nil means the system's roots
	Now     func() time.Time // nil means time.Now
	Logger  *slog.Logger     // nil means no log
}

// Acquirer gives tokens of the configured identities. It is safe for concurrent
// use. Close it to end what is under way.
type Acquirer struct {
	cfg        Config
	identities map[string]*identityState
	cache      *tokenCache
	failures   *failureMemory
	flights    singleflight.Group

	ctx    context.Context // ends with Close; parent of all flights
	cancel context.CancelFunc

	mu     sync.Mutex // guards closed, and that no flight starts after it is set
	closed bool
	wg     sync.WaitGroup
}

var (
	errClosed = errors.New("the agent is stopping")
	errPanic  = errors.New("a fault in the agent; its log says where")
)

// New returns an acquirer. It does no I/O.
func New(cfg Config) (*Acquirer, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	a := &Acquirer{cfg: cfg, identities: map[string]*identityState{}, cache: newTokenCache(maxCachedTokens), failures: newFailureMemory(maxCachedTokens)}
	for _, id := range cfg.Identities {
		if _, twice := a.identities[id.Name]; twice {
			return nil, fmt.Errorf("identity %q is configured twice", id.Name)
		}
		a.identities[id.Name] = &identityState{Identity: id}
	}
	a.ctx, a.cancel = context.WithCancel(context.Background()) // flights outlive their first caller
	return a, nil
}

// Close ends all flights, waits for them and closes idle connections. It may be
// called more than once.
func (a *Acquirer) Close() error {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.cancel()
	a.wg.Wait()
	for _, id := range a.identities {
		id.close()
	}
	return nil
}

// Token returns a token for req, from the cache or from Entra. It blocks until
// there is one, the road there has failed, or ctx ends; the flight that it
// started goes on for others. Errors are [*Error], or ctx' error.
func (a *Acquirer) Token(ctx context.Context, req Request) (Token, error) {
	id, ok := a.identities[req.Identity]
	if !ok {
		return Token{}, &Error{Kind: KindUnknownIdentity, Identity: req.Identity, Err: errors.New("no such identity is configured")}
	}
	// Entra does not tell "https://x/" from "https://x", and neither does the cache.
	key := cacheKey{identity: req.Identity, resource: strings.TrimSuffix(req.Resource, "/"), tokenType: req.Type}
	now := a.cfg.Now()
	if !req.ForceRefresh {
		token, state := a.cache.lookup(key, now)
		switch state {
		case cacheFresh:
			return token, nil
		case cacheDue:
			a.fly(id, key) //nolint:contextcheck // ahead of need: this caller does not wait for it
			return token, nil
		}
	}
	if failure := a.failures.recall(key, now); failure != nil {
		return Token{}, failure
	}
	select {
	case result := <-a.fly(id, key): //nolint:contextcheck // a flight outlives its callers
		if result.Err != nil {
			return Token{}, result.Err
		}
		return result.Val.(Token), nil
	case <-ctx.Done():
		return Token{}, ctx.Err()
	}
}

// fly joins or starts the one flight for key. The flight belongs to the
// acquirer, not to the caller.
func (a *Acquirer) fly(id *identityState, key cacheKey) <-chan singleflight.Result {
	return a.flights.DoChan(key.String(), func() (any, error) {
		if !a.begin() {
			return Token{}, &Error{Kind: KindUnavailable, Identity: key.identity, Err: errClosed}
		}
		defer a.wg.Done()
		token, err := a.land(id, key)
		id.note(err)
		now := a.cfg.Now()
		if err != nil {
			failure := classify(key.identity, err)
			a.cache.postpone(key, now)
			a.failures.remember(key, failure, now)
			a.cfg.Logger.Warn("token not obtained", "identity", key.identity, "resource", key.resource,
				"kind", failure.Kind, "error", err)
			return Token{}, failure
		}
		a.cache.store(key, token, now)
		return token, nil
	})
}

// land makes the flight within its time. A panic on its way is that flight's error:
// what is parsed there comes from others.
func (a *Acquirer) land(id *identityState, key cacheKey) (token Token, err error) {
	ctx, cancel := context.WithTimeout(a.ctx, flightTimeout)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			// The value could quote foreign bytes; the stack says where.
			a.cfg.Logger.Error("panic while obtaining a token", "identity", key.identity, "stack", string(debug.Stack()))
			token, err = Token{}, errPanic
		}
	}()
	return a.fetch(ctx, id, key)
}

// begin counts a flight, unless the acquirer is closed.
func (a *Acquirer) begin() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return false
	}
	a.wg.Add(1)
	return true
}

// fetch walks the road: certificate, connection, token.
func (a *Acquirer) fetch(ctx context.Context, id *identityState, key cacheKey) (Token, error) {
	certificate, err := a.cfg.Bindings.Certificate(ctx, id.Selector)
	if err != nil {
		return Token{}, err
	}
	strength := strengthOf(a.cfg.KeyStrength, certificate)
	if !strength.reaches(id.MinStrength) {
		return Token{}, &floorError{have: strength, want: id.MinStrength}
	}
	bridge, err := id.bridge(a.cfg, certificate)
	if err != nil {
		return Token{}, err
	}
	asked := a.cfg.Now() // the life that Entra states began after this moment
	answer, err := a.cfg.Entra.ManagedIdentityToken(ctx, bridge.Client(), entra.ManagedIdentityRequest{
		Endpoint: certificate.MTLSEndpoint,
		TenantID: certificate.TenantID,
		ClientID: certificate.ClientID,
		Resource: key.resource,
	})
	if err != nil {
		return Token{}, err
	}
	now := asked.Round(0) // an expiry is a time of the wall clock
	handshake := bridge.Handshake()
	return Token{
		AccessToken: answer.AccessToken,
		TokenType:   answer.TokenType,
		NotBefore:   now,
		ExpiresOn:   now.Add(answer.ExpiresIn),
		RefreshOn:   refreshOn(now, answer),
		Resource:    key.resource,
		Identity:    id.Name,
		ClientID:    certificate.ClientID,
		Credential:  credentialManagedIdentity,
		Bound:       true,
		Strength:    strength,
		Binding: Binding{
			Thumbprint:         certificate.Thumbprint(),
			TLSVersion:         handshake.VersionName(),
			SignatureAlgorithm: handshake.SignatureName(),
		},
	}, nil
}

// refreshOn is Entra's refresh_in, or half of the life.
func refreshOn(now time.Time, answer *entra.TokenResponse) time.Time {
	if answer.RefreshIn > 0 && answer.RefreshIn < answer.ExpiresIn {
		return now.Add(answer.RefreshIn)
	}
	return now.Add(answer.ExpiresIn / 2)
}

// strengthOf reports what is known of the key, and what the certificate's issuance
// proved. Only a key in a TPM can have been attested, whatever a certificate says.
func strengthOf(key Strength, c *binding.Certificate) Strength {
	switch {
	case key == StrengthTPM && c.Attested:
		return StrengthAttested
	case key == StrengthTPM, key == StrengthSoftware:
		return key
	}
	return StrengthNone
}

// floorError says that a credential is weaker than an identity demands.
type floorError struct{ have, want Strength }

func (e *floorError) Error() string {
	return fmt.Sprintf("the credential's strength is %q, and the identity's min_strength is %q", e.have, e.want)
}
