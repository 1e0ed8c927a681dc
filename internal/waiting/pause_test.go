package waiting_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyagent/keyagent/internal/waiting"
)

func TestSleepEndsWithTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := waiting.Sleep(ctx, time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

func TestALockIsWaitedForAsLongAsTheContextLasts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		lock := waiting.NewLock()
		if err := lock.Lock(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := lock.Lock(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a held lock gave %v", err)
		}
		lock.Unlock()
		if err := lock.Lock(t.Context()); err != nil {
			t.Errorf("a free lock gave %v", err)
		}
	})
}
