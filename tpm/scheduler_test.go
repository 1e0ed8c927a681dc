package tpm_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// The queue itself needs no TPM: a turn in which nothing is sent opens nothing. synctest tells when
// everyone is waiting.

func TestTurnsAreServedInTheOrderOfArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		on := tpm.Unopened(t.Context())
		defer on.Close()
		var served []int
		var want []int
		release := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() { _ = on.Do(t.Context(), func(transport.TPM) error { <-release; return nil }) })
		synctest.Wait()
		for i := range 50 {
			want = append(want, i)
			wg.Go(func() {
				_ = on.Do(t.Context(), func(transport.TPM) error { served = append(served, i); return nil })
			})
			synctest.Wait() // it waits in the queue
		}
		close(release)
		wg.Wait()
		if !slices.Equal(served, want) {
			t.Errorf("served %v", served)
		}
	})
}

func TestWaitingEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		on := tpm.Unopened(t.Context())
		defer on.Close()
		release := make(chan struct{})
		done := make(chan error, 2)
		go func() { done <- on.Do(t.Context(), func(transport.TPM) error { <-release; return nil }) }()
		synctest.Wait()

		ctx, cancel := context.WithCancel(t.Context())
		go func() { done <- on.Do(ctx, func(transport.TPM) error { t.Error("a turn after the end"); return nil }) }()
		synctest.Wait()
		cancel()
		fails(t, <-done, context.Canceled)
		fails(t, on.Do(ctx, func(transport.TPM) error { t.Error("a turn after the end"); return nil }), context.Canceled)
		close(release)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestCloseWaitsForTheTurnAndTurnsOthersAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		on := tpm.Unopened(t.Context())
		release := make(chan struct{})
		waiting := make(chan error, 1)
		var finished bool
		go func() {
			_ = on.Do(t.Context(), func(transport.TPM) error { <-release; finished = true; return nil })
		}()
		synctest.Wait()
		go func() { waiting <- on.Do(t.Context(), func(transport.TPM) error { return nil }) }()
		synctest.Wait()
		go func() { synctest.Wait(); close(release) }()
		if err := on.Close(); err != nil {
			t.Error(err)
		}
		if !finished {
			t.Error("Close did not wait for the turn")
		}
		fails(t, <-waiting, tpm.ErrClosed)
		if err := on.Close(); err != nil {
			t.Error(err)
		}
		fails(t, on.Do(t.Context(), func(transport.TPM) error { return nil }), tpm.ErrClosed)
	})
}

func TestATurnIsExclusive(t *testing.T) {
	t.Parallel()
	on := tpmtest.Connect(t, tpmtest.Bare(t).Device())
	var inside, turns int // no lock: the race detector sees a second caller
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				_ = on.Do(t.Context(), func(c transport.TPM) error {
					inside++
					if _, err := random(c, 4); err != nil {
						t.Error(err)
					}
					if inside != 1 {
						t.Errorf("%d callers have the TPM", inside)
					}
					inside--
					turns++
					return nil
				})
			}
		})
	}
	wg.Wait()
	if turns != 160 {
		t.Errorf("%d turns", turns)
	}
}

func TestATurnEndsAlsoByPanic(t *testing.T) {
	t.Parallel()
	on := tpmtest.Connect(t, tpmtest.Bare(t).Device())
	func() {
		defer func() { _ = recover() }()
		_ = on.Do(t.Context(), func(transport.TPM) error { panic("in the caller's code") })
	}()
	do(t, on, func(c transport.TPM) error { _, err := random(c, 4); return err })
}

func TestTheTransportIsOfNoUseAfterDo(t *testing.T) {
	t.Parallel()
	on := tpmtest.Connect(t, tpmtest.Bare(t).Device())
	var kept transport.TPM
	do(t, on, func(c transport.TPM) error { kept = c; return nil })
	if _, err := random(kept, 4); err == nil {
		t.Error("a command outside a turn was sent")
	}
}

func TestBytesThatAreNoCommandAreNotSent(t *testing.T) {
	t.Parallel()
	on := tpmtest.Connect(t, tpmtest.Bare(t).Device())
	do(t, on, func(c transport.TPM) error {
		for _, b := range [][]byte{nil, {}, {0x80, 1, 0, 0, 0, 9, 0, 0, 1}, {0x80, 1, 0, 0, 0, 13, 0, 0, 1, 0x7b, 0, 4}} {
			if _, err := c.Send(b); err == nil {
				t.Errorf("% x was sent", b)
			}
		}
		_, err := random(c, 4)
		return err
	})
}

// A context that ends must not keep a caller from cleaning up.
func TestFlushIsTakenAfterTheContextHasEnded(t *testing.T) {
	t.Parallel()
	on := tpmtest.Connect(t, tpmtest.Bare(t).Device())
	ctx, cancel := context.WithCancel(t.Context())
	err := on.Do(ctx, func(c transport.TPM) error {
		rsp, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(c)
		if err != nil {
			return err
		}
		defer flush(t, c, rsp.ObjectHandle)
		cancel()
		_, err = random(c, 4)
		return err
	})
	fails(t, err, context.Canceled)
	if left := transients(t, on); len(left) != 0 {
		t.Errorf("%x stayed loaded", left)
	}
}

func TestCloseFlushesTheKeys(t *testing.T) {
	t.Parallel()
	machine := tpmtest.Swtpm(t) // has no resource manager that would do it
	first := tpmtest.Connect(t, machine.Device())
	tpmtest.CreateKey(t, first)
	tpmtest.CreateKey(t, first)
	if n := len(transients(t, first)); n != 2 {
		t.Fatalf("%d keys are loaded", n)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if left := transients(t, tpmtest.Connect(t, machine.Device())); len(left) != 0 {
		t.Errorf("%x stayed loaded", left)
	}
}
