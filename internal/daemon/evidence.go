package daemon

import (
	"context"

	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/internal/engine"
)

// evidenceSource has the engine make evidence for callers.
type evidenceSource struct{ engine *engine.Engine }

// Evidence implements [agentapi.EvidenceSource].
func (s evidenceSource) Evidence(ctx context.Context, req agentapi.EvidenceRequest) ([]byte, error) {
	return s.engine.Evidence(ctx, engine.EvidenceRequest(req))
}

// evidence is what callers can have evidence of.
func (d *Daemon) evidence(p *plan) agentapi.Evidence {
	return agentapi.Evidence{Source: evidenceSource{d.engine}, Keys: p.keys}
}
