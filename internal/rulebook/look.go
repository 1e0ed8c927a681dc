package rulebook

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/config"
)

// look is one call of [Book.Look].
type look struct {
	n        int // of this look
	accounts Accounts
	now      func() time.Time
	before   map[account]accountNumber // of the first look: what the configuration before has in force
	on       map[unit]bool             // in force since the look before, or by the configuration before
	stays    map[unit]bool             // in force since this look

	mu      sync.Mutex // guards what follows during look-ups
	known   map[account]accountNumber
	missing map[account]error // why this look has no answer that it could use
}

// asksAtOnce is how many names are looked up at a time: names that a directory does not answer for
// must not keep the others waiting.
const asksAtOnce = 8

// errNotAsked stands for the answer where there was no time for the question.
var errNotAsked = errors.New("not asked for yet: other names took the time; they are asked for first the next time")

// unknown returns the names that a look asks for first.
func (l *look) unknown(all []account) (ask []account) {
	for _, a := range all {
		if !l.known[a].confirmed() {
			ask = append(ask, a)
		}
	}
	return ask
}

// stale returns the names to ask for again: their numbers are from a look before, and a rule or
// administrator would come into force with them.
func (l *look) stale(units map[unit][]account) (ask []account) {
	for u, named := range units {
		if l.on[u] || slices.ContainsFunc(named, l.lacks) {
			continue
		}
		for _, a := range named {
			if l.known[a].look != l.n {
				ask = append(ask, a)
			}
		}
	}
	return ask
}

func (l *look) lacks(a account) bool {
	_, known := l.known[a]
	return !known || l.missing[a] != nil
}

// askForAll looks up all names, each once.
func (l *look) askForAll(ctx context.Context, all []account) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	asked := map[account]bool{}
	var g errgroup.Group
	g.SetLimit(asksAtOnce)
	for _, a := range all {
		if !asked[a] {
			asked[a] = true
			g.Go(func() error { l.ask(ctx, a); return nil })
		}
	}
	_ = g.Wait() // each error is kept with its name
}

func (l *look) ask(ctx context.Context, a account) {
	var id uint32
	err := fmt.Errorf("%q: %w", a.name, errNotAsked)
	if ctx.Err() == nil {
		id, err = l.find(ctx, a)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.missing[a] = err
		l.goOn(a, err)
		return
	}
	l.known[a] = accountNumber{id: id, look: l.n}
}

// goOn keeps a number of the configuration before that could not be confirmed, for as long as it
// counts: a directory that is down at a reload must not put rules out of force.
func (l *look) goOn(a account, why error) {
	n, known := l.known[a]
	if !known {
		n, known = l.before[a]
	}
	if !known || n.confirmed() {
		return
	}
	now := l.now()
	if n = n.refused(why, now); n.over(now) {
		delete(l.known, a)
		return
	}
	l.known[a] = n
}

// all returns the numbers of all users and groups of a rule, or of one administrator, or an error
// for those that were not found.
func (l *look) all(of unit, p config.Principals) (uids, gids []uint32, err error) {
	var problems []error
	complete := true
	find := func(group bool, names []string) (ids []uint32) {
		for _, name := range names {
			a := account{group, name}
			id, found := l.one(of, a)
			if !found {
				complete = false
				problems = append(problems, l.missing[a]) // nil if it was not worth asking, as another name is missing
			}
			ids = append(ids, id)
		}
		return ids
	}
	uids, gids = find(false, p.Users), find(true, p.Groups)
	if complete {
		l.stays[of] = true
		return uids, gids, nil
	}
	return nil, nil, cmp.Or(errors.Join(problems...), errNotAsked)
}

// findAdmins adds each administrator that was found, and returns an error for the others.
func (l *look) findAdmins(p *policy.Policy, admins config.Principals) error {
	var problems []error
	for _, one := range eachOf(admins) {
		uids, gids, err := l.all(adminUnit(one), one)
		problems = append(problems, err)
		p.AdminUIDs, p.AdminGIDs = append(p.AdminUIDs, uids...), append(p.AdminGIDs, gids...)
	}
	return errors.Join(problems...)
}

// one returns the number of a user or group. Only a rule that is in force already may go on with a
// number that this look has not found itself.
func (l *look) one(of unit, a account) (id uint32, found bool) {
	n, known := l.known[a]
	if !known || n.look != l.n && !l.on[of] {
		return 0, false
	}
	return n.id, true
}

// find takes a number as it is and looks a name up.
func (l *look) find(ctx context.Context, a account) (uint32, error) {
	if id, err := strconv.ParseUint(a.name, 10, 32); err == nil {
		if id == 1<<32-1 { // (uid_t)-1 is no user
			return 0, fmt.Errorf("%q is not the number of a user or group", a.name)
		}
		return uint32(id), nil
	}
	if a.group {
		return l.accounts.Group(ctx, a.name)
	}
	return l.accounts.User(ctx, a.name)
}
