package acquire

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/keyagent/keyagent/acquire/entra"
)

const (
	// refreshTick is how often Run looks for tokens whose time has come.
	refreshTick = 10 * time.Second
	// refreshesPerTick keeps many tokens of the same age from being fetched all at once.
	refreshesPerTick = 32
	// refreshSpread is the part of a token's life by which its refresh may come early, so that tokens of many machines, or of one
	// start, do not stay in step.
	refreshSpread = 20

	// halvable is how long a token of IMDS must live to be asked for again at half of it: IMDS keeps tokens itself and would only
	// repeat a younger one.
	halvable = 2 * time.Hour
	// lastMoment is when the others are asked for again.
	lastMoment = 5 * time.Minute
	// fallbackLife is how long a token serves at most before the credential that was passed over for it is tried again.
	fallbackLife = 30 * time.Minute
)

// Run fetches ahead of need the tokens that are in use, until ctx ends. Without it, they are fetched by the first request that
// finds them due. It returns nil.
func (a *Acquirer) Run(ctx context.Context) error {
	for a.cfg.Wait(ctx, refreshTick) == nil {
		for _, key := range a.cache.due(a.cfg.Now(), refreshesPerTick) {
			if id := a.roster.Load().byName[key.identity]; id != nil && id.meaning == key.meaning {
				a.refresh(id, key, a.cache.account(key)) //nolint:contextcheck // a flight outlives its callers
			}
		}
	}
	return nil
}

// refresh fetches the next token while the current one is still served, unless something stands
// against asking now. If it may not begin, as the account has too much on it, the next caller who
// asks for the token starts it.
func (a *Acquirer) refresh(id *identityState, key cacheKey, account Account) {
	if a.failures.recall(key, id.client(), a.cfg.Now(), false) != nil {
		return
	}
	claims, err := entra.MergeClaims(key.splitCapabilities(), "")
	if err != nil {
		return // not reached: they are those that obtained the current one
	}
	if _, err := a.fly(flight{id: id, key: key, claims: claims, ahead: true, account: account}); err != nil {
		a.cache.remind(key, a.cfg.Now())
	}
}

// refreshOn is when the next token is fetched: at Entra's refresh_in, or at half of the life, or a little earlier.
// Where a better credential was passed over, the token is fetched anew after fallbackLife, so that the better one is tried again.
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
