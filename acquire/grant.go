package acquire

import (
	"context"
	"fmt"
	"net/http"
	"sync"

	"github.com/keyagent/keyagent/acquire/entra"
	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/tlsbridge"
)

// A credential is one way to tokens of one identity, in one form: bound or not.
type credential interface {
	// obtain asks for a token. Errors about the credential itself, before Entra has seen it, are marked by notLoaded.
	obtain(ctx context.Context, a *ask) (*grant, error)
}

// ask is what one flight wants.
type ask struct {
	resource     string
	tokenType    TokenType
	claims       string // capabilities and challenge, merged; JSON or ""
	forceRefresh bool   // nothing that IMDS or the agent has kept may serve
	// floors are what each credential on the way has to reach: that of the identity, and those of
	// the identities whose assertion it is. None of two floors need be the higher one, so that all
	// are kept.
	floors []Strength

	// reissued are the managed identities whose certificate was replaced in this flight: once is enough for each.
	reissued map[imds.Selector]bool
}

// mayReissue reports, once for each managed identity, that its certificate may be replaced.
func (a *ask) mayReissue(sel imds.Selector) bool {
	if a.reissued[sel] {
		return false
	}
	a.reissued[sel] = true
	return true
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
	transport  *transport // that bridge was made with
	thumbprint string     // x5t#S256
	strength   Strength
	// current reports whether the certificate is still the one in use.
	current func() bool
}

// floorError says that a credential is weaker than an identity demands.
type floorError struct{ have, want Strength }

func (e *floorError) Error() string {
	return fmt.Sprintf("the credential's strength is %q, and the identity's min_strength is %q", e.have, e.want)
}

// checkFloor refuses a credential that is too weak, before it is shown to anybody.
func (a *ask) checkFloor(have Strength) error {
	for _, floor := range a.floors {
		if !have.reaches(floor) {
			return notLoaded(&floorError{have: have, want: floor})
		}
	}
	return nil
}

// requestToken asks Entra for a token. An error carries its verdict.
func (cfg *Config) requestToken(ctx context.Context, over *http.Client, form entra.Request) (*entra.TokenResponse, error) {
	answer, err := cfg.Entra.Token(ctx, over, form)
	return answer, withVerdict(err)
}

// holder keeps the connections of whoever has a certificate. Another certificate closes those of the one before: a request that is under
// way there ends on it, and keeps no connection.
type holder struct {
	mu        sync.Mutex
	inUse     *tlsbridge.Bridge
	shows     any        // what tells the pair that inUse presents from others
	transport *transport // that inUse was made with
	ended     bool       // only requests that are under way still come
}

// bridge returns the connections that present pair, which id tells from others.
func (h *holder) bridge(transport *transport, id any, pair tlsbridge.Pair) (*tlsbridge.Bridge, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.inUse != nil && h.shows == id && h.transport == transport {
		return h.inUse, nil
	}
	made, err := tlsbridge.New(transport.tls, pair)
	if err != nil {
		return nil, err
	}
	if h.inUse != nil {
		h.inUse.Close()
	}
	if h.ended {
		made.Close()
	}
	h.inUse, h.shows, h.transport = made, id, transport
	return made, nil
}

// handshake describes the last handshake of the certificate in use.
func (h *holder) handshake() tlsbridge.Handshake {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.inUse == nil {
		return tlsbridge.Handshake{}
	}
	return h.inUse.Handshake()
}

// leave has connections that were made in another way end with the requests that are on them.
func (h *holder) leave(current *transport) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.inUse != nil && h.transport != current {
		h.inUse.Close()
	}
}

// close has the connections end with the requests that are on them, and those of requests that are still to come, too.
func (h *holder) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended = true
	if h.inUse != nil {
		h.inUse.Close()
	}
}
