package doctor

import (
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/config"
)

// CallersOf is the first finding about callers, where the agent that runs knows them so.
func CallersOf(cfg *config.Config, known wire.CallerIdentity) Finding {
	d := &doctor{cfg: cfg, running: &wire.Status{CallerIdentity: &known}}
	d.checkCallers()
	return d.findings[0]
}
