package token

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/keyagent/keyagent/internal/secret"
)

// margin is how long before its expiry a token is no longer handed out: the caller needs time to
// use it.
const margin = 5 * time.Minute

// maxEndpoints bounds how many endpoints' tokens are kept. A machine has one.
const maxEndpoints = 8

// fetcher gets a new token.
type fetcher func(ctx context.Context, endpoint string) (secret.String, time.Time, error)

// cache keeps tokens and lets one caller fetch for all that wait. It is safe for concurrent use.
type cache struct {
	fetch fetcher
	now   func() time.Time

	mu      sync.Mutex
	entries map[string]*entry // guarded by mu; by endpoint
}

func newCache(fetch fetcher, now func() time.Time) *cache {
	return &cache{fetch: fetch, now: now, entries: map[string]*entry{}}
}

// entry is the state of one endpoint: a token that was fetched, and the flight that fetches the
// next.
type entry struct {
	token   secret.String
	expires time.Time
	flight  *flight
}

// flight is one fetch that any number of callers wait for. Its results are set before done is
// closed.
type flight struct {
	done      chan struct{}
	token     secret.String
	expires   time.Time
	err       error
	abandoned bool // the caller who did the work gave up: the next one takes over
}

// token returns a kept token for endpoint or fetches one.
func (c *cache) token(ctx context.Context, endpoint string) (secret.String, time.Time, error) {
	for {
		token, expires, f, mine := c.join(endpoint)
		if f == nil {
			return token, expires, nil
		}
		if mine {
			return c.fly(ctx, endpoint, f)
		}
		select {
		case <-f.done:
			if f.abandoned && ctx.Err() == nil {
				continue
			}
			return f.token, f.expires, f.err
		case <-ctx.Done():
			return secret.String{}, time.Time{}, fmt.Errorf("waiting for an attestation token: %w", ctx.Err())
		}
	}
}

// join returns a kept token, or the flight to wait for; mine says that the caller is to do the
// work.
func (c *cache) join(endpoint string) (token secret.String, expires time.Time, f *flight, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entryLocked(endpoint)
	if !e.token.IsZero() && c.now().Before(e.expires.Add(-margin)) {
		return e.token, e.expires, nil, false
	}
	if e.flight != nil {
		return token, expires, e.flight, false
	}
	e.flight = &flight{done: make(chan struct{})}
	return token, expires, e.flight, true
}

// entryLocked finds or makes the entry of an endpoint. The endpoint comes from the host: one that
// names a new one each time must not fill the memory.
func (c *cache) entryLocked(endpoint string) *entry {
	if e := c.entries[endpoint]; e != nil {
		return e
	}
	if len(c.entries) >= maxEndpoints {
		maps.DeleteFunc(c.entries, func(_ string, e *entry) bool { return e.flight == nil })
	}
	e := &entry{}
	c.entries[endpoint] = e
	return e
}

// fly does the work of f in the caller's goroutine, keeps the result and wakes those who wait.
func (c *cache) fly(ctx context.Context, endpoint string, f *flight) (secret.String, time.Time, error) {
	landed := false
	defer func() {
		if !landed { // fetch panicked
			f.err = errors.New("attestation was aborted")
		}
		c.land(endpoint, f)
	}()
	f.token, f.expires, f.err = c.fetch(ctx, endpoint)
	f.abandoned = f.err != nil && ctx.Err() != nil
	landed = true
	return f.token, f.expires, f.err
}

func (c *cache) land(endpoint string, f *flight) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[endpoint]; e != nil && e.flight == f { // else the token was discarded meanwhile
		e.flight = nil
		if f.err == nil {
			e.token, e.expires = f.token, f.expires
		}
	}
	close(f.done)
}

// discard forgets what is kept for endpoint, and the flight that would fetch the next: those who
// wait for it get its result, and nobody after them.
func (c *cache) discard(endpoint string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.entries, endpoint)
}
