package token_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyagent/keyagent/attest/token"
	"github.com/keyagent/keyagent/internal/secret"
)

const endpoint = "https://attest.example"

var errService = errors.New("service says no")

// counter is a service that answers at once, with a token that lives for eight hours.
type counter struct {
	calls atomic.Int32
	now   func() time.Time
}

func (c *counter) fetch(context.Context, string) (secret.String, time.Time, error) {
	n := c.calls.Add(1)
	return secret.New(fmt.Sprintf("token %d", n)), c.now().Add(8 * time.Hour), nil
}

func TestATokenIsKeptUntilFiveMinutesBeforeItExpires(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	clock := func() time.Time { return now }
	service := &counter{now: clock}
	c := token.NewCache(service.fetch, clock)
	for _, step := range []struct {
		pass time.Duration
		want string
	}{
		{0, "token 1"},
		{0, "token 1"},
		{7*time.Hour + 54*time.Minute, "token 1"},
		{time.Minute, "token 2"},
		{time.Second, "token 2"},
	} {
		now = now.Add(step.pass)
		got, _, err := c.Attest(t.Context(), endpoint)
		if err != nil || got.Reveal() != step.want {
			t.Errorf("after another %v: %q, %v; want %q", step.pass, got.Reveal(), err, step.want)
		}
	}
}

// gate is a service that answers when told.
type gate struct {
	calls atomic.Int32
	open  chan error
}

func (g *gate) fetch(ctx context.Context, _ string) (secret.String, time.Time, error) {
	g.calls.Add(1)
	select {
	case err := <-g.open:
		return secret.New("token"), time.Now().Add(time.Hour), err
	case <-ctx.Done():
		return secret.String{}, time.Time{}, ctx.Err()
	}
}

// crowd starts n callers and waits until all of them wait. The errors are to be read after done.
func crowd(ctx context.Context, c token.Cache, n int) (errs []error, done *sync.WaitGroup) {
	errs, done = make([]error, n), &sync.WaitGroup{}
	for i := range n {
		done.Go(func() { _, _, errs[i] = c.Attest(ctx, endpoint) })
	}
	synctest.Wait()
	return errs, done
}

func TestOneCallerWorksForAll(t *testing.T) {
	t.Parallel()
	for _, want := range []error{nil, errService} {
		synctest.Test(t, func(t *testing.T) {
			g := &gate{open: make(chan error)}
			c := token.NewCache(g.fetch, time.Now)
			errs, done := crowd(t.Context(), c, 20)
			g.open <- want
			done.Wait()
			for _, err := range errs {
				if !errors.Is(err, want) {
					t.Errorf("error %v, want %v", err, want)
				}
			}
			if n := g.calls.Load(); n != 1 {
				t.Errorf("%d calls, want 1", n)
			}
		})
	}
}

func TestAFailureIsNotKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &gate{open: make(chan error)}
		c := token.NewCache(g.fetch, time.Now)
		for _, want := range []error{errService, nil} {
			_, done := crowd(t.Context(), c, 1)
			g.open <- want
			done.Wait()
		}
		if n := g.calls.Load(); n != 2 {
			t.Errorf("%d calls, want 2", n)
		}
	})
}

func TestWhenTheWorkingCallerGivesUpAnotherTakesOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &gate{open: make(chan error)}
		c := token.NewCache(g.fetch, time.Now)
		impatient, leave := context.WithCancel(t.Context())
		first, firstDone := crowd(impatient, c, 1)
		rest, restDone := crowd(t.Context(), c, 5)
		leave()
		firstDone.Wait()
		synctest.Wait()
		g.open <- nil
		restDone.Wait()
		if !errors.Is(first[0], context.Canceled) {
			t.Errorf("the caller that gave up got %v", first[0])
		}
		for _, err := range rest {
			if err != nil {
				t.Errorf("a caller that waited got %v", err)
			}
		}
		if n := g.calls.Load(); n != 2 {
			t.Errorf("%d calls, want 2", n)
		}
	})
}

func TestAWaitingCallerMayLeave(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &gate{open: make(chan error)}
		c := token.NewCache(g.fetch, time.Now)
		_, worker := crowd(t.Context(), c, 1)
		ctx, leave := context.WithCancel(t.Context())
		errs, waiter := crowd(ctx, c, 1)
		leave()
		waiter.Wait()
		if !errors.Is(errs[0], context.Canceled) {
			t.Errorf("error %v, want context.Canceled", errs[0])
		}
		g.open <- nil
		worker.Wait()
	})
}

