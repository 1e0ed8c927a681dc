package acquire

import (
	"strings"
	"sync"
	"time"
)

const (
	// maxCachedTokens bounds the cache; the token that expires first goes first.
	maxCachedTokens = 1000
	// refreshPause is how long a failed refresh ahead of need rests.
	refreshPause = 30 * time.Second
)

// cacheKey is everything that makes one token differ from another.
type cacheKey struct {
	identity  string
	resource  string
	tokenType TokenType
}

// String joins the parts with a byte that none of them can hold.
func (k cacheKey) String() string {
	return strings.Join([]string{k.identity, k.resource, string(k.tokenType)}, "\x00")
}

type cacheState int

const (
	cacheMiss  cacheState = iota // nothing, or expired
	cacheDue                     // valid, and time to fetch the next one
	cacheFresh                   // valid
)

// tokenCache keeps tokens in memory until they expire.
type tokenCache struct {
	max int

	mu      sync.Mutex
	entries map[cacheKey]cacheEntry
}

// cacheEntry holds a token and its end on both clocks: the wall clock can be set
// back, and the monotonic one stands still while the machine is suspended. The
// token is over when either says so.
type cacheEntry struct {
	token     Token // its ExpiresOn is a time of the wall clock
	deadline  time.Time
	refreshOn time.Time
}

func (e cacheEntry) expired(now time.Time) bool {
	return !now.Before(e.deadline) || !now.Round(0).Before(e.token.ExpiresOn)
}

func newTokenCache(limit int) *tokenCache {
	return &tokenCache{max: limit, entries: map[cacheKey]cacheEntry{}}
}

func (c *tokenCache) lookup(key cacheKey, now time.Time) (Token, cacheState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	entry, ok := c.entries[key]
	switch {
	case !ok || entry.expired(now):
		return Token{}, cacheMiss
	case !now.Before(entry.refreshOn):
		return entry.token, cacheDue
	}
	return entry.token, cacheFresh
}

func (c *tokenCache) store(key cacheKey, token Token, now time.Time) {
	token.FromCache = true
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entries[key] = cacheEntry{
		token:     token,
		deadline:  now.Add(token.ExpiresOn.Sub(now.Round(0))),
		refreshOn: token.RefreshOn,
	}
	if len(c.entries) > c.max {
		c.evictLocked(now)
	}
}

// postpone keeps a token whose refresh failed from being refreshed at every request.
func (c *tokenCache) postpone(key cacheKey, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if entry, ok := c.entries[key]; ok {
		entry.refreshOn = now.Add(refreshPause)
		c.entries[key] = entry
	}
}

// evictLocked drops what has expired and, if that is not enough, the token that
// expires first.
func (c *tokenCache) evictLocked(now time.Time) {
	var first cacheKey
	var earliest time.Time
	for key, entry := range c.entries {
		if entry.expired(now) {
			delete(c.entries, key)
			continue
		}
		if earliest.IsZero() || entry.token.ExpiresOn.Before(earliest) {
			first, earliest = key, entry.token.ExpiresOn
		}
	}
	if len(c.entries) > c.max {
		delete(c.entries, first)
	}
}
