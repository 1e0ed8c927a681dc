package acquire

import (
	"errors"
	"time"
)

// Observer is told, for statistics, how tokens are obtained. It must not block, and be safe for
// concurrent use.
type Observer interface {
	// TokenFetched tells of a flight that has ended: of which identity, for how long it was under
	// way, and why there is no token; "" if there is one.
	TokenFetched(identity string, took time.Duration, failure Kind)
}

// nobody is the observer of an acquirer without one.
type nobody struct{}

func (nobody) TokenFetched(string, time.Duration, Kind) {}

// Stats has an acquirer's gauges at a moment.
type Stats struct {
	CachedTokens int    // in memory, expired ones that were not dropped yet among them
	CacheHits    uint64 // requests since the start that a token in memory has answered
	CacheMisses  uint64 // and those that it has not; one that skips the cache is neither
	Flights      int    // under way
}

// Stats returns the acquirer's gauges now.
func (a *Acquirer) Stats() Stats {
	return Stats{
		CachedTokens: a.cache.len(), CacheHits: a.hits.Load(), CacheMisses: a.misses.Load(), Flights: int(a.flying.Load()),
	}
}

// look looks into the cache for a caller, and counts whether it was of use.
func (a *Acquirer) look(key cacheKey, now time.Time) (Token, cacheState) {
	token, state := a.cache.lookup(key, now)
	if state == cacheMiss {
		a.misses.Add(1)
	} else {
		a.hits.Add(1)
	}
	return token, state
}

// observe tells the observer of a flight that has ended.
func (a *Acquirer) observe(f flight, begun time.Time, err error) {
	kind := Kind("")
	if err != nil {
		kind = KindUnavailable
		if failed, ok := errors.AsType[*Error](err); ok {
			kind = failed.Kind
		}
	}
	a.cfg.Observer.TokenFetched(f.key.identity, time.Since(begun), kind)
}

func (c *tokenCache) len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.entries)
}