func TestAPanicDoesNotStrandWaitingCallers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		c := token.NewCache(func(context.Context, string) (secret.String, time.Time, error) {
			<-release
			panic("broken")
		}, time.Now)
		var panicked atomic.Bool
		var worker sync.WaitGroup
		worker.Go(func() {
			defer func() { panicked.Store(recover() != nil) }()
			_, _, _ = c.Attest(t.Context(), endpoint)
		})
		synctest.Wait()
		errs, waiter := crowd(t.Context(), c, 1)
		close(release)
		worker.Wait()
		waiter.Wait()
		if !panicked.Load() || errs[0] == nil {
			t.Errorf("panicked %v, waiting caller got %v", panicked.Load(), errs[0])
		}
	})
}

func TestEndpointsThatChangeAllTheTimeDoNotFillTheMemory(t *testing.T) {
	t.Parallel()
	service := &counter{now: time.Now}
	c := token.NewCache(service.fetch, time.Now)
	for i := range 100 {
		if _, _, err := c.Attest(t.Context(), fmt.Sprint("https://attest.example/", i)); err != nil {
			t.Fatal(err)
		}
	}
	if n := c.Entries(); n > 8 {
		t.Errorf("%d endpoints are remembered", n)
	}
}

func TestADiscardedTokenIsNotHandedOutAgain(t *testing.T) {
	t.Parallel()
	service := &counter{now: time.Now}
	c := token.NewCache(service.fetch, time.Now)
	c.Discard(endpoint) // nothing is there yet
	for _, want := range []string{"token 1", "token 1"} {
		if got, _, err := c.Attest(t.Context(), endpoint); err != nil || got.Reveal() != want {
			t.Errorf("%q, %v; want %q", got.Reveal(), err, want)
		}
	}
	c.Discard("https://other.example")
	if got, _, _ := c.Attest(t.Context(), endpoint); got.Reveal() != "token 1" {
		t.Errorf("%q: another endpoint's token was discarded", got.Reveal())
	}
	c.Discard(endpoint)
	for range 2 {
		if got, _, err := c.Attest(t.Context(), endpoint); err != nil || got.Reveal() != "token 2" {
			t.Errorf("%q, %v; want a new token, once", got.Reveal(), err)
		}
	}
}

func TestAFlightThatBeganBeforeADiscardIsNotKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &gate{open: make(chan error)}
		c := token.NewCache(g.fetch, time.Now)
		before, beforeDone := crowd(t.Context(), c, 3)
		c.Discard(endpoint)
		after, afterDone := crowd(t.Context(), c, 3)
		if n := g.calls.Load(); n != 2 {
			t.Fatalf("%d calls, want 2: a caller after the discard must not wait for the old token", n)
		}
		g.open <- nil
		g.open <- nil
		beforeDone.Wait()
		afterDone.Wait()
		for _, err := range append(before, after...) {
			if err != nil {
				t.Error(err)
			}
		}
		if _, _, err := c.Attest(t.Context(), endpoint); err != nil || g.calls.Load() != 2 {
			t.Errorf("%v, %d calls: the new token was not kept", err, g.calls.Load())
		}
	})
}

// The old flight may land last, or its place may have been given away.
func TestALateFlightDoesNotPutItsTokenBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		first := make(chan struct{})
		var calls atomic.Int32
		c := token.NewCache(func(context.Context, string) (secret.String, time.Time, error) {
			n := calls.Add(1)
			if n == 1 {
				<-first
			}
			return secret.New(fmt.Sprintf("token %d", n)), time.Now().Add(time.Hour), nil
		}, time.Now)
		_, late := crowd(t.Context(), c, 1)
		c.Discard(endpoint)
		for _, landed := range []bool{false, true} {
			if landed {
				close(first)
				late.Wait()
			}
			if got, _, err := c.Attest(t.Context(), endpoint); err != nil || got.Reveal() != "token 2" {
				t.Errorf("the old flight landed: %v: %q, %v", landed, got.Reveal(), err)
			}
		}
	})
}

func TestNoneGivesNoToken(t *testing.T) {
	t.Parallel()
	got, expires, err := token.None{}.Attest(t.Context(), endpoint)
	if err != nil || !got.IsZero() || !expires.IsZero() {
		t.Errorf("%v, %v, %v", got, expires, err)
	}
}
