package acquire

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/keyagent/keyagent/acquire/entra"
)

const (
	// refreshTick is how often Run looks for tokens that are due, at most; idleTick is how often it
	// looks at least, for the tokens that came meanwhile. An agent that nobody asks for anything
	// should seldom wake the machine.
	refreshTick, idleTick = 10 * time.Second, time.Minute
	// refreshesPerTick keeps many tokens of the same age from being fetched all at once.
	refreshesPerTick = 32
	// A refresh may come early by up to 1/refreshSpread of the token's life, so that the tokens of
	// many machines, or of one start, are not all refreshed at the same moment.
	refreshSpread = 20

	// halvable is the shortest life of a token of IMDS that is refreshed at half of it. IMDS caches
	// tokens itself, and would return the same one again if its life is shorter.
	halvable = 2 * time.Hour
	// lastMoment is how long before the end other tokens of IMDS are refreshed.
	lastMoment = 5 * time.Minute
	// fallbackLife is how long a token of a fallback serves at most before the better credential is
	// tried again.
	fallbackLife = 30 * time.Minute
)

// Run refreshes the tokens that are in use ahead of need, until ctx ends. Without it, they are
// refreshed by the first request that finds them due. It returns nil.
func (a *Acquirer) Run(ctx context.Context) error {
	pause := refreshTick
	for a.cfg.Wait(ctx, pause) == nil {
		keys, next := a.cache.due(a.cfg.Now(), refreshesPerTick)
		pause = untilNext(next, a.cfg.Now())
		for _, key := range keys {
			if id := a.roster.Load().byName[key.identity]; id != nil && id.meaning == key.meaning {
				a.refresh(id, key, a.cache.account(key), "") //nolint:contextcheck // a flight outlives its callers
			}
		}
	}
	return nil
}

// untilNext is how long Run pauses when the next token is due then; the zero time: none is.
func untilNext(next, now time.Time) time.Duration {
	if next.IsZero() {
		return idleTick
	}
	return min(max(next.Sub(now), refreshTick), idleTick)
}

// refresh fetches the next token while the current one is still served, unless there is a reason
// not to ask now. If the flight may not begin because its account is over its limit, the next
// caller who asks for the token starts it. Request is the id of the one that made it look; "" if
// none did.
func (a *Acquirer) refresh(id *identityState, key cacheKey, account Account, request string) {
	if a.failures.recall(key, id.client(), a.cfg.Now(), false) != nil {
		return
	}
	claims, err := entra.MergeClaims(key.splitCapabilities(), "")
	if err != nil {
		return // cannot happen: the current token was obtained with these capabilities
	}
	if _, err := a.fly(flight{id: id, key: key, claims: claims, ahead: true, account: account, request: request}); err != nil {
		a.cache.remind(key, a.cfg.Now())
	}
}

// refreshOn is when the next token is fetched: after refresh_in, if Entra gave one, or half of the
// life, or a little earlier. A token of a fallback is refreshed after fallbackLife, so that the
// better credential is tried again.
func (a *Acquirer) refreshOn(now time.Time, g *grant) time.Time {
	life, at := g.answer.ExpiresIn, g.answer.ExpiresIn/2
	switch {
	case g.answer.RefreshIn > 0 && g.answer.RefreshIn < life:
		at = g.answer.RefreshIn
	case g.half && life <= halvable:
		at = max(life-lastMoment, life/2)
	}
	if g.passed {
		at = min(at, fallbackLife)
	}
	return now.Add(at - a.cfg.Jitter(at/refreshSpread))
}

// randomly returns a duration from 0 to limit.
func randomly(limit time.Duration) time.Duration {
	if limit <= 0 {
		return 0
	}
	return rand.N(limit) //nolint:gosec // it spreads load, and keeps no secret
}
