package acquire

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/keyagent/keyagent/acquire/binding"
	"github.com/keyagent/keyagent/acquire/entra"
	"github.com/keyagent/keyagent/tlsbridge"
)

// A credential is one way to tokens of one identity, in one form: bound or not.
type credential interface {
	// obtain asks for a token. Errors about the credential itself, before Entra has seen it, are a *loadError.
	obtain(ctx context.Context, a *ask) (*grant, error)
}

// ask is what one flight wants.
type ask struct {
	resource  string
	tokenType TokenType
	claims    string   // capabilities and challenge, merged; JSON or ""
	fresh     bool     // nothing that somebody upstream has kept
	floor     Strength // what a weaker credential than this would obtain is not wanted

	reissued bool // a certificate was replaced in this flight: once is enough
}

// wireType is the form field token_type for a request that authenticates by certificate or assertion: Bearer is what Entra
// gives when the field is absent.
func (a *ask) wireType() string {
	if a.tokenType == TypePoP {
		return string(TypePoP)
	}
	return ""
}

// grant is what a credential obtained.
type grant struct {
	answer   *entra.TokenResponse
	clientID string
	strength Strength
	over     *connection // nil: no certificate was presented
	half     bool        // the token may be refreshed no earlier than near its end: see refreshOn
	passed   bool        // somebody on the way has passed a better credential over
}

// connection is a certificate in use: the connections that present it, how well its key is kept, and how another one is had.
type connection struct {
	bridge     *tlsbridge.Bridge
	thumbprint string // x5t#S256
	strength   Strength
	// current reports whether the certificate is still the one in use.
	current func() bool
	// replace has another certificate issued. It is nil where nobody issues one.
	replace func(ctx context.Context, why binding.Reason) error
}

// loadError says that a credential was not there to be presented: the next entry may be.
type loadError struct{ err error }

func (e *loadError) Error() string { return e.err.Error() }
func (e *loadError) Unwrap() error { return e.err }

// notLoaded marks err, if there is one.
func notLoaded(err error) error {
	if err == nil {
		return nil
	}
	if _, marked := errors.AsType[*loadError](err); marked {
		return err
	}
	return &loadError{err}
}

// floorError says that a credential is weaker than an identity demands.
type floorError struct{ have, want Strength }

func (e *floorError) Error() string {
	return fmt.Sprintf("the credential's strength is %q, and the identity's min_strength is %q", e.have, e.want)
}

// checkFloor refuses a credential that is too weak, before it is shown to anybody.
func (a *ask) checkFloor(have Strength) error {
	if have.reaches(a.floor) {
		return nil
	}
	return notLoaded(&floorError{have: have, want: a.floor})
}

// holder keeps the connections of whoever has a certificate. A new certificate closes those of the one before; a request that was
// begun with the old one can still end on it, but keeps no connection.
type holder struct {
	mu       sync.Mutex
	newest   *tlsbridge.Bridge
	previous *tlsbridge.Bridge
	names    [2]string // thumbprints of newest and previous
}

// bridge returns the connections that present pair, whose thumbprint is name.
func (h *holder) bridge(cfg tlsbridge.Config, name string, pair tlsbridge.Pair) (*tlsbridge.Bridge, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.newest != nil && h.names[0] == name:
		return h.newest, nil
	case h.previous != nil && h.names[1] == name:
		return h.previous, nil
	}
	fresh, err := tlsbridge.New(cfg, pair)
	if err != nil {
		return nil, err
	}
	if h.newest != nil {
		h.newest.Close()
	}
	h.newest, h.previous = fresh, h.newest
	h.names = [2]string{name, h.names[0]}
	return fresh, nil
}

// holds reports whether the certificate is the newest that was presented.
func (h *holder) holds(name string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.newest != nil && h.names[0] == name
}

// handshake describes the last handshake of the newest certificate.
func (h *holder) handshake() tlsbridge.Handshake {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.newest == nil {
		return tlsbridge.Handshake{}
	}
	return h.newest.Handshake()
}

func (h *holder) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, b := range []*tlsbridge.Bridge{h.newest, h.previous} {
		if b != nil {
			b.Close()
		}
	}
}
