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

// A credential obtains tokens of one identity in one form: bound or not.
type credential interface {
	// obtain asks for a token. An error that came before Entra has seen the credential is
	// marked by notLoaded.
	obtain(ctx context.Context, a *ask) (*grant, error)
}

// ask is one flight's request to a credential.
type ask struct {
	resource     string
	tokenType    TokenType
	claims       string // capabilities and challenge, merged; JSON or ""
	forceRefresh bool   // nothing that IMDS or the agent has kept may serve
	// floors are the strengths that each credential must have: min_strength of the identity, and of
	// the identities that its token is an assertion for. All are kept, since of two floors neither
	// need be the higher one.
	floors []Strength

	// reissued are the managed identities whose certificate was replaced in this flight; each is
	// replaced once at most.
	reissued map[imds.Selector]bool
}

// mayReissue reports whether the certificate of a managed identity may be replaced: true once for
// each.
func (a *ask) mayReissue(sel imds.Selector) bool {
	if a.reissued[sel] {
		return false
	}
	a.reissued[sel] = true
	return true
}

// wireType is the form field token_type of a request that authenticates by certificate or
// assertion. Without the field, Entra gives a Bearer token.
func (a *ask) wireType() string {
	if a.tokenType == TypePoP {
		return string(TypePoP)
	}
	return ""
}

// grant is a credential's result.
type grant struct {
	answer   *entra.TokenResponse
	clientID string
	strength Strength
	over     *connection // nil: no certificate was presented
	half     bool        // IMDS caches the token, so that it is refreshed near its end: see refreshOn
	passed   bool        // a better credential was passed over, here or for the assertion
}

// connection is a certificate in use: the TLS connections that present it, and how well its key is
// protected.
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

// checkFloor refuses a credential that is too weak, before it is shown to Entra.
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

// holder keeps the TLS connections that present one certificate. Another certificate closes those
// of the one before: a request on such a connection finishes, and keeps no connection.
type holder struct {
	mu        sync.Mutex
	inUse     *tlsbridge.Bridge
	shows     any        // identifies the pair of certificate and key that inUse presents
	transport *transport // that inUse was made with
	ended     bool       // only requests that are under way still come
	resources resourceBridges
}

// bridge returns the connections that present pair; id identifies the pair.
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
		h.closeResources()
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

// leave closes connections that were made with other TLS settings, once the requests on them are
// done.
func (h *holder) leave(current *transport) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.inUse != nil && h.transport != current {
		h.inUse.Close()
		h.closeResources()
	}
}

// close closes the connections once the requests on them are done, and those of later requests,
// too.
func (h *holder) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended = true
	if h.inUse != nil {
		h.inUse.Close()
		h.closeResources()
	}
}
