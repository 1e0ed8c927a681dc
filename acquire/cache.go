package acquire

import (
	"container/list"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// maxCachedTokens bounds the cache; the least recently used token is dropped first.
	maxCachedTokens = 10000
	// refreshPause is the shortest time between two attempts to refresh a token ahead of need.
	refreshPause = 30 * time.Second
)

// cacheKey is everything that makes one token differ from another.
type cacheKey struct {
	identity     string
	resource     string
	tokenType    TokenType
	capabilities string // sorted, with commas between them
	meaning      uint64 // of the name: after a reload it may stand for another identity
}

// String joins the parts with a byte that none of them can hold.
func (k cacheKey) String() string {
	return strings.Join([]string{k.identity, k.resource, string(k.tokenType), k.capabilities, strconv.FormatUint(k.meaning, 10)}, "\x00")
}

func (k cacheKey) splitCapabilities() []string {
	if k.capabilities == "" {
		return nil
	}
	return strings.Split(k.capabilities, ",")
}

type cacheState int

const (
	cacheMiss  cacheState = iota // nothing, or expired
	cacheDue                     // valid, and time to fetch the next one
	cacheFresh                   // valid
)

// tokenCache keeps tokens in memory until they expire. An operation on one token takes the same
// time however many there are.
type tokenCache struct {
	max int

	mu      sync.Mutex
	entries map[cacheKey]*list.Element // of *cacheEntry
	order   list.List                  // most recently used first
}

// cacheEntry is a token with its end on both clocks: the wall clock can be set back, and the
// monotonic one stands still while the machine is suspended. The token has expired when either says
// so.
type cacheEntry struct {
	key       cacheKey
	token     Token // its ExpiresOn is a time of the wall clock
	deadline  time.Time
	refreshOn time.Time
	used      bool      // asked for since it was fetched
	asked     time.Time // when it was asked for at Entra
	account   Account   // the last fetch was charged to it; nil: to none
	// bound reports whether the certificate that the token is bound to is still in use; nil for a
	// token that is bound to none.
	bound func() bool
}

func (e *cacheEntry) expired(now time.Time) bool {
	return !now.Before(e.deadline) || !now.Round(0).Before(e.token.ExpiresOn)
}

func newTokenCache(limit int) *tokenCache {
	return &tokenCache{max: limit, entries: map[cacheKey]*list.Element{}}
}

// lookup returns a token that is still good. A caller that gets cacheDue must start the refresh;
// the others see cacheFresh for refreshPause.
func (c *tokenCache) lookup(key cacheKey, now time.Time) (Token, cacheState) {
	token, state, bound := c.find(key, now)
	if bound == nil || bound() { // outside the lock, since it may read files
		return token, state
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if element, ok := c.entries[key]; ok && element.Value.(*cacheEntry).token.AccessToken.Equal(token.AccessToken) {
		c.dropLocked(element)
	}
	return Token{}, cacheMiss
}

func (c *tokenCache) find(key cacheKey, now time.Time) (token Token, state cacheState, bound func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	element, ok := c.entries[key]
	if !ok {
		return Token{}, cacheMiss, nil
	}
	entry := element.Value.(*cacheEntry)
	if entry.expired(now) {
		c.dropLocked(element)
		return Token{}, cacheMiss, nil
	}
	entry.used = true
	c.order.MoveToFront(element)
	if now.Before(entry.refreshOn) {
		return entry.token, cacheFresh, entry.bound
	}
	entry.refreshOn = now.Add(refreshPause)
	return entry.token, cacheDue, entry.bound
}

func (c *tokenCache) store(key cacheKey, entry cacheEntry, now time.Time) {
	entry.key = key
	entry.token.FromCache = true
	entry.deadline = now.Add(entry.token.ExpiresOn.Sub(now.Round(0)))
	entry.refreshOn = entry.token.RefreshOn
	c.mu.Lock()
	defer c.mu.Unlock()
	if element, ok := c.entries[key]; ok {
		if had := element.Value.(*cacheEntry); had.asked.After(entry.asked) && !had.expired(now) {
			return // a later request was answered first
		}
		c.dropLocked(element)
	}
	c.entries[key] = c.order.PushFront(&entry)
	for c.order.Len() > c.max {
		c.dropLocked(c.order.Back())
	}
}

func (c *tokenCache) dropLocked(element *list.Element) {
	c.order.Remove(element)
	delete(c.entries, element.Value.(*cacheEntry).key)
}

// drop removes the tokens whose key is unwanted.
func (c *tokenCache) drop(unwanted func(cacheKey) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, element := range c.entries {
		if unwanted(key) {
			c.dropLocked(element)
		}
	}
}

// postpone keeps a token whose refresh failed from being refreshed again for refreshPause, or for
// the longer pause that the service asked for.
func (c *tokenCache) postpone(key cacheKey, now time.Time, asked time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if element, ok := c.entries[key]; ok {
		element.Value.(*cacheEntry).refreshOn = now.Add(max(refreshPause, asked))
	}
}

// remind makes a token due again whose refresh could not start.
func (c *tokenCache) remind(key cacheKey, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if element, ok := c.entries[key]; ok {
		element.Value.(*cacheEntry).refreshOn = now
	}
}

// account returns the account that a refresh without a request is charged to.
func (c *tokenCache) account(key cacheKey) Account {
	c.mu.Lock()
	defer c.mu.Unlock()
	if element, ok := c.entries[key]; ok {
		return element.Value.(*cacheEntry).account
	}
	return nil
}

// due returns up to limit tokens that are in use and due, and must be refreshed by the caller, and
// when the next one will be due or has expired; the zero time: there is none. It drops tokens that
// have expired.
func (c *tokenCache) due(now time.Time, limit int) (keys []cacheKey, next time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, element := range c.entries {
		entry := element.Value.(*cacheEntry)
		if entry.expired(now) {
			c.dropLocked(element)
			continue
		}
		if entry.used && !now.Before(entry.refreshOn) && len(keys) < limit {
			entry.refreshOn = now.Add(refreshPause)
			keys = append(keys, entry.key)
		}
		if at := entry.nextChange(); next.IsZero() || at.Before(next) {
			next = at
		}
	}
	return keys, next
}

// nextChange is when the token is due, if it is in use, or expires.
func (e *cacheEntry) nextChange() time.Time {
	if e.used && e.refreshOn.Before(e.deadline) {
		return e.refreshOn
	}
	return e.deadline
}
