package tee

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"slices"
	"sync"
	"time"
)

// maxChains is how many chains are remembered, of 32 bytes each.
const maxChains = 8192

// memo remembers which chains have been verified: that a certificate is signed by another does not
// change. A verifier sees the chain of one chip as often as it has machines, and its two RSA-4096
// signatures are a third of what a bundle costs. A chain is known by all bytes of its certificates;
// their times are looked at again whenever it is used. A nil memo remembers nothing. It is safe for
// concurrent use.
type memo struct {
	mu     sync.Mutex
	chains map[[sha256.Size]byte]struct{}
}

// Remembering returns roots under which each chain is verified once: when the same certificates
// come again, only their times are looked at. It is for a verifier of many machines. At most 8,192
// chains are remembered; the roots may be used concurrently.
func Remembering(roots []AMDRoot) []AMDRoot {
	out := slices.Clone(roots)
	for i := range out {
		out[i].verified = &memo{}
	}
	return out
}

// holds reports whether the chain was verified before and all of it is valid at t.
func (m *memo) holds(t time.Time, chain ...*x509.Certificate) bool {
	if m == nil || !validAt(t, chain...) {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	_, known := m.chains[chainID(chain)]
	return known
}

// add remembers a chain that was verified.
func (m *memo) add(chain ...*x509.Certificate) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.chains == nil || len(m.chains) >= maxChains {
		m.chains = map[[sha256.Size]byte]struct{}{}
	}
	m.chains[chainID(chain)] = struct{}{}
}

// validAt reports whether all of the certificates are valid at t.
func validAt(t time.Time, chain ...*x509.Certificate) bool {
	return !slices.ContainsFunc(chain, func(c *x509.Certificate) bool { return t.Before(c.NotBefore) || t.After(c.NotAfter) })
}

// chainID is a number for all bytes of the certificates, in their order.
func chainID(chain []*x509.Certificate) [sha256.Size]byte {
	h := sha256.New()
	for _, c := range chain {
		_ = binary.Write(h, binary.BigEndian, uint64(len(c.Raw))) // a hash takes everything
		h.Write(c.Raw)
	}
	return [sha256.Size]byte(h.Sum(nil))
}
