package daemon

import (
	"context"

	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/wire"
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

// evidenceCapability says what came of the last attempt, without its error: any caller may read it.
func (d *Daemon) evidenceCapability() *wire.Capability {
	c := &wire.Capability{Available: d.engine.EvidenceMade()}
	switch {
	case d.engine.Key.TPM == nil:
		c.Available, c.Reason = new(bool), "the agent's keys are in software, and nothing vouches for them"
	case c.Available == nil:
		c.Reason = "no evidence was made since the start or the last change of the attestation's settings"
	case !*c.Available:
		c.Reason = "the evidence that was to be made last could not be, or would not be accepted by this machine itself; the agent's log says why"
	}
	return c
}
