package policy

import (
	"slices"

	"github.com/keyagent/keyagent/agentapi/peer"
)

// Machine compares callers with the units and programs of this machine, as they are when it is
// asked. It must be safe for concurrent use; [peer.Host] is one.
type Machine interface {
	// UnitID returns the id of the cgroup of a system service; false while it does not run.
	UnitID(unit string) (cgroup uint64, running bool)
	// Runs reports whether the caller's process executes the program with this path.
	Runs(c peer.Caller, path string) bool
}

// matched has the unit and executable of a rule that a caller was found to be.
type matched struct{ unit, executable string }

// matches returns why a rule does not name a caller, or "" if it does. It names callers that match
// each kind that it lists: users or groups, units, executables. Units, which the machine must be
// asked for, come last, and only for callers that match the rest.
func (p *Policy) matches(r *Rule, c peer.Caller) (found matched, reason Reason) {
	byAccount, byUnit := len(r.UIDs)+len(r.GIDs) > 0, len(r.Units) > 0
	switch {
	case byAccount && !slices.Contains(r.UIDs, c.UID) && !slices.ContainsFunc(r.GIDs, c.InGroup):
		return matched{}, ReasonCaller
	case !byAccount && !byUnit: // programs alone: whoever starts one would be named
		return matched{}, ReasonCaller
	case !byUnit && c.UID == 0 && c.Via == peer.ViaTCP: // root of any container, and of any unit
		return matched{}, ReasonCaller
	case !byUnit && len(r.Executables) == 0:
		return matched{}, ""
	}
	if reason := p.doubts(r, c); reason != "" {
		return matched{}, reason
	}
	if byUnit {
		if found.unit = p.unitOf(r, c); found.unit == "" {
			if byAccount {
				return matched{}, ReasonUnit
			}
			return matched{}, ReasonCaller
		}
	}
	if len(r.Executables) > 0 {
		if found.executable = p.executableOf(r, c); found.executable == "" {
			return matched{}, ReasonExecutable
		}
	}
	return found, ""
}

// doubts returns why the facts about the caller's process are not enough for a rule, or "".
func (p *Policy) doubts(r *Rule, c peer.Caller) Reason {
	// The process may be another one of the same user: that only helps processes of a user that the
	// rule names anyway.
	if c.Weak && (p.Strict || !slices.Contains(r.UIDs, c.UID)) {
		return ReasonWeak
	}
	return ""
}

// unitOf returns the unit of a rule that the caller is in; "" if it is in none.
func (p *Policy) unitOf(r *Rule, c peer.Caller) string {
	if p.Machine == nil || c.CgroupID == 0 {
		return ""
	}
	for _, unit := range r.Units {
		if id, running := p.Machine.UnitID(unit); running && id == c.CgroupID {
			return unit
		}
	}
	return ""
}

// executableOf returns the program of a rule that the caller runs; "" if it runs none.
func (p *Policy) executableOf(r *Rule, c peer.Caller) string {
	if p.Machine == nil || c.Via == peer.ViaTCP { // the kernel does not say who uses a socket
		return ""
	}
	for _, path := range r.Executables {
		if p.Machine.Runs(c, path) {
			return path
		}
	}
	return ""
}

func (p *Policy) names(r *Rule, c peer.Caller) bool {
	_, reason := p.matches(r, c)
	return reason == ""
}

// Named reports whether any rule names the caller. Callers that no rule names learn nothing.
func (p *Policy) Named(c peer.Caller) bool { return p.Unnamed(c) == "" }

// Unnamed returns why no rule names the caller, by the rule that comes nearest; "" if one does.
func (p *Policy) Unnamed(c peer.Caller) Reason {
	nearest := 0
	for i := range p.Rules {
		_, reason := p.matches(&p.Rules[i], c)
		if reason == "" {
			return ""
		}
		nearest = max(nearest, slices.Index(progress, reason))
	}
	return progress[nearest]
}

// ByMachine reports whether a rule names callers by unit or executable.
func (p *Policy) ByMachine() bool {
	return slices.ContainsFunc(p.Rules, func(r Rule) bool { return len(r.Units)+len(r.Executables) > 0 })
}

// Standing says what makes a caller known to a policy, as far as it matters for how many callers
// one person can be: a user has one uid of its own, yet may have thousands of others (subuid(5)),
// and each keeps the user's groups and stays in the unit that it was started in.
type Standing int

const (
	Stranger    Standing = iota // neither named by a rule nor an administrator
	ByGroupOnly                 // known by one of its groups, and by nothing else
	ByUnitOnly                  // known by its unit, whose other processes may have other uids
	ByUID                       // known by its uid, whatever else it is known by
)

// Standing returns what makes the caller known: the strongest of what the rules that name it list.
// Nobody stands by a uid that a rule has for another unit or program.
func (p *Policy) Standing(c peer.Caller) Standing {
	if c.UID == 0 && c.Via != peer.ViaTCP || p.Admin(c) && slices.Contains(p.AdminUIDs, c.UID) {
		return ByUID
	}
	standing := Stranger
	if p.Admin(c) {
		standing = ByGroupOnly
	}
	for i := range p.Rules {
		rule := &p.Rules[i]
		by := rule.standing(c)
		if by > standing && p.names(rule, c) {
			standing = by
		}
	}
	return standing
}

// standing is the [Standing] that one rule gives a caller. The rule must name the caller.
func (r *Rule) standing(c peer.Caller) Standing {
	switch {
	case slices.Contains(r.UIDs, c.UID):
		return ByUID
	case len(r.UIDs)+len(r.GIDs) == 0:
		return ByUnitOnly
	}
	return ByGroupOnly
}

// Admin reports whether the caller may administer the agent. Over TCP nobody may.
func (p *Policy) Admin(c peer.Caller) bool {
	return c.Via != peer.ViaTCP &&
		(c.UID == 0 || slices.Contains(p.AdminUIDs, c.UID) || slices.ContainsFunc(p.AdminGIDs, c.InGroup))
}
