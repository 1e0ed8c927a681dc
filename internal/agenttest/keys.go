package agenttest

import (
	"crypto/rand"
	"crypto/rsa"
	"sync"
	"testing"

	"github.com/keyagent/keyagent/simulator/pki"
)

// rsaKeys are those of the platforms of one test binary: generating them anew for each platform
// would take three quarters of the time of all these tests.
var rsaKeys = &keyPool{}

// Keys lends keys to a platform that ends with the test.
func Keys(t testing.TB) pki.Keys { return rsaKeys.lend(t) }

// keyPool lends RSA keys. Platforms that run at the same time never have a key in common: what one
// of them trusts, another one must not be able to make. It is safe for concurrent use.
type keyPool struct {
	mu   sync.Mutex
	free []*rsa.PrivateKey
}

// lend returns keys for one platform, which come back when the test ends.
func (p *keyPool) lend(t testing.TB) pki.Keys {
	var lent []*rsa.PrivateKey
	t.Cleanup(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.free = append(p.free, lent...)
	})
	return func() (*rsa.PrivateKey, error) {
		key, err := p.take()
		p.mu.Lock()
		defer p.mu.Unlock()
		if err == nil {
			lent = append(lent, key)
		}
		return key, err
	}
}

func (p *keyPool) take() (*rsa.PrivateKey, error) {
	p.mu.Lock()
	if last := len(p.free) - 1; last >= 0 {
		defer p.mu.Unlock()
		key := p.free[last]
		p.free = p.free[:last]
		return key, nil
	}
	p.mu.Unlock()
	return rsa.GenerateKey(rand.Reader, 2048)
}
