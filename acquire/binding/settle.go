package binding

import (
	"cmp"
	"errors"
	"io/fs"

	"github.com/keyagent/keyagent/internal/statefile"
)

// errUnread says why a certificate is not stored.
var errUnread = errors.New("the existing state file could not be read; it may hold a certificate that must not be lost")

// settle makes memory and state file agree; the slot's lock is held. The file is read until that
// has worked once; then the changes that it lacks are written. A file that cannot be read is not
// written either.
func (m *Manager) settle(s *slot) {
	known := s.loaded || m.restore(s)
	m.announce(s)
	if !known {
		return
	}
	m.mark(s)
	if !s.behind {
		return
	}
	switch c := m.inUse(s); {
	case c == nil:
		s.behind = m.unmarked(s) != nil
	case m.write(s, c) == nil:
		m.cfg.Logger.Info("binding certificate stored now", "selector", s.name.String(), "thumbprint", c.Thumbprint())
	}
}

// settleLate settles the slots whose files could not be read or written before, and whose locks are
// free.
func (m *Manager) settleLate() {
	m.mu.Lock()
	var slots []*slot
	for _, s := range m.slots {
		slots = append(slots, s)
	}
	m.mu.Unlock()
	for _, s := range slots {
		if !s.work.TryLock() {
			continue
		}
		if s.behind {
			m.settle(s)
		}
		s.unlock()
	}
}

func (m *Manager) inUse(s *slot) *Certificate {
	m.mu.Lock()
	defer m.mu.Unlock()
	return s.current
}

// restore fills the slot from disk. It reports false if the file could not be read: then the file
// stays as it is.
func (m *Manager) restore(s *slot) bool {
	r, err := m.store.load(s.name)
	torn, isTorn := errors.AsType[*statefile.TornError](err)
	switch {
	case isTorn:
		m.cfg.Logger.Warn("binding certificate's state file is unusable; a new certificate will be issued",
			"selector", s.name.String(), "file", m.store.path(s.name), "moved_to", torn.Aside, "error", torn.Err)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		if !s.behind {
			m.cfg.Logger.Warn("binding certificate's state file could not be read; it is left as it is and tried again, and until then a certificate is kept in memory only",
				"selector", s.name.String(), "file", m.store.path(s.name), "error", err)
		}
		s.behind = true
		return false
	}
	s.loaded = true
	if r != nil {
		m.adopt(s, r)
	}
	return true
}

// adopt takes over the state file's content. Memory is newer: a certificate that was issued, or a
// rejection, while the file could not be read.
func (m *Manager) adopt(s *slot, r *record) {
	if r.KeyName != m.cfg.KeyName {
		m.cfg.Logger.Info("stored binding certificate is for another key; it is discarded", "selector", s.name.String())
		return
	}
	s.stored = thumbprint(r.Certificate)
	var c *Certificate
	if !r.isRejected() {
		var err error
		if c, err = m.certificate(r); err != nil {
			m.cfg.Logger.Info("stored binding certificate is not usable; it is discarded", "selector", s.name.String(), "error", err)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s.rejected = cmp.Or(s.rejected, r.Rejected)
	s.behind = s.behind || s.rejected != r.Rejected
	switch {
	case s.current != nil && s.current.Thumbprint() == s.rejected: // IMDS gave it again before this file could be read
		s.current, s.pending = nil, &rejection{announced: true}
	case s.current == nil && s.pending == nil && r.isRejected():
		s.pending = &rejection{announced: true}
	}
	if c != nil && s.current == nil && c.Thumbprint() != s.rejected {
		s.current, s.pending = c, nil
		m.wake()
	}
}

// mark writes into the state file that its certificate is rejected. If that fails, a file with this
// certificate is removed: a full disk allows that.
func (m *Manager) mark(s *slot) {
	c := m.unmarked(s)
	if c == nil {
		return
	}
	if err := m.write(s, c); err != nil {
		m.forget(s, c, err)
		return // and tried again
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.pending != nil {
		s.pending.certificate = nil
	}
}

// forget removes the state file of a rejected certificate, into which the rejection could not be
// written. The file of another certificate is left alone.
func (m *Manager) forget(s *slot, rejected *Certificate, cause error) {
	if s.stored != rejected.Thumbprint() {
		return
	}
	if err := m.store.remove(s.name); err != nil {
		m.cfg.Logger.Warn("the rejected binding certificate stays in its state file; remove it",
			"selector", s.name.String(), "file", m.store.path(s.name), "error", errors.Join(cause, err))
		return
	}
	s.stored = ""
}

// announce logs a rejection, once.
func (m *Manager) announce(s *slot) {
	c := m.unmarked(s)
	m.mu.Lock()
	first := c != nil && s.pending != nil && !s.pending.announced
	if first {
		s.pending.announced = true
	}
	m.mu.Unlock()
	if first {
		m.cfg.Logger.Warn("Entra rejected the binding certificate; it is replaced", "selector", s.name.String(), "thumbprint", c.Thumbprint())
	}
}

// unmarked returns the rejected certificate whose rejection is not in the state file yet.
func (m *Manager) unmarked(s *slot) *Certificate {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.pending == nil {
		return nil
	}
	return s.pending.certificate
}

// save writes the certificate for the next start. A failure (a full disk, say) costs an issuance
// then, and nothing now; the write is tried again.
func (m *Manager) save(s *slot, c *Certificate) {
	if err := m.write(s, c); err != nil {
		m.cfg.Logger.Warn("binding certificate could not be stored, which is tried again; a start before that will have to obtain a new one",
			"selector", s.name.String(), "error", err)
	}
}

func (m *Manager) write(s *slot, c *Certificate) error {
	err := errUnread
	if s.loaded {
		err = m.store.save(s.name, m.record(s, c))
	}
	s.behind = err != nil
	if err == nil {
		s.stored = c.Thumbprint()
	}
	return err
}
