package tpm_test

import (
	"context"
	"crypto"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// This file is about flushes that do not happen when they should: what they were to free is freed
// later, and nothing of another program ever is.

// putOff lets the TPM ask for each flush again, for as long as wanted.
func putOff(wanted func() bool) tpmtest.Handler {
	return func(command []byte, forward tpmtest.Forward) ([]byte, error) {
		if codeOf(command) == tpm2.TPMCCFlushContext && wanted() {
			return tpmtest.Response(uint32(tpm2.TPMRCRetry)), nil
		}
		return forward(command)
	}
}

func always() bool { return true }

// swtpmThroughProxy opens a TPM without resource manager, behind a proxy.
func swtpmThroughProxy(t *testing.T, cfg tpm.Config) (*tpm.TPM, *tpmtest.Proxy, *tpmtest.SoftTPM) {
	t.Helper()
	machine := tpmtest.Swtpm(t)
	proxy := tpmtest.NewProxy(t, machine.Device())
	cfg.Device = proxy.Device()
	return tpmtest.ConnectWith(t, cfg), proxy, machine
}

// beside lets another program use the TPM while we have no connection: swtpm serves one at a time.
func beside(t *testing.T, machine *tpmtest.SoftTPM, f func(transport.TPM) error) {
	t.Helper()
	other, err := tpm.Open(t.Context(), tpm.Config{Device: machine.Device()})
	if err != nil {
		t.Fatal(err)
	}
	do(t, other, f)
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestAnEvictionThatIsCancelledWhileItIsPutOffIsDoneLater(t *testing.T) {
	t.Parallel()
	on, proxy := throughProxy(t)
	first, second, file := newKey(t, on), newKey(t, on), create(t, on, tpm.KeyOptions{})
	checkSigns(t, first)
	checkSigns(t, second)
	kept := transients(t, on)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var asked int
	proxy.Handle(func(command []byte, forward tpmtest.Forward) ([]byte, error) {
		if codeOf(command) != tpm2.TPMCCFlushContext || !slices.Contains(kept, handleOf(command)) {
			return forward(command)
		}
		if asked++; asked == 3 {
			cancel()
		}
		return tpmtest.Response(uint32(tpm2.TPMRCRetry)), nil
	})
	_, err := on.LoadKey(ctx, file, tpm.LoadOptions{}) // it needs a slot for the storage root and one for the key
	fails(t, err, context.Canceled)
	proxy.Handle(nil)
	_, _ = first.Close(), second.Close() // always nil
	if left := transients(t, on); len(left) != 0 {
		t.Errorf("%x stayed loaded, and no key is open", left)
	}
}

func TestAnIdleSessionWhoseFlushIsPutOffIsFlushedLater(t *testing.T) {
	t.Parallel()
	proxy := tpmtest.NewProxy(t, tpmtest.Bare(t).Device())
	on := tpmtest.ConnectWith(t, tpm.Config{Device: proxy.Device(), SessionIdle: 20 * time.Millisecond})
	key := newKey(t, on)
	var asked atomic.Int32
	proxy.Handle(putOff(func() bool { return asked.Add(1) < 60 })) // more than one round of repetitions has
	checkSigns(t, key)
	await(t, on, loadedSessions, 0)
	checkSigns(t, key)
}

// The same without any caller: the timer that looks after idle sessions sees to it.
func TestAFlushThatIsPutOffIsTriedAgainWithoutACaller(t *testing.T) {
	t.Parallel()
	v := tpmtest.Bare(t)
	proxy := tpmtest.NewProxy(t, v.Device())
	on := tpmtest.ConnectWith(t, tpm.Config{Device: proxy.Device(), SessionIdle: 20 * time.Millisecond})
	key := newKey(t, on)
	var asked atomic.Int32
	proxy.Handle(putOff(func() bool { return asked.Add(1) < 25 }))
	checkSigns(t, key)
	until(t, func() bool {
		loaded, err := handles(v, loadedSessions)
		return err == nil && len(loaded) == 0
	}, func() string { return "a session stays" })
}

func TestAReplacedSessionWhoseFlushIsPutOffIsFlushedLater(t *testing.T) {
	t.Parallel()
	on, proxy := throughProxy(t)
	key, bound := newKey(t, on), boundKey(t, on)
	for range 3 {
		for _, k := range []*tpm.Key{key, bound} {
			checkSigns(t, k)
			proxy.Handle(putOff(always))
			fault := first(tpm2.TPMCCSign, func([]byte, tpmtest.Forward) ([]byte, error) {
				proxy.Handle(putOff(always))
				return tpmtest.Response(uint32(tpm2.TPMRCReferenceS0)), nil
			})
			proxy.Handle(fault)
			_, _ = sign(t, k) // it may want for a session
			proxy.Handle(nil)
		}
	}
	if list := present(t, on, loadedSessions); len(list) > 2 {
		t.Errorf("%x are loaded", list)
	}
	checkSigns(t, key)
	checkSigns(t, bound)
}

// The connection breaks with the flush under way. Without a resource manager nothing is freed by
// that.
func TestAFlushWhoseConnectionBreaksIsDoneOverTheNext(t *testing.T) {
	t.Parallel()
	on, proxy, _ := swtpmThroughProxy(t, tpm.Config{SessionUses: 1})
	for name, hangUp := range map[string]tpmtest.Handler{
		"before the TPM saw it": func([]byte, tpmtest.Forward) ([]byte, error) { return nil, tpmtest.ErrHangUp },
		"after the TPM executed it": func(command []byte, forward tpmtest.Forward) ([]byte, error) {
			_, _ = forward(command)
			return nil, tpmtest.ErrHangUp
		},
	} {
		for round := range 4 { // more often than there are slots
			t.Run(fmt.Sprint(name, round), func(t *testing.T) {
				proxy.Handle(first(tpm2.TPMCCFlushContext, hangUp))
				key := newKey(t, on) // its flushes: the storage root, sessions
				proxy.Handle(nil)
				checkSigns(t, key)
				proxy.Handle(first(tpm2.TPMCCFlushContext, hangUp))
				_ = key.Close() // always nil
				checkLoaded(t, on, 0, 1)
			})
		}
	}
}

// A caller goes, and the connection breaks before the late answer: of the handles that are known,
// none is forgotten.
func TestObjectsThatACallerLeftAreFlushedAfterABrokenConnection(t *testing.T) {
	t.Parallel()
	on, proxy, _ := swtpmThroughProxy(t, tpm.Config{})
	for range 4 {
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan struct{})
		proxy.Handle(first(tpm2.TPMCCGetRandom, func([]byte, tpmtest.Forward) ([]byte, error) {
			cancel()
			<-gone
			return nil, tpmtest.ErrHangUp
		}))
		_ = on.Do(ctx, func(c transport.TPM) error {
			_, done := storageRoot(t, c)
			defer done() // after the end of the context
			_, err := random(c, 4)
			return err
		})
		close(gone)
		proxy.Handle(nil)
		checkLoaded(t, on, 0, 0)
		cancel()
	}
}

// The answer to TPM2_Load is lost, so its handle is not known. The key is found by its Name, which
// no other program's has.
func TestAKeyWhoseLoadingLostItsAnswerIsFoundAndFlushed(t *testing.T) {
	t.Parallel()
	on, proxy, _ := swtpmThroughProxy(t, tpm.Config{})
	foreign := stay(t, on, ecdsaTemplate())
	file := create(t, on, tpm.KeyOptions{})
	hangUp := func(command []byte, forward tpmtest.Forward) ([]byte, error) {
		_, _ = forward(command)
		return nil, tpmtest.ErrHangUp
	}
	for range 4 { // more often than there are slots
		proxy.Handle(first(tpm2.TPMCCLoad, hangUp))
		key := load(t, on, file, tpm.LoadOptions{}) // which is tried a second time
		proxy.Handle(nil)
		checkSigns(t, key)
		if list := transients(t, on); len(list) != 2 || !slices.Contains(list, foreign) {
			t.Fatalf("%x are loaded: they should be %x and the key", list, foreign)
		}
		_ = key.Close() // always nil
	}
	t.Run("and its caller had gone", func(t *testing.T) {
		for range 4 {
			ctx, cancel := context.WithCancel(t.Context())
			gone := make(chan struct{})
			proxy.Handle(first(tpm2.TPMCCLoad, func(command []byte, forward tpmtest.Forward) ([]byte, error) {
				cancel()
				<-gone
				return hangUp(command, forward)
			}))
			_, err := on.LoadKey(ctx, file, tpm.LoadOptions{})
			fails(t, err, context.Canceled)
			close(gone)
			proxy.Handle(nil)
			if list := transients(t, on); !slices.Equal(list, []tpm2.TPMHandle{foreign}) {
				t.Fatalf("%x are loaded, want %x", list, foreign)
			}
		}
	})
}

// What another command has made before its answer was lost cannot be told from what others have
// loaded: a storage root is the same for all. It is left alone.
func TestTheStorageRootOfAnotherProgramIsNotFlushedForALostOne(t *testing.T) {
	t.Parallel()
	on, proxy, machine := swtpmThroughProxy(t, tpm.Config{})
	proxy.Handle(first(tpm2.TPMCCCreatePrimary, func([]byte, tpmtest.Forward) ([]byte, error) { return nil, tpmtest.ErrHangUp }))
	_ = on.Do(t.Context(), func(c transport.TPM) error { // repeated by nobody
		_, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(c)
		return err
	})
	var theirs tpm2.TPMHandle
	beside(t, machine, func(c transport.TPM) error { root, _ := storageRoot(t, c); theirs = root.Handle; return nil })
	proxy.Handle(nil)
	for range 3 {
		key := newKey(t, on)
		checkSigns(t, key)
		_ = key.Close() // always nil
	}
	if list := transients(t, on); !slices.Equal(list, []tpm2.TPMHandle{theirs}) {
		t.Errorf("%x are loaded, want %x of the other program", list, theirs)
	}
}

// After a TPM reset the handles that are owed name objects of other programs, one of them even with
// the Name of ours.
func TestNothingIsFlushedThatWasMadeAfterATPMReset(t *testing.T) {
	t.Parallel()
	on, proxy, machine := swtpmThroughProxy(t, tpm.Config{})
	file := create(t, on, tpm.KeyOptions{})
	proxy.Handle(putOff(always))
	key := load(t, on, file, tpm.LoadOptions{}) // the storage root stays
	checkSigns(t, key)
	_ = key.Close() // always nil
	owed := transients(t, on)
	if len(owed) != 2 {
		t.Fatalf("%x are loaded, want a storage root and a key", owed)
	}
	machine.Reboot(t)
	proxy.Disconnect()
	var theirs []tpm2.TPMHandle
	beside(t, machine, func(c transport.TPM) error {
		root, _ := storageRoot(t, c)
		session, err := startSession(c)
		theirs = append(theirs, root.Handle, loadUnder(t, c, root, file).Handle, session)
		return err
	})
	if !slices.Equal(theirs[:2], owed) {
		t.Fatalf("the other program has %x, we had %x", theirs[:2], owed)
	}
	proxy.Handle(nil)
	for range 12 { // until the handles of before are forgotten
		do(t, on, func(c transport.TPM) error { _, err := random(c, 4); return err })
	}
	if err := on.Close(); err != nil {
		t.Fatal(err)
	}
	beside(t, machine, func(c transport.TPM) error {
		for _, kind := range []uint32{transient, loadedSessions} {
			list, err := handles(c, kind)
			if err != nil {
				return err
			}
			for _, h := range theirs {
				if tpm2.TPMHandle(kind)>>24 == h>>24 && !slices.Contains(list, h) {
					t.Errorf("%x of the other program is gone: %x are loaded", h, list)
				}
			}
		}
		return nil
	})
}

// The TPM is reset, and the connection does not show it. The other program's session has the number
// of ours, which is idle, or which is found to be of no use any more.
func TestASessionOfAnotherProgramIsNotFlushedForOneOfBeforeTheReset(t *testing.T) {
	t.Parallel()
	for name, idle := range map[string]time.Duration{"idle": 20 * time.Millisecond, "used": time.Hour, "at the end": time.Hour} {
		t.Run(name, func(t *testing.T) {
			v := tpmtest.Bare(t)
			proxy := tpmtest.NewProxy(t, v.Device())
			on := tpmtest.ConnectWith(t, tpm.Config{Device: proxy.Device(), SessionIdle: idle})
			var wire traffic
			proxy.Handle(wire.under(nil))
			key := newKey(t, on)
			checkSigns(t, key)
			if err := v.Reset(t.Context()); err != nil {
				t.Fatal(err)
			}
			theirs, err := startSession(v)
			if err != nil {
				t.Fatal(err)
			}
			switch name {
			case "idle":
				// Its flush is tried: it begins with a look at the clock.
				looks, flushes := wire.count(tpm2.TPMCCReadClock), wire.count(tpm2.TPMCCFlushContext)
				until(t, func() bool {
					return wire.count(tpm2.TPMCCReadClock) > looks || wire.count(tpm2.TPMCCFlushContext) > flushes
				}, func() string { return "the idle session is not looked at" })
			case "used":
				checkSigns(t, key)
			}
			if err := on.Close(); err != nil {
				t.Fatal(err)
			}
			list, err := handles(v, loadedSessions)
			if err != nil || !slices.Equal(list, []tpm2.TPMHandle{theirs}) {
				t.Errorf("%x are loaded, %v; want %x of the other program", list, err, theirs)
			}
		})
	}
}

// Another program has flushed what is owed, and has its own object there now.
func TestAnObjectOfAnotherProgramAtAnOwedHandleIsLeftAlone(t *testing.T) {
	t.Parallel()
	on, proxy, machine := swtpmThroughProxy(t, tpm.Config{})
	foreign := createForeign(t, on, ecdsaTemplate())
	key := newKey(t, on)
	checkSigns(t, key)
	proxy.Handle(putOff(always))
	_ = key.Close() // always nil
	owed := transients(t, on)
	proxy.Disconnect()
	var theirs tpm2.TPMHandle
	beside(t, machine, func(c transport.TPM) error {
		root, done := storageRoot(t, c)
		defer done()
		for _, h := range owed {
			flush(t, c, h)
		}
		theirs = loadUnder(t, c, root, foreign).Handle
		return nil
	})
	proxy.Handle(nil)
	checkSigns(t, newKey(t, on))
	if list := transients(t, on); !slices.Contains(owed, theirs) || !slices.Contains(list, theirs) {
		t.Errorf("ours was %x, the other program's is %x; %x are loaded", owed, theirs, list)
	}
}

// With each command the TPM may want a repetition, and with each the caller may go.
func TestTenThousandDisturbedOperationsLeaveNothing(t *testing.T) {
	t.Parallel()
	const operations, seed = 10_000, 13
	on, proxy, machine := swtpmThroughProxy(t, tpm.Config{SessionUses: 50})
	files := make([]*tpm.KeyFile, 3)
	keys := make([]*tpm.Key, len(files))
	for i := range files {
		files[i] = create(t, on, tpm.KeyOptions{})
		keys[i] = load(t, on, files[i], tpm.LoadOptions{})
	}
	keys = append(keys, boundKey(t, on))
	digest := make([]byte, 32)
	random := rand.New(rand.NewPCG(seed, seed))
	var cancelled, retried atomic.Int32
	for i := range operations {
		ctx, cancel := context.WithCancel(t.Context())
		at := random.IntN(40) // as a rule, past the last command
		retry := rand.New(rand.NewPCG(seed, uint64(i)))
		var sent atomic.Int32
		proxy.Handle(func(command []byte, forward tpmtest.Forward) ([]byte, error) {
			if int(sent.Add(1)) == at {
				cancelled.Add(1)
				cancel()
			}
			odds := 50
			if codeOf(command) == tpm2.TPMCCFlushContext {
				odds = 3
			}
			if retry.IntN(odds) == 0 {
				retried.Add(1)
				return tpmtest.Response(uint32(tpm2.TPMRCRetry)), nil
			}
			return forward(command)
		})
		k := i % len(keys)
		switch {
		case i%10 == 0 && k < len(files):
			if fresh, err := on.LoadKey(ctx, files[k], tpm.LoadOptions{}); err == nil {
				_ = keys[k].Close() // always nil
				keys[k] = fresh
				t.Cleanup(func() { _ = fresh.Close() })
			}
		case i%10 == 5:
			_, _ = on.CreateKey(ctx, tpm.KeyOptions{Algorithm: tpm.ECDSAP256})
		case i%10 == 7:
			_, _ = on.StorageRoot(ctx)
		default:
			_, _ = keys[k].Sign(ctx, tpm2.TPMAlgECDSA, crypto.SHA256, digest)
		}
		cancel()
		if i%500 == 0 {
			proxy.Handle(nil)
			checkLoaded(t, on, 3, 2)
		}
	}
	proxy.Handle(nil)
	t.Logf("%d operations were cancelled, %d commands put off", cancelled.Load(), retried.Load())
	if cancelled.Load() < operations/50 || retried.Load() < operations/50 {
		t.Error("too few were disturbed")
	}
	for _, k := range keys {
		checkSigns(t, k)
		_ = k.Close() // always nil
	}
	checkLoaded(t, on, 0, 2)
	if err := on.Close(); err != nil {
		t.Fatal(err)
	}
	checkLoaded(t, tpmtest.Connect(t, machine.Device()), 0, 0)
}

// A key is given up while somebody else has the TPM, for as long as they like.
func TestClosingAKeyDoesNotWaitForTheTPM(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		on := tpm.Unopened(t.Context())
		defer on.Close()
		key := new(tpm.Key).On(on, 0x80000000)
		release := make(chan struct{})
		go func() { _ = on.Do(t.Context(), func(transport.TPM) error { <-release; return nil }) }()
		synctest.Wait()
		for range 2 {
			if err := key.Close(); err != nil { // were it to wait, nobody would ever release the TPM
				t.Error(err)
			}
		}
		_, err := key.Sign(t.Context(), tpm2.TPMAlgECDSA, crypto.SHA256, make([]byte, 32))
		if err == nil {
			t.Error("a closed key signs")
		}
		close(release)
	})
}

