package binding

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"
)

// renewalTimeout bounds one renewal: IMDS' longest retry schedule, attestation and
// issuance.
const renewalTimeout = 3 * time.Minute

var errPanic = errors.New("a fault in the agent; its log says where")

// Run renews the certificates that have been used since the start, each at its
// [Certificate.RenewAt]. A renewal that fails is tried again after 1, 2, 4 … 60 minutes, moved by
// the jitter, while the old certificate is used; so is one that brings a certificate which is due
// at once. Run blocks until ctx ends, starts no goroutine, and then returns nil. It must be called
// once.
func (m *Manager) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		s, err := m.rest(ctx)
		if err != nil {
			return fmt.Errorf("waiting for the next renewal of a binding certificate: %w", err)
		}
		if s != nil {
			m.renew(ctx, s)
		}
	}
	return nil
}

// rest returns a slot that is due, or nil after a while or when ctx ends.
func (m *Manager) rest(ctx context.Context) (*slot, error) {
	piece, wake := context.WithCancel(ctx)
	defer wake()
	s, wait := m.next(wake)
	if wait <= 0 {
		return s, nil
	}
	if err := m.cfg.Wait(piece, wait); err != nil && piece.Err() == nil {
		return nil, err
	}
	m.settleLate()
	return nil, nil
}

// next returns the slot whose renewal comes first, and how long to wait before
// looking again. From then on wake is called when a certificate comes into use.
func (m *Manager) next(wake func()) (first *slot, wait time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wake = wake
	wait = pollInterval
	now := m.cfg.Now()
	for _, s := range m.slots {
		if s.current == nil || m.wanted != nil && !m.wanted[s.name] {
			continue
		}
		if due := s.due(now); due < wait {
			first, wait = s, due
		}
	}
	return first, wait
}

// renew tries once to renew. What did not make the slot less due is a failure.
func (m *Manager) renew(ctx context.Context, s *slot) {
	err := m.tryRenewal(ctx, s)
	if ctx.Err() != nil {
		return
	}
	current, retryAt := m.rate(s)
	if current == nil {
		return // renewed, or rejected meanwhile
	}
	if err == nil {
		err = errors.New("the new certificate is to be renewed at once, too")
	}
	m.cfg.Logger.Warn("renewing the binding certificate did not work; the current one serves on",
		"selector", s.name.String(), "expires", current.EffectiveExpiry(), "retry_at", retryAt, "error", err)
}

// tryRenewal obtains a new certificate, unless another caller has meanwhile. A panic becomes the
// error of this renewal: it parses bytes from the network.
func (m *Manager) tryRenewal(ctx context.Context, s *slot) (err error) {
	ctx, cancel := context.WithTimeout(ctx, renewalTimeout)
	defer cancel()
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer s.unlock()
	defer func() {
		if p := recover(); p != nil {
			// The value could quote foreign bytes; the stack says where.
			m.cfg.Logger.Error("panic while renewing a binding certificate", "selector", s.name.String(), "stack", string(debug.Stack()))
			err = errPanic
		}
	}()
	if !m.isDue(s) {
		return nil
	}
	meta, err := m.cfg.IMDS.PlatformMetadata(ctx, s.sel)
	if err != nil {
		return err
	}
	_, err = m.issue(ctx, s, meta, false)
	return err
}

func (m *Manager) isDue(s *slot) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return s.current != nil && s.due(m.cfg.Now()) <= 0
}

// rate evaluates a renewal by its result: if the slot is still due, the next attempt has to wait
// until retryAt, and the certificate that stays in use is returned.
func (m *Manager) rate(s *slot) (current *Certificate, retryAt time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.cfg.Now()
	if s.current == nil || s.due(now) > 0 {
		return nil, time.Time{}
	}
	s.failures++
	s.retryIn = m.cfg.Jitter(backoff(s.failures))
	s.retryAt = now.Add(s.retryIn)
	return s.current, s.retryAt
}
