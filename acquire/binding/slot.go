package binding

import (
	"context"
	"fmt"
	"time"

	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/internal/inflight"
	"github.com/keyagent/keyagent/internal/waiting"
)

// slot is one identity's certificate and the work on it.
type slot struct {
	name name
	sel  imds.Selector // as it was spelled first

	work   waiting.Lock // serialises issuance and the state file
	loaded bool         // the state file was read, and so may be written; guarded by work
	behind bool         // reading or writing the state file failed, and is tried again; guarded by work
	stored string       // x5t#S256 of the certificate in the state file, if known; guarded by work
	pauses breaker      // between replacements; guarded by work
	doubts breaker      // between replacements of doubted certificates, which a machine in between can cause; guarded by work

	asking inflight.Group[*imds.PlatformMetadata] // requests to IMDS

	// Guarded by the manager's mutex, which is never held for longer than a look.
	current  *Certificate // nil if there is none, or it was rejected
	rejected string       // x5t#S256 of the certificate that Entra rejected last: it is never taken again
	pending  *rejection   // until another certificate is there

	replacement string        // x5t#S256 of the last certificate that was issued in place of a rejected one
	failures    int           // of renewals in a row
	retryAt     time.Time     // no renewal before this
	retryIn     time.Duration // the pause that ends then
}

// rejection says that a certificate has to be replaced.
type rejection struct {
	certificate *Certificate // nil once the state file says it
	announced   bool         // in the log
	attestation bool         // the attestation token is the suspect
}

// lock waits for the work of others. The caller must unlock.
func (s *slot) lock(ctx context.Context) error {
	if err := s.work.Lock(ctx); err != nil {
		return fmt.Errorf("waiting for the binding certificate that is being obtained: %w", err)
	}
	return nil
}

func (s *slot) unlock() { s.work.Unlock() }

// due is the time until the current certificate must be renewed; 0 or less means now.
func (s *slot) due(now time.Time) time.Duration {
	return max(s.current.renewAt.Sub(now), remaining(s.retryAt, now, s.retryIn))
}

// slot finds or makes the slot of an identity.
func (m *Manager) slot(sel imds.Selector) (*slot, error) {
	n, err := newName(sel)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.slots[n]
	if s == nil {
		s = &slot{name: n, sel: sel, work: waiting.NewLock()}
		m.slots[n] = s
	}
	return s, nil
}

// usable returns the slot's certificate if it may be used for meta, or nil. One that belongs to
// another identity, VM or tenant is discarded.
func (m *Manager) usable(s *slot, meta *imds.PlatformMetadata) *Certificate {
	c := m.held(s)
	if c == nil || c.belongs(meta) {
		return c
	}
	m.cfg.Logger.Info("identity or VM is not the one of the binding certificate; it is discarded", "selector", s.name.String(), "thumbprint", c.Thumbprint())
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.current == c {
		s.current = nil
	}
	return nil
}

// held returns the slot's certificate if its time and the trusted hosts allow its use, or nil.
func (m *Manager) held(s *slot) *Certificate {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.current == nil || !s.current.usable(m.cfg.Now()) {
		return nil
	}
	if _, err := m.hosts.Check(s.current.MTLSEndpoint); err != nil {
		return nil
	}
	return s.current
}

// put brings a certificate into use, unless it is the one that Entra rejected.
func (m *Manager) put(s *slot, c *Certificate) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c.Thumbprint() == s.rejected {
		return fmt.Errorf("%w: issuecredential gave the certificate again that Entra rejected", imds.ErrBadAnswer)
	}
	s.current, s.pending = c, nil
	if m.cfg.Now().Before(c.renewAt) { // else it is due at once, and the renewal counts as failed
		s.failures, s.retryAt = 0, time.Time{}
	}
	m.wake()
	return nil
}
