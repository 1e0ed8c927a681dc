package acquire

import (
	"context"
	"runtime/debug"
	"time"

	"github.com/keyagent/keyagent/acquire/imds"
)

// flightTimeout bounds one flight: the longest retry schedule of IMDS, attestation, issuance and
// token request. A caller waits no longer than its own context allows.
const flightTimeout = 3 * time.Minute

// obtain makes one pass over the list of credentials, and keeps the result: the token, or the
// reason why there is none.
func (a *Acquirer) obtain(f flight) (Token, error) {
	begun := time.Now()
	a.flying.Add(1)
	defer a.flying.Add(-1)
	kept, err := a.try(f)
	if err != nil {
		failure := a.fail(f, err)
		a.observe(f, begun, failure)
		return Token{}, failure
	}
	a.observe(f, begun, nil)
	a.keep(f, kept)
	return kept.token, nil
}

// try asks for the token within the time of a flight. A panic becomes the error of this flight: it
// parses bytes from the network.
func (a *Acquirer) try(f flight) (kept cacheEntry, err error) {
	ctx, cancel := context.WithTimeout(a.ctx, flightTimeout)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			// The value could quote foreign bytes; the stack says where.
			a.cfg.Logger.Error("panic while obtaining a token", "identity", f.key.identity, "stack", string(debug.Stack()))
			kept, err = cacheEntry{}, withVerdict(errPanic)
		}
	}()
	asked := a.cfg.Now() // the life that Entra states began after this moment
	g, by, err := f.id.chain.obtain(ctx, &ask{
		resource: f.key.resource, tokenType: f.key.tokenType, claims: f.claims, forceRefresh: f.forceRefresh, reissued: map[imds.Selector]bool{},
	})
	if err != nil {
		return cacheEntry{}, err
	}
	return a.entryOf(f, g, by, asked), nil
}
