package agentapi

import (
	"context"
	"sync"

	"github.com/keyagent/keyagent/internal/waiting"
)

// turns lets each account do one thing at a time. What all accounts then wait for together, in the
// order in which they came, nobody can keep busy alone: after one of an account it is the others'
// turn. It is safe for concurrent use.
type turns struct {
	mu      sync.Mutex
	waiting map[account]*turn // those that are used
}

// turn is the turn of one account.
type turn struct {
	waiting.Lock
	users int // those that have it or wait for it
}

func newTurns() *turns { return &turns{waiting: map[account]*turn{}} }

// take waits until nothing of the account is done. Call done at the end. If ctx ends first, it
// returns the error of ctx.
func (t *turns) take(ctx context.Context, of account) (done func(), err error) {
	t.mu.Lock()
	its := t.waiting[of]
	if its == nil {
		its = &turn{Lock: waiting.NewLock()}
		t.waiting[of] = its
	}
	its.users++
	t.mu.Unlock()
	if err := its.Lock.Lock(ctx); err != nil {
		t.forget(of, its)
		return nil, err
	}
	return func() {
		its.Unlock()
		t.forget(of, its)
	}, nil
}

func (t *turns) forget(of account, its *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if its.users--; its.users == 0 {
		delete(t.waiting, of)
	}
}
