package binding

import (
	"context"

	"github.com/keyagent/keyagent/acquire/imds"
)

// metadata returns how IMDS describes the slot's identity now. A caller that comes while IMDS is
// asked gets that answer, good or bad: a burst of requests must not use up what IMDS allows the
// whole VM.
func (m *Manager) metadata(ctx context.Context, s *slot) (*imds.PlatformMetadata, error) {
	return s.asking.Do(ctx, "", func(ctx context.Context) (*imds.PlatformMetadata, error) {
		return m.cfg.IMDS.PlatformMetadata(ctx, s.sel)
	})
}
