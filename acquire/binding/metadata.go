package binding

import (
	"context"
	"errors"

	"github.com/keyagent/keyagent/acquire/imds"
)

// errAbandoned says that whoever asked IMDS has given up.
var errAbandoned = errors.New("the request to IMDS was given up")

// metadata returns how IMDS describes the slot's identity now. Who comes while IMDS is asked waits for that answer, good or bad, as
// long as his own context lets him: a burst of requests must not use up what IMDS allows the whole VM.
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
				continue // somebody else's end is not ours
			case a.Err != nil:
				return nil, a.Err
			}
			return a.Val.(*imds.PlatformMetadata), nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
