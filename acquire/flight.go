package acquire

import "github.com/keyagent/keyagent/internal/inflight"

// flight is the work that obtains one token, shared by all callers who ask for it meanwhile.
type flight struct {
	id           *identityState
	key          cacheKey // of the token
	claims       string   // capabilities and challenge, merged; JSON or ""
	forceRefresh bool     // the cache is skipped
	ahead        bool     // the current token is still good
	challenged   bool     // by claims that a caller brought

	account Account // the flight is charged to it; nil: to none
	request string  // that caused it, of those that share it the first; "" if none did
}

// name is the same for flights that can be shared: a request that skips the cache does not join one
// that does not.
func (f flight) name() string {
	if f.forceRefresh {
		return f.key.String() + "\x00forceRefresh\x00" + f.claims
	}
	return f.key.String()
}

// fly joins the flight of that name, or starts it. A flight belongs to the acquirer, not to the
// caller.
func (a *Acquirer) fly(f flight) (*inflight.Call[Token], error) {
	return a.flights.Start(f.name(), func() error { return a.begin(f.id, f.account) }, func() (Token, error) {
		defer a.end(f.id)
		// The flight before may have ended after this one's caller had looked into the cache.
		if !f.forceRefresh && !f.ahead {
			if token, state := a.cache.lookup(f.key, a.cfg.Now()); state != cacheMiss {
				return token, nil
			}
		}
		return a.obtain(f)
	})
}
