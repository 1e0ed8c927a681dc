package rulebook

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/accounts"
)

// look is one call of [Book.Look]. It asks for no name twice.
type look struct {
	ctx      context.Context // of the one call that this lives for
	accounts Accounts
	earlier  map[account]uint32 // what an earlier configuration's look has found

	mu      sync.Mutex // guards what follows
	known   map[account]uint32
	missing map[account]error
}

// asksAtOnce is how many names are looked up at a time: names that a directory does not answer for
// must not keep the others waiting.
const asksAtOnce = 8

// errNotAsked stands for the answer where there was no time for the question.
var errNotAsked = errors.New("not asked for yet: other names took the time; they are asked for first the next time")

// askForAll looks up all names that are not known.
func (l *look) askForAll(all []account) {
	asked := maps.Clone(l.known)
	var g errgroup.Group
	g.SetLimit(asksAtOnce)
	for _, a := range all {
		if _, before := asked[a]; !before {
			asked[a] = 0
			g.Go(func() error { l.ask(a); return nil })
		}
	}
	_ = g.Wait() // each error is kept with its name
}

func (l *look) ask(a account) {
	var id uint32
	err := fmt.Errorf("%q: %w", a.name, errNotAsked)
	if l.ctx.Err() == nil {
		id, err = l.find(a)
	}
	if had, found := l.earlier[a]; err != nil && found && !errors.Is(err, accounts.ErrUnknown) {
		id, err = had, nil // the name may still be there: a directory that is down must not put rules out of force
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.missing[a] = err
		return
	}
	l.known[a] = id
}

// all returns the numbers that were found, and an error for the names that were not.
func (l *look) all(p config.Principals) (uids, gids []uint32, err error) {
	var problems []error
	find := func(group bool, names []string) (ids []uint32) {
		for _, name := range names {
			id, err := l.one(account{group, name})
			if err != nil {
				problems = append(problems, err)
				continue
			}
			ids = append(ids, id)
		}
		return ids
	}
	uids, gids = find(false, p.Users), find(true, p.Groups)
	return uids, gids, errors.Join(problems...)
}

// one returns the number of a user or group, or why it was not found.
func (l *look) one(a account) (uint32, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if id, found := l.known[a]; found {
		return id, nil
	}
	return 0, l.missing[a]
}

// find takes a number as it is and looks a name up.
func (l *look) find(a account) (uint32, error) {
	if id, err := strconv.ParseUint(a.name, 10, 32); err == nil {
		if id == 1<<32-1 { // (uid_t)-1 is no user
			return 0, fmt.Errorf("%q is not the number of a user or group", a.name)
		}
		return uint32(id), nil
	}
	if a.group {
		return l.accounts.Group(l.ctx, a.name)
	}
	return l.accounts.User(l.ctx, a.name)
}
