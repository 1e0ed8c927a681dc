package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/internal/owned"
	"github.com/keyagent/keyagent/internal/rulebook"
)

// checkCallers says how certainly the agent knows callers on this machine, and what its rules make
// of that.
func (d *doctor) checkCallers() {
	const check = "callers"
	host := peer.Host{}
	book := rulebook.New(d.cfg, nil, nil, nil)
	known := agentapi.CallerIdentity(host.Level(), book.Strict())
	if d.running != nil && d.running.CallerIdentity != nil {
		known = *d.running.CallerIdentity // it is the agent's process that must see callers
	}
	verdict, action := VerdictOK, ""
	if known.Reason != "" {
		verdict = VerdictWarn
		action = "nothing, if no rule names units or programs; else a newer kernel. caller_identity: strict refuses what rests on the weaker form"
	}
	d.add(check, verdict, action, "%s", callersText(known))
	if d.unread() {
		return
	}
	if err := book.CheckCallers(host); err != nil && d.running == nil {
		d.add(check+": rules", VerdictWarn, "take the rule back, or change what it says; with what this user may see, the agent would not start", "%s", onALine(err.Error()))
	}
	for _, caution := range book.Cautions(host) {
		d.add(check+": rules", VerdictWarn, "nothing, if it is meant; else see docs/configuration.md, rules", "%s", caution)
	}
	d.checkUnits(host)
	d.checkExecutables()
}

// callersText says in what form callers are known.
func callersText(known wire.CallerIdentity) string {
	said := []string{"users and groups are certain", "processes are known by " + known.Process}
	if known.Reason != "" {
		said[1] += " (" + known.Reason + ")"
	}
	for _, proof := range []struct {
		of string
		wire.CallerProof
	}{{"units", known.Units}, {"callers over loopback", known.Loopback}} {
		if proof.Available {
			said = append(said, proof.of+" are known")
			continue
		}
		said = append(said, proof.of+" are not known ("+proof.Reason+")")
	}
	return strings.Join(said, "; ") + "; caller_identity: " + known.Required
}

// checkUnits tells of units in rules that have no cgroup where one would be.
func (d *doctor) checkUnits(host peer.Host) {
	if host.CheckUnits() != nil {
		return
	}
	for _, unit := range d.named(func(i int) []string { return d.cfg.Rules[i].Units }) {
		path, err := peer.UnitPath(unit)
		if err != nil {
			continue // the configuration was refused for it
		}
		if _, running := host.UnitID(unit); !running {
			d.add("unit "+unit, VerdictWarn, fmt.Sprintf("nothing, if it is not to run now; else see systemctl show -p ControlGroup %s: "+
				"where that differs, write the slice before the name, as in apps.slice/web.service", unit[strings.LastIndexByte(unit, '/')+1:]),
				"it does not run: there is no cgroup %s", path)
		}
	}
}

// checkExecutables tells of programs in rules that are missing, or that others could replace.
func (d *doctor) checkExecutables() {
	for _, path := range d.named(func(i int) []string { return d.cfg.Rules[i].Executables }) {
		check := "program " + path
		info, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			d.add(check, VerdictWarn, "nothing, if it is to be installed yet", "it does not exist: the rules that name it name nobody")
		case err != nil:
			d.add(check, VerdictWarn, "see that the agent's user may look there", "%v", err)
		case !info.Mode().IsRegular():
			d.add(check, VerdictWarn, "name the program itself", "it is not a file: the rules that name it name nobody")
		default:
			if err := owned.Check(path, info); err != nil {
				d.add(check, VerdictWarn, "let root own it, and nobody else write to it", "others could put another program in its place: %v", err)
			}
		}
	}
}

// named returns what the rules name in one of their lists, each once.
func (d *doctor) named(list func(rule int) []string) []string {
	var all []string
	for i := range d.cfg.Rules {
		all = append(all, list(i)...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}
