package acquire

import (
	"strings"
	"sync"
	"time"

	"github.com/keyagent/keyagent/acquire/binding"
	"github.com/keyagent/keyagent/tlsbridge"
)

// identityState is a configured identity with its list of credentials, and how its last flight
// ended.
type identityState struct {
	Identity
	meaning   uint64 // unique: tells it from other identities of the same name
	chain     *chain
	dependsOn []*identityState // their tokens are credentials of this one

	// Guarded by the acquirer's mutex:
	flights int  // under way
	retired bool // it is not in force any more

	mu       sync.Mutex
	lastErr  error
	lastAt   time.Time // the last flight ended
	unable   error     // like lastErr, but without errors that are about one request only
	clientID string    // of the last token; "" before the first
}

// note keeps how a flight ended. An error of one request says nothing about the identity: a caller
// that asks for a resource that does not exist must not make the identity look broken.
func (s *identityState) note(err error, ofRequest bool, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastErr, s.lastAt = err, at
	if !ofRequest {
		s.unable = err
	}
}

// ofRequest reports whether another resource or token type may be given where this one was not. A
// refusal is the identity's own only if it blames its credential, its application or its tenant; so
// is a failure to reach a service, or to present a credential at all.
func (s *identityState) ofRequest(v verdict) bool {
	// For an application, IMDS gives an assertion, which does not depend on the caller's request.
	return v.claims != "" || v.refusesRequest || s.ManagedIdentity != nil && v.imdsRefusesRequest
}

// becomes notes the client id of a token, and reports whether it is another one than before.
func (s *identityState) becomes(clientID string) (before string, changed bool) {
	if clientID == "" {
		return "", false // IMDS need not say it
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	before, s.clientID = s.clientID, clientID
	return before, before != "" && !strings.EqualFold(before, clientID)
}

// IdentityStatus describes an identity for an operator.
type IdentityStatus struct {
	Identity
	LastError   error     // of the last flight; nil if it obtained a token
	LastAt      time.Time // that flight ended; zero before the first
	Unable      error     // why the identity gives no tokens; errors that are about one request only do not count
	Credentials []CredentialStatus

	// Of a managed identity:
	Certificate *binding.Certificate // in use; nil before the first token
	Strength    Strength             // of Certificate with the key
	Handshake   tlsbridge.Handshake  // last one with Certificate
}

// CredentialStatus describes one form of one credential of an identity.
type CredentialStatus struct {
	Name      string
	Source    Source
	Bound     bool
	Tried     bool      // since the start
	LastError error     // of the last attempt; nil if it obtained a token
	LastAt    time.Time // that attempt ended
	Strength  Strength  // of the last success
}

// Status describes all identities in the order of the configuration. It does no I/O.
func (a *Acquirer) Status() []IdentityStatus {
	r := a.roster.Load()
	list := make([]IdentityStatus, 0, len(r.order))
	for _, id := range r.order {
		list = append(list, r.status(id))
	}
	return list
}

func (r *Roster) status(id *identityState) IdentityStatus {
	status := IdentityStatus{Identity: id.Identity}
	id.mu.Lock()
	status.LastError, status.LastAt, status.Unable = id.lastErr, id.lastAt, id.unable
	id.mu.Unlock()
	for _, s := range id.chain.steps {
		status.Credentials = append(status.Credentials, s.status())
	}
	if id.ManagedIdentity == nil {
		return status
	}
	m := r.bound[id.ManagedIdentity.Selector]
	if m == nil {
		return status
	}
	if c := m.cfg.Bindings.Current(m.sel); c != nil {
		status.Certificate, status.Strength, status.Handshake = c, strengthOf(m.cfg.Key.Strength, c), m.handshake()
	}
	return status
}

func (s *step) status() CredentialStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	return CredentialStatus{Name: s.entry, Source: s.source, Bound: s.bound, Tried: s.tried, LastError: s.lastErr, LastAt: s.lastAt, Strength: s.strength}
}
