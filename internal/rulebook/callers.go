package rulebook

import (
	"errors"
	"fmt"

	"github.com/keyagent/keyagent/agentapi/peer"
)

// Machine says which facts about callers this machine gives; [peer.Host] is one.
type Machine interface {
	Level() peer.Level
	CheckUnits() error
	CheckExecutables() error
}

// Strict reports whether caller_identity is strict.
func (b *Book) Strict() bool { return b.strict }

// CheckUnits reports rules with units on a machine where callers cannot be known by their unit: the
// rules would name nobody. The answer is the same for every user who asks.
func (b *Book) CheckUnits(m Machine) error {
	var problems []error
	for _, r := range b.rules {
		if len(r.Units) == 0 {
			continue
		}
		if err := m.CheckUnits(); err != nil {
			problems = append(problems, fmt.Errorf("rule %q: units: %w", r.Name, err))
		}
	}
	return errors.Join(problems...)
}

// CheckCallers reports the rules that could not hold for this process, because it cannot know the
// units or the programs of callers, or not as certainly as caller_identity: strict wants.
func (b *Book) CheckCallers(m Machine) error {
	problems := []error{b.CheckUnits(m)}
	for _, r := range b.rules {
		if len(r.Executables) > 0 {
			if err := m.CheckExecutables(); err != nil {
				problems = append(problems, fmt.Errorf("rule %q: executables: %w", r.Name, err))
			}
		}
		if !b.strict || len(r.Units)+len(r.Executables) == 0 {
			continue
		}
		if level := m.Level(); level.Process == peer.FormNumber || level.Process == peer.FormNone {
			problems = append(problems, fmt.Errorf("rule %q: caller_identity: strict does not accept the facts that this kernel gives about callers: %s", r.Name, level.Why))
		}
	}
	return errors.Join(problems...)
}

// Cautions says of rules that hold what an operator may not expect of them on this machine, a
// sentence for each.
func (b *Book) Cautions(m Machine) []string {
	var said []string
	for _, r := range b.rules {
		if r.NamesRootAlone() {
			said = append(said, fmt.Sprintf("rule %q names root without a unit: the root of every container without a user namespace is root here. "+
				"Over TCP it names nobody", r.Name))
		}
		if b.overTCP && r.NeedsUnixSocket() {
			said = append(said, fmt.Sprintf("rule %q names nobody at the endpoints of the configuration: over TCP, neither groups nor programs are known", r.Name))
		}
		if len(r.Units)+len(r.Executables) == 0 {
			continue
		}
		switch level := m.Level(); {
		case level.Process == peer.FormNone:
			said = append(said, fmt.Sprintf("rule %q names nobody on the Unix socket: %s", r.Name, level.Why))
		case level.Weak() && len(r.Users) == 0:
			said = append(said, fmt.Sprintf("rule %q names nobody on the Unix socket, because it lists no users: %s", r.Name, level.Why))
		case level.Weak():
			said = append(said, fmt.Sprintf("rule %q holds for the users that it lists: %s", r.Name, level.Why))
		}
	}
	return said
}
