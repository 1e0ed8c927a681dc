package token

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/keyagent/keyagent/internal/inflight"
	"github.com/keyagent/keyagent/internal/secret"
)

// margin is how long before its expiry a token is no longer handed out: its caller needs time to
// use it.
const margin = 5 * time.Minute

// maxEndpoints bounds how many endpoints' tokens are kept. A machine has one.
const maxEndpoints = 8

// fetcher gets a new token.
type fetcher func(ctx context.Context, endpoint string) (secret.String, time.Time, error)

// cache keeps tokens and lets one caller fetch for all that wait. It is safe for concurrent use.
type cache struct {
	fetch   fetcher
	now     func() time.Time
	flights inflight.Group[entry] // by endpoint

	mu       sync.Mutex
	entries  map[string]entry // guarded by mu; by endpoint
	discards int              // guarded by mu; how often a token was discarded
}

// entry is a token of one endpoint.
type entry struct {
	token   secret.String
	expires time.Time
}

func newCache(fetch fetcher, now func() time.Time) *cache {
	return &cache{fetch: fetch, now: now, entries: map[string]entry{}}
}

// Attest returns a token for endpoint, and when it expires. It may be a kept one. The call blocks
// for at most as long as ctx allows.
func (c *cache) Attest(ctx context.Context, endpoint string) (secret.String, time.Time, error) {
	if e, ok := c.kept(endpoint); ok {
		return e.token, e.expires, nil
	}
	e, err := c.flights.Do(ctx, endpoint, func(ctx context.Context) (entry, error) {
		if e, ok := c.kept(endpoint); ok { // fetched since this caller looked
			return e, nil
		}
		return c.fetchAndKeep(ctx, endpoint)
	})
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("waiting for an attestation token: %w", err)
	}
	return e.token, e.expires, err
}

func (c *cache) kept(endpoint string) (entry, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[endpoint]
	return e, ok && c.now().Before(e.expires.Add(-margin))
}

// fetchAndKeep gets a new token. It is not kept if a token was discarded meanwhile, since it may be
// older than that.
func (c *cache) fetchAndKeep(ctx context.Context, endpoint string) (entry, error) {
	c.mu.Lock()
	before := c.discards
	c.mu.Unlock()
	token, expires, err := c.fetch(ctx, endpoint)
	if err != nil {
		return entry{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.discards == before {
		// The endpoint comes from the host: one that names a new one each time must not fill the
		// memory.
		if len(c.entries) >= maxEndpoints {
			clear(c.entries)
		}
		c.entries[endpoint] = entry{token, expires}
	}
	return entry{token, expires}, nil
}

// Discard drops the token for endpoint because its recipient did not accept it: the next Attest
// gets a new one. A call to Attest that is in progress returns the token that it gets, but that
// token is not kept.
func (c *cache) Discard(endpoint string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.entries, endpoint)
	c.discards++
	c.flights.Forget(endpoint)
}
