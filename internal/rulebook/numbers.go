package rulebook

import (
	"errors"
	"time"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/accounts"
)

// account is a user or a group, by the name that the configuration has for it.
type account struct {
	group bool
	name  string
}

func (a account) kind() string {
	if a.group {
		return "group"
	}
	return "user"
}

// keptFor is how long a number of the configuration before counts after a look was first told that
// no such name exists. The C library's getent says so, too, while a directory's service is not
// running, as at a restart of SSSD.
const keptFor = 10 * time.Minute

// accountNumber is the uid or gid of an account. One that is not confirmed is from the
// configuration before: no look has found it since.
type accountNumber struct {
	id   uint32
	look int // in which it was found; 0: not confirmed

	why  error     // not confirmed: what the last look was told
	gone time.Time // when a look was first told that no such name exists; zero: none was
}

func (n accountNumber) confirmed() bool { return n.look > 0 }

// until is when a number that is not confirmed counts no more; zero: no end is known.
func (n accountNumber) until() time.Time {
	if n.gone.IsZero() {
		return time.Time{}
	}
	return n.gone.Add(keptFor)
}

// refused returns what becomes of a number that is not confirmed and was not found again.
func (n accountNumber) refused(why error, now time.Time) accountNumber {
	if n.why == nil || !errors.Is(why, errNotAsked) {
		n.why = why
	}
	if n.gone.IsZero() && errors.Is(why, accounts.ErrUnknown) {
		n.gone = now
	}
	return n
}

// over reports whether a number counts no more. Either clock says so: the wall clock can be set
// back, and the monotonic one stands still while the machine is suspended.
func (n accountNumber) over(now time.Time) bool {
	return !n.gone.IsZero() && max(now.Sub(n.gone), now.Round(0).Sub(n.gone.Round(0))) >= keptFor
}

// unit is a rule or one administrator: it is in force as a whole or not at all.
type unit struct {
	rule  string
	admin account
}

// accountsOf lists users and groups.
func accountsOf(p config.Principals) (all []account) {
	for _, name := range p.Users {
		all = append(all, account{false, name})
	}
	for _, name := range p.Groups {
		all = append(all, account{true, name})
	}
	return all
}

// eachOf separates users and groups into one list each.
func eachOf(p config.Principals) (each []config.Principals) {
	for _, name := range p.Users {
		each = append(each, config.Principals{Users: []string{name}})
	}
	for _, name := range p.Groups {
		each = append(each, config.Principals{Groups: []string{name}})
	}
	return each
}

func adminUnit(one config.Principals) unit { return unit{admin: accountsOf(one)[0]} }

// units lists what the configuration puts in force, each with all users and groups that it names.
func (b *Book) units() map[unit][]account {
	all := map[unit][]account{}
	for _, r := range b.rules {
		all[unit{rule: r.Name}] = accountsOf(r.Principals)
	}
	for _, one := range eachOf(b.admins) {
		all[adminUnit(one)] = accountsOf(one)
	}
	return all
}
