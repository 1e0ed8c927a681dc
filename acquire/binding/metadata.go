package binding

import (
	"context"
	"errors"

	"github.com/keyagent/keyagent/acquire/imds"
)

// errAbandoned says that the caller whose request was shared has given up.
var errAbandoned = errors.New("the request to IMDS was given up")

// metadata returns how IMDS describes the slot's identity now. Callers that come while IMDS is
// being asked wait for that answer, good or bad, as long as their own context allows: a burst of
// requests must not use up what IMDS allows the whole VM.
func (m *Manager) metadata(ctx context.Context, s *slot) (*imds.PlatformMetadata, error) {
	for {
		answer := s.asking.DoChan("", func() (any, error) {
			meta, err := m.cfg.IMDS.PlatformMetadata(ctx, s.sel)
			if ctx.Err() != nil {
				return nil, errAbandoned
			}
			return meta, err
		})
		select {
		case a := <-answer:
			switch {
			case errors.Is(a.Err, errAbandoned) && ctx.Err() == nil:
				continue // the context of another caller ended, not ours
			case a.Err != nil:
				return nil, a.Err
			}
			return a.Val.(*imds.PlatformMetadata), nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