// The TPM puts off the flush of a key that is closed, without end. Whoever wants to sign meanwhile
// need not wait for that.
func TestAFlushThatIsPutOffDoesNotKeepOthersWaiting(t *testing.T) {
	t.Parallel()
	for name, giveUp := range map[string]func(*testing.T, *tpm.TPM, *tpm.Key){
		"of a key that is closed": func(_ *testing.T, _ *tpm.TPM, k *tpm.Key) { _ = k.Close() },
		"of a caller of Do": func(t *testing.T, on *tpm.TPM, _ *tpm.Key) {
			do(t, on, func(c transport.TPM) error { _, done := storageRoot(t, c); done(); return nil })
		},
		"of the storage root": func(t *testing.T, on *tpm.TPM, _ *tpm.Key) {
			if _, err := on.StorageRoot(t.Context()); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			on, proxy := throughProxy(t)
			key, other := newKey(t, on), newKey(t, on)
			checkSigns(t, key)
			proxy.Handle(putOff(always))
			giveUp(t, on, other)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second) // as long as a signature may wait
			defer cancel()
			for range 3 {
				if _, err := key.Sign(ctx, tpm2.TPMAlgECDSA, crypto.SHA256, make([]byte, 32)); err != nil {
					t.Error(err)
				}
			}
			proxy.Handle(nil)
			checkLoaded(t, on, 2, 1)
		})
	}
}
