package daemon

import "github.com/keyagent/keyagent/config"

// account is a user or a group, by the name that the configuration has for it.
type account struct {
	group bool
	name  string
}

// accountNumber is the uid or gid of an account.
type accountNumber struct {
	id   uint32
	look int // in which it was found
}

// unit is what is in force as a whole or not at all: a rule, or one administrator.
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

// eachOf takes users and groups apart.
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

// units lists what the configuration puts in force, each with everybody whom it names.
func (b *ruleBook) units() map[unit][]account {
	all := map[unit][]account{}
	for _, r := range b.rules {
		all[unit{rule: r.Name}] = accountsOf(r.Principals)
	}
	for _, one := range eachOf(b.admins) {
		all[adminUnit(one)] = accountsOf(one)
	}
	return all
}
