package binding

import (
	"context"
	"time"

	"github.com/keyagent/keyagent/acquire/imds"
)

// metadataLife is how long IMDS' description of an identity is good for: tokens for many resources would else use up what IMDS allows
// the whole VM. A change of the VM's identities takes longer than that to reach all of Azure.
const metadataLife = time.Minute

// metadata returns how IMDS describes the slot's identity, or did within the last minute. Who comes while IMDS is asked waits for
// that answer, good or bad. A bad one is not remembered.
func (m *Manager) metadata(ctx context.Context, s *slot) (*imds.PlatformMetadata, error) {
	if meta := m.described(s); meta != nil {
		return meta, nil
	}
	answer, err, _ := s.asking.Do("", func() (any, error) {
		if meta := m.described(s); meta != nil { // the answer came after this caller had looked
			return meta, nil
		}
		meta, err := m.cfg.IMDS.PlatformMetadata(ctx, s.sel)
		if err == nil {
			m.describe(s, meta)
		}
		return meta, err
	})
	if err != nil {
		return nil, err
	}
	return answer.(*imds.PlatformMetadata), nil
}

// described returns the description that is still good, or nil.
func (m *Manager) described(s *slot) *imds.PlatformMetadata {
	m.mu.Lock()
	defer m.mu.Unlock()
	if remaining(s.askAt, m.cfg.Now(), metadataLife) <= 0 {
		return nil
	}
	return s.meta
}

func (m *Manager) describe(s *slot, meta *imds.PlatformMetadata) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s.meta, s.askAt = meta, m.cfg.Now().Add(metadataLife)
}
