package daemon

import (
	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/internal/rulebook"
)

// machine is the host of the callers, with the level of facts that its kernel gives about them. The
// level is found once, at the start: finding it makes connections, which callers must not be able
// to cause.
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
