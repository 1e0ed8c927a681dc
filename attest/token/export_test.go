package token

import (
	"context"
	"time"

	"github.com/keyagent/keyagent/internal/secret"
)

// CheckTransportKey is what is checked before evidence is sent.
var CheckTransportKey = checkTransportKey

// Cache is the cache alone.
type Cache struct{ *cache }

// NewCache makes a cache over fetch.
func NewCache(fetch func(context.Context, string) (secret.String, time.Time, error), now func() time.Time) Cache {
	return Cache{newCache(fetch, now)}
}

// Token asks the cache.
func (c Cache) Token(ctx context.Context, endpoint string) (secret.String, time.Time, error) {
	return c.cache.token(ctx, endpoint)
}

// Discard tells the cache to forget a token.
func (c Cache) Discard(endpoint string) { c.discard(endpoint) }

// Entries is how many endpoints are remembered.
func (c Cache) Entries() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.entries)
}

// Ask runs the program for a bundle.
func (p *Program) Ask(ctx context.Context, endpoint string, bundle []byte) (secret.String, time.Time, error) {
	return p.ask(ctx, endpoint, bundle)
}

// ReadToken reads what a program has written.
var ReadToken = readToken

// MaxOutput is how much a program may write.
const MaxOutput = maxOutput
