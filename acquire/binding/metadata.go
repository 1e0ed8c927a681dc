package binding

import (
	"context"

	"github.com/keyagent/keyagent/acquire/imds"
)

// metadata returns how IMDS describes the slot's identity now. Who comes while IMDS is asked waits for that answer, good or bad: a
// burst of requests must not use up what IMDS allows the whole VM.
func (m *Manager) metadata(ctx context.Context, s *slot) (*imds.PlatformMetadata, error) {
	answer, err, _ := s.asking.Do("", func() (any, error) { return m.cfg.IMDS.PlatformMetadata(ctx, s.sel) })
	if err != nil {
		return nil, err
	}
	return answer.(*imds.PlatformMetadata), nil
}
