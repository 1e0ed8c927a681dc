package daemon

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/internal/rulebook"
	"github.com/keyagent/keyagent/internal/waiting"
)

const (
	// Pauses between looks for users and groups that are not known yet: short while the machine
	// starts, when a directory's service may start after the agent.
	firstPause = 5 * time.Second
	lastPause  = 30 * time.Second
)

// awaitAccounts looks again and again for users and groups that were not found, and puts each rule
// in force when all of its are found. For a configuration that is not in force any more it stops.
// It returns nil when ctx ends.
func (d *Daemon) awaitAccounts(ctx context.Context) error {
	for ctx.Err() == nil {
		now := d.inForce.Load()
		looking, stop := context.WithCancel(ctx)
		release := context.AfterFunc(now.life, stop) //nolint:contextcheck // that of the configuration, beside ours
		d.awaitAccountsOf(looking, now)
		<-looking.Done()
		release()
		stop()
	}
	return nil
}

// awaitAccountsOf returns when all rules of a configuration are in force, or ctx ends.
func (d *Daemon) awaitAccountsOf(ctx context.Context, of *inForce) {
	wait := d.opts.WaitForAccounts
	if wait == nil {
		wait = waiting.Sleep
	}
	book := of.plan.rules
	for pause := firstPause; book.NotInForce() != nil; pause = min(2*pause, lastPause) {
		if err := wait(ctx, pause); err != nil {
			return
		}
		before := book.NotInForce()
		found := book.Look(ctx)
		if err := d.setPolicy(of, found); err != nil {
			d.opts.Logger.Error("the rules stay as they were", "cause", err)
			continue
		}
		if ctx.Err() == nil {
			d.tellRules(before, book.NotInForce())
		}
	}
}

// setPolicy puts the policy of a configuration in force, unless another configuration is.
func (d *Daemon) setPolicy(of *inForce, found *policy.Policy) error {
	d.swapping.Lock()
	defer d.swapping.Unlock()
	if d.inForce.Load() != of {
		return nil
	}
	return d.server.SetPolicy(found)
}

// tellRules logs which rules are in force and which are not, as far as that is new; before is nil
// at the start.
func (d *Daemon) tellRules(before, after *rulebook.OffError) {
	before, after = cmp.Or(before, &rulebook.OffError{}), cmp.Or(after, &rulebook.OffError{})
	for _, off := range before.Rules {
		if reasonOff(after, off.Name) == "" {
			d.opts.Logger.Info("a rule has come into force: all its users and groups were found", "rule", off.Name)
		}
	}
	for _, off := range after.Rules {
		if reason := off.Err.Error(); reason != reasonOff(before, off.Name) {
			d.opts.Logger.Error("a rule is not in force: a user or group of it was not found, and until then it gives no token", "rule", off.Name, "cause", reason)
		}
	}
	switch {
	case after.Admins == nil && before.Admins != nil:
		d.opts.Logger.Info("all administrators were found")
	case after.Admins != nil && (before.Admins == nil || before.Admins.Error() != after.Admins.Error()):
		d.opts.Logger.Error("an administrator was not found, and may not ask for the status until then", "cause", after.Admins.Error())
	}
}

// reasonOff returns why a rule is not in force, or nothing if it is.
func reasonOff(e *rulebook.OffError, rule string) string {
	i := slices.IndexFunc(e.Rules, func(off rulebook.Off) bool { return off.Name == rule })
	if i < 0 {
		return ""
	}
	return e.Rules[i].Err.Error()
}

// addRulesOff adds what is not in force.
func addRulesOff(status *wire.Status, off *rulebook.OffError) {
	if off == nil {
		return
	}
	for _, r := range off.Rules {
		status.RulesOff = append(status.RulesOff, wire.RuleStatus{Name: r.Name, Reason: r.Err.Error()})
	}
	if off.Admins != nil {
		status.AdminsUnknown = off.Admins.Error()
	}
}
