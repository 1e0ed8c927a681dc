package inflight_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/keyagent/keyagent/internal/inflight"
)

var errRefused = errors.New("refused")

// result is what a caller got.
type result struct {
	value int
	err   error
}

// crowd lets n callers ask for the same thing, and returns once all of them wait.
func crowd(ctx context.Context, g *inflight.Group[int], n int, fn func(context.Context) (int, error)) (got []result, done *sync.WaitGroup) {
	got, done = make([]result, n), &sync.WaitGroup{}
	for i := range n {
		done.Go(func() { got[i].value, got[i].err = g.Do(ctx, "name", fn) })
	}
	synctest.Wait()
	return got, done
}

func TestOneCallServesAll(t *testing.T) {
	t.Parallel()
	for _, want := range []error{nil, errRefused} {
		synctest.Test(t, func(t *testing.T) {
			var g inflight.Group[int]
			var calls atomic.Int32
			release := make(chan struct{})
			got, done := crowd(t.Context(), &g, 20, func(context.Context) (int, error) {
				<-release
				return int(calls.Add(1)), want
			})
			close(release)
			done.Wait()
			for _, r := range got {
				if r.value != 1 || !errors.Is(r.err, want) {
					t.Errorf("got %d, %v; want 1, %v", r.value, r.err, want)
				}
			}
		})
	}
}

func TestAnotherNameIsAnotherCall(t *testing.T) {
	t.Parallel()
	var g inflight.Group[string]
	outer, err := g.Do(t.Context(), "outer", func(ctx context.Context) (string, error) {
		return g.Do(ctx, "inner", func(context.Context) (string, error) { return "inner's", nil })
	})
	if outer != "inner's" || err != nil {
		t.Errorf("got %q, %v", outer, err)
	}
}

func TestAnotherCallerTakesOverFromOneThatGivesUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var g inflight.Group[int]
		var calls atomic.Int32
		release := make(chan struct{})
		work := func(ctx context.Context) (int, error) {
			n := calls.Add(1)
			select {
			case <-release:
				return int(n), nil
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		}
		impatient, leave := context.WithCancel(t.Context())
		first, firstDone := crowd(impatient, &g, 1, work)
		rest, restDone := crowd(t.Context(), &g, 5, work)
		leave()
		firstDone.Wait()
		synctest.Wait()
		close(release)
		restDone.Wait()
		if !errors.Is(first[0].err, context.Canceled) {
			t.Errorf("the caller that gave up got %v", first[0].err)
		}
		for _, r := range rest {
			if r.value != 2 || r.err != nil {
				t.Errorf("a caller that waited got %d, %v; want the second call's", r.value, r.err)
			}
		}
	})
}

func TestAWaitingCallerMayLeave(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var g inflight.Group[int]
		release := make(chan struct{})
		work := func(context.Context) (int, error) { <-release; return 1, nil }
		first, firstDone := crowd(t.Context(), &g, 1, work)
		impatient, leave := context.WithCancel(t.Context())
		second, secondDone := crowd(impatient, &g, 1, work)
		leave()
		secondDone.Wait()
		close(release)
		firstDone.Wait()
		if !errors.Is(second[0].err, context.Canceled) || first[0].err != nil {
			t.Errorf("the caller that left got %v, the other one %v", second[0].err, first[0].err)
		}
	})
}

func TestAForgottenCallServesOnlyTheCallersThatAlreadyWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var g inflight.Group[int]
		release := make(chan struct{})
		before, beforeDone := crowd(t.Context(), &g, 2, func(context.Context) (int, error) { <-release; return 1, nil })
		if !g.Forget("name") {
			t.Error("there was nothing to forget")
		}
		after, err := g.Do(t.Context(), "name", func(context.Context) (int, error) { return 2, nil })
		close(release)
		beforeDone.Wait()
		if after != 2 || err != nil || before[0].value != 1 || before[1].value != 1 {
			t.Errorf("before: %v; after: %d, %v", before, after, err)
		}
		if g.Forget("name") {
			t.Error("an ended call was kept")
		}
	})
}

func TestAStartedCallGoesOnWithoutItsWaiters(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var g inflight.Group[int]
		release := make(chan struct{})
		admitted := 0
		start := func() *inflight.Call[int] {
			call, err := g.Start("name", func() error { admitted++; return nil }, func() (int, error) { <-release; return 7, nil })
			if err != nil {
				t.Fatal(err)
			}
			return call
		}
		gone, leave := context.WithCancel(t.Context())
		leave()
		if _, err := start().Wait(gone); !errors.Is(err, context.Canceled) {
			t.Errorf("the caller that left got %v", err)
		}
		call := start()
		close(release)
		if value, err := call.Wait(t.Context()); value != 7 || err != nil || admitted != 1 {
			t.Errorf("got %d, %v after %d starts", value, err, admitted)
		}
	})
}

func TestACallThatIsNotAdmittedDoesNotStart(t *testing.T) {
	t.Parallel()
	var g inflight.Group[int]
	call, err := g.Start("name", func() error { return errRefused }, func() (int, error) { t.Error("started"); return 0, nil })
	if call != nil || !errors.Is(err, errRefused) {
		t.Errorf("got %v, %v", call, err)
	}
}

func TestAPanicWakesTheWaiters(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var g inflight.Group[int]
		release := make(chan struct{})
		var first sync.WaitGroup
		first.Go(func() {
			defer func() {
				if recover() == nil {
					t.Error("the panic did not reach the caller whose function it was")
				}
			}()
			_, _ = g.Do(t.Context(), "name", func(context.Context) (int, error) { <-release; panic("a fault") })
		})
		synctest.Wait()
		rest, restDone := crowd(t.Context(), &g, 2, func(context.Context) (int, error) { return 0, nil })
		close(release)
		first.Wait()
		restDone.Wait()
		for _, r := range rest {
			if !errors.Is(r.err, inflight.ErrAborted) {
				t.Errorf("got %v", r.err)
			}
		}
	})
}
