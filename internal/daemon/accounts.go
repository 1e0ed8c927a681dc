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

// awaitAccounts looks again and again for users and groups that were not found or whose numbers are
// not confirmed, and puts each rule in force when all of its are found. For a configuration that is
// not in force any more it stops. It returns nil when ctx ends.
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

// awaitAccountsOf returns when all rules of a configuration are in force with numbers that are
// confirmed, or ctx ends.
func (d *Daemon) awaitAccountsOf(ctx context.Context, of *inForce) {
	wait := d.opts.WaitForAccounts
	if wait == nil {
		wait = waiting.Sleep
	}
	book := of.plan.rules
	for pause := firstPause; !book.Settled(); pause = min(2*pause, lastPause) {
		if err := wait(ctx, book.UntilNextLook(pause)); err != nil {
			return
		}
		before, numbers := book.NotInForce(), book.Numbers()
		found := book.Look(ctx)
		if err := d.setPolicy(of, found); err != nil {
			d.opts.Logger.Error("the rules stay as they were", "cause", err)
			continue
		}
		if ctx.Err() == nil {
			d.tellRules(before, book.NotInForce())
			d.tellNumbers(numbers, book.Numbers())
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

// tellNumbers logs changes of the numbers in force; before is nil for a configuration that comes
// into force.
func (d *Daemon) tellNumbers(before, after []rulebook.Number) {
	for _, n := range after {
		had, was := sameAccount(before, n)
		log := d.opts.Logger.With(n.Kind, n.Name, "number", n.ID)
		switch {
		case !n.Confirmed && n.Until.IsZero() && !was:
			log.Warn("a number is from the configuration before: the directory did not answer. It is asked until it confirms the number", "cause", n.Reason)
		case !n.Confirmed && !n.Until.IsZero() && (!was || had.Until.IsZero()):
			log.Warn("a number is from the configuration before: the directory does not have the name, or is not running. It is asked until it confirms the number, "+
				"which counts no more at the time that is said here", "until", n.Until, "cause", n.Reason)
		case was && had.ID != n.ID:
			log.Warn("a user or group has another number than before; rules that name it use the new number", "before", had.ID)
		case was && !had.Confirmed && n.Confirmed:
			log.Info("a number of the configuration before was confirmed")
		}
	}
	for _, had := range before {
		if _, still := sameAccount(after, had); !still && !had.Confirmed {
			d.opts.Logger.Error("a number of the configuration before was not confirmed, and counts no more", had.Kind, had.Name, "number", had.ID)
		}
	}
}

// sameAccount finds the number of the same user or group in a list.
func sameAccount(list []rulebook.Number, as rulebook.Number) (rulebook.Number, bool) {
	for _, n := range list {
		if n.Kind == as.Kind && n.Name == as.Name {
			return n, true
		}
	}
	return rulebook.Number{}, false
}

// addRules adds the rules that are not in force, and the unconfirmed numbers of those that are.
func addRules(status *wire.Status, book *rulebook.Book) {
	status.Unconfirmed = unconfirmed(book.Numbers())
	off := book.NotInForce()
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

// unconfirmed describes the numbers that are not confirmed.
func unconfirmed(numbers []rulebook.Number) []wire.UnconfirmedAccount {
	var list []wire.UnconfirmedAccount
	for _, n := range numbers {
		if n.Confirmed {
			continue
		}
		described := wire.UnconfirmedAccount{Kind: n.Kind, Name: n.Name, Number: n.ID, Reason: text(n.Reason)}
		if !n.Until.IsZero() {
			described.Until = &n.Until
		}
		list = append(list, described)
	}
	return list
}
