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
