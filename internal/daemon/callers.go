package daemon

import (
	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/internal/rulebook"
)

// machine is where callers are, with what was found at the start of what can be known of them: to
// try it makes connections, which no caller is to cause again and again.
type machine struct {
	peer.Host
	level peer.Level
}

func machineAt(cgroups string) machine {
	host := peer.Host{Cgroups: cgroups}
	return machine{host, host.Level()}
}

// Level implements [rulebook.Machine].
func (m machine) Level() peer.Level { return m.level }

// callerIdentity says how certainly callers are known.
func (d *Daemon) callerIdentity() *wire.CallerIdentity {
	described := agentapi.CallerIdentity(d.machine.level, d.inForce.Load().plan.rules.Strict())
	return &described
}

// tellCautions logs what an operator may not expect of the rules.
func (d *Daemon) tellCautions(book *rulebook.Book) {
	for _, caution := range book.Cautions(d.machine) {
		d.opts.Logger.Warn("a rule means something else here than it may seem", "cause", caution)
	}
}
