package daemon

import (
	"context"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/agentapi/wire"
)

// Capabilities says how well tokens can be bound here, as far as it is known without
// asking anybody: what has been obtained since the start is the proof.
func (d *Daemon) Capabilities(context.Context) wire.Capabilities {
	no := false
	key := string(d.key.Info().Strength)
	c := wire.Capabilities{
		StrongestBinding:  key,
		Reason:            "where the key is; no binding certificate has been obtained since the start",
		ManagedIdentityV2: wire.Capability{Strength: key, Reason: "no token has been asked for yet"},
		ManagedIdentityV1: wire.Capability{Available: &no, Strength: string(acquire.StrengthNone), Reason: "this agent does not use it"},
		Certificate:       wire.Capability{Available: &no, Reason: "this agent has no applications"},
		Attestation:       wire.AttestationStatus{Provider: d.cfg.Attestation.Provider},
		TokenTypes:        []string{wire.TypeBearer},
	}
	for _, id := range d.acquirer.Status() {
		if id.Certificate == nil || c.StrongestBinding == string(acquire.StrengthAttested) {
			continue
		}
		yes := true
		c.StrongestBinding, c.Reason = string(id.Strength), "the binding certificate of identity "+id.Name
		c.ManagedIdentityV2 = wire.Capability{Available: &yes, Strength: string(id.Strength), Reason: c.Reason}
	}
	return c
}
