// Package inflight lets one call serve all callers that ask for the same thing while it is under
// way.
//
// It has two forms. With [Group.Do] a caller does the work itself, within its own context; if that
// context ends before the work does, one of the callers that wait takes over. With [Group.Start]
// the work does not depend on the callers that wait for it: it goes on when they leave.
//
// golang.org/x/sync/singleflight has neither: there a caller that leaves spoils the result of the
// others, or leaves a goroutine behind for each call of DoChan.
package inflight

import (
	"context"
	"errors"
	"sync"
)

// ErrAborted is the result of a call that ended without one: its function panicked or called
// runtime.Goexit.
var ErrAborted = errors.New("the operation was aborted")

// Group keeps the calls that are under way, by name. The zero value is ready. It is safe for
// concurrent use.
type Group[V any] struct {
	mu    sync.Mutex
	calls map[string]*Call[V]
}

// Call is one call that is under way or has ended.
type Call[V any] struct {
	done chan struct{} // closed when value and err are set

	value     V
	err       error
	abandoned bool // the caller that did the work gave up
}

// Do returns what fn returns. If a call of that name is under way, it waits for that call's result
// instead. The function runs in the goroutine and with the context of one of the callers; if it
// fails after that context has ended, another caller that waits calls its own function.
func (g *Group[V]) Do(ctx context.Context, name string, fn func(context.Context) (V, error)) (V, error) {
	for {
		call, mine := g.join(name)
		if mine {
			g.run(name, call, func() (V, error) {
				value, err := fn(ctx)
				call.abandoned = err != nil && ctx.Err() != nil
				return value, err
			})
			return call.value, call.err
		}
		value, err := call.Wait(ctx)
		if ctx.Err() != nil || !call.wasAbandoned() {
			return value, err
		}
	}
}

// Start returns the call of that name that is under way, or begins one. Before a new one begins,
// admit is asked, while no other call can begin or end; its error is returned, and nothing begins.
// The function runs in a goroutine of its own; the owner of the group must see to it that it ends.
func (g *Group[V]) Start(name string, admit func() error, fn func() (V, error)) (*Call[V], error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if call := g.calls[name]; call != nil {
		return call, nil
	}
	if err := admit(); err != nil {
		return nil, err
	}
	call := g.addLocked(name)
	go g.run(name, call, fn)
	return call, nil
}

// Wait returns the call's result, or the error of ctx if that ends first.
func (c *Call[V]) Wait(ctx context.Context) (V, error) {
	select {
	case <-c.done:
		return c.value, c.err
	case <-ctx.Done():
		var none V
		return none, ctx.Err()
	}
}

// Forget lets the next caller begin a call of its own. Callers that wait for the one under way get
// its result. It reports whether there was one.
func (g *Group[V]) Forget(name string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, found := g.calls[name]
	delete(g.calls, name)
	return found
}

func (g *Group[V]) join(name string) (call *Call[V], mine bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if call := g.calls[name]; call != nil {
		return call, false
	}
	return g.addLocked(name), true
}

func (g *Group[V]) addLocked(name string) *Call[V] {
	if g.calls == nil {
		g.calls = map[string]*Call[V]{}
	}
	call := &Call[V]{done: make(chan struct{}), err: ErrAborted}
	g.calls[name] = call
	return call
}

// run makes the call and wakes the callers that wait, even if fn panics.
func (g *Group[V]) run(name string, call *Call[V], fn func() (V, error)) {
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.calls[name] == call { // else it was forgotten, and there may be a newer one
			delete(g.calls, name)
		}
		close(call.done)
	}()
	call.value, call.err = fn()
}

// wasAbandoned reports whether the call ended only because its caller gave up.
func (c *Call[V]) wasAbandoned() bool {
	select {
	case <-c.done:
		return c.abandoned
	default:
		return false
	}
}
