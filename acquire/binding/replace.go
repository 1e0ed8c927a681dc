package binding

import (
	"context"
	"fmt"
	"time"

	"github.com/keyagent/keyagent/acquire/imds"
)

// Reason is what Entra's rejection of a certificate is about.
type Reason string

// Reasons of [Manager.Replace].
const (
	ReasonCertificate Reason = "certificate" // the certificate itself: expired, revoked, or nothing more exact
	ReasonAttestation Reason = "attestation" // the attestation token that it was issued on: the key is attested anew
	// ReasonDoubt: the certificate may have been rejected, but a machine in between could have sent
	// the alert. It stays in use until there is another one.
	ReasonDoubt Reason = "doubt"
)

// PausedError says that a rejected certificate is not replaced yet, because the last replacement is
// not long ago. The identity has no certificate until then.
type PausedError struct {
	Until      time.Time
	RetryAfter time.Duration
	// Replacement says that the certificate that Entra rejected had itself replaced a rejected one.
	Replacement bool
}

func (e *PausedError) Error() string {
	return fmt.Sprintf("Entra rejected the binding certificate, and the last attempt to replace one was a moment ago: the next is made from %s on, in %s; "+
		"the log says why Entra rejected it", e.Until.UTC().Format(time.RFC3339), e.RetryAfter.Round(time.Second))
}

// Replace returns another certificate than the one that Entra rejected: the current
// one if it is another already, else a new one, which IMDS is asked not to take from
// its cache. However many callers meet one rejection, one certificate is issued.
// From the call on the rejected certificate is not handed out any more, not even if
// there is no other one, and not after a restart; one that is only doubted serves on.
//
// Replacements that follow each other are at least 30 seconds apart, and further
// each time, up to 30 minutes; in between the error is a [*PausedError]. Failures
// count. Otherwise Replace blocks and fails like [Manager.Certificate].
func (m *Manager) Replace(ctx context.Context, sel imds.Selector, rejected *Certificate, why Reason) (*Certificate, error) {
	s, err := m.slot(sel)
	if err != nil {
		return nil, err
	}
	if rejected != nil && why == ReasonDoubt {
		return m.doubt(ctx, s, rejected)
	}
	if rejected != nil && m.reject(s, rejected, why) {
		if err := m.note(ctx, s); err != nil {
			return nil, err
		}
	}
	return m.Certificate(ctx, sel)
}

// doubt obtains another certificate than one that stays in use meanwhile, and after that if no
// other can be obtained.
func (m *Manager) doubt(ctx context.Context, s *slot, doubted *Certificate) (*Certificate, error) {
	if err := s.lock(ctx); err != nil {
		return nil, err
	}
	defer s.unlock()
	m.settle(s)
	meta, err := m.metadata(ctx, s)
	if err != nil {
		return nil, err
	}
	current := m.usable(s, meta)
	if current == nil {
		return m.obtain(ctx, s, meta)
	}
	if current.Thumbprint() != doubted.Thumbprint() {
		return current, nil
	}
	began := m.cfg.Now()
	if left := max(s.pauses.wait(began), s.doubts.wait(began)); left > 0 {
		return nil, &PausedError{Until: began.Add(left), RetryAfter: left}
	}
	defer func() { s.doubts = s.doubts.spend(began, m.cfg.Now()) }()
	return m.issue(ctx, s, meta, true)
}

// reject takes a certificate out of use. It reports whether there is none now:
// false means that another one took its place before.
func (m *Manager) reject(s *slot, c *Certificate, why Reason) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	rejected := c.Thumbprint()
	if s.current != nil && s.current.Thumbprint() != rejected {
		return false
	}
	if s.pending == nil {
		s.current, s.rejected, s.pending = nil, rejected, &rejection{certificate: c}
	}
	if s.rejected == rejected { // else one that was replaced before
		s.pending.attestation = s.pending.attestation || why == ReasonAttestation
	}
	return true
}

// note writes a rejection to disk before anything else is tried.
func (m *Manager) note(ctx context.Context, s *slot) error {
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer s.unlock()
	m.settle(s)
	return nil
}

// obtain gets a certificate for a slot that has none, with its work held. If that
// is because Entra rejected the last one, pauses are kept.
func (m *Manager) obtain(ctx context.Context, s *slot, meta *imds.PlatformMetadata) (*Certificate, error) {
	if !m.replacing(s) {
		return m.issue(ctx, s, meta, false)
	}
	began := m.cfg.Now()
	if left := s.pauses.wait(began); left > 0 {
		return nil, &PausedError{Until: began.Add(left), RetryAfter: left, Replacement: m.rejectedReplacement(s)}
	}
	defer func() { s.pauses = s.pauses.spend(began, m.cfg.Now()) }()
	if m.blamesAttestation(s) {
		m.cfg.Attestor.Discard(meta.AttestationEndpoint)
	}
	c, err := m.issue(ctx, s, meta, true)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s.replacement = c.Thumbprint()
	return c, nil
}

// rejectedReplacement reports whether the rejected certificate was issued in place of another one.
func (m *Manager) rejectedReplacement(s *slot) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return s.rejected != "" && s.rejected == s.replacement
}

// replacing reports whether the slot's last certificate was rejected.
func (m *Manager) replacing(s *slot) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return s.pending != nil
}

// blamesAttestation reports, once, that the attestation token must be dropped.
func (m *Manager) blamesAttestation(s *slot) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	blamed := s.pending != nil && s.pending.attestation
	if blamed {
		s.pending.attestation = false
	}
	return blamed
}
