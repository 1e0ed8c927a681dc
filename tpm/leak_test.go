package tpm_test

import (
	"context"
	"crypto"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// This file counts the objects and sessions loaded in the TPM. A slot that is lost is lost until
// the connection ends, and there are three.

// checkLoaded compares the loaded objects and sessions with the allowed numbers.
func checkLoaded(t testing.TB, on *tpm.TPM, objects, sessions int) {
	t.Helper()
	for _, limit := range []struct {
		kind uint32
		most int
	}{{transient, objects}, {loadedSessions, sessions}, {savedSessions, 0}} {
		if list := present(t, on, limit.kind); len(list) > limit.most {
			t.Fatalf("%x are loaded, %d may be", list, limit.most)
		}
	}
}

func TestThousandsOfOperationsLeaveNothing(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		start func(testing.TB) tpmtest.Machine
		count int
	}{
		{"swtpm", tpmtest.SwtpmMachine, 10_000}, // a bare TPM, and the faster one
		{"simulator", tpmtest.BareMachine, 1000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := tt.start(t)
			on, err := tpm.Open(t.Context(), tpm.Config{Device: m.Device(), SessionUses: 500})
			if err != nil {
				t.Fatal(err)
			}
			operateOften(t, on, tt.count)
			if err := on.Close(); err != nil {
				t.Fatal(err)
			}
			checkLoaded(t, tpmtest.Connect(t, m.Device()), 0, 0)
		})
	}
}

func operateOften(t *testing.T, on *tpm.TPM, count int) {
	t.Helper()
	ctx := t.Context()
	const ak = 0x81010003
	template := ecdsaTemplate()
	template.ObjectAttributes.Restricted = true
	asScheme(&template)
	do(t, on, func(c transport.TPM) error {
		return errors.Join(persistAt(t, c, template, ak), persistAt(t, c, tpm2.ECCSRKTemplate, tpm.HandleSRK))
	})
	file := create(t, on, tpm.KeyOptions{AuthValue: secret.New("pw")})
	key := load(t, on, file, tpm.LoadOptions{AuthValue: secret.New("pw")})
	bound := boundKey(t, on)
	digest := make([]byte, 32)
	expect := func(err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Fatalf("got %v, want %v", err, want)
		}
	}
	operate := func(i int) {
		switch {
		case i%500 == 0: // what costs most
			k := newKey(t, on)
			checkSigns(t, k)
			_ = k.Close() // always nil
		case i%500 == 100:
			wrong := load(t, on, file, tpm.LoadOptions{})
			_, err := wrong.Sign(ctx, tpm2.TPMAlgECDSA, crypto.SHA256, digest)
			expect(err, tpm.ErrAuthValue)
			_ = wrong.Close() // always nil
		case i%500 == 200:
			_, err := on.LoadKey(ctx, &tpm.KeyFile{Parent: file.Parent, Public: file.Public, Private: changed(file.Private, -1)}, tpm.LoadOptions{})
			expect(err, tpm.ErrForeignTPM)
		case i%500 == 300:
			_, err := on.Certify(ctx, key, ak, digest)
			expect(err, nil)
		case i%500 == 400:
			err := on.Unpersist(ctx, 0x81010000, nil)
			expect(err, nil)
		case i%20 == 1:
			_, err := bound.Sign(ctx, tpm2.TPMAlgECDSA, crypto.SHA256, digest)
			expect(err, nil)
		case i%20 < 5:
			_, err := key.Sign(ctx, tpm2.TPMAlgECDSA, crypto.SHA256, digest)
			expect(err, nil)
		case i%20 == 5:
			_, _, err := on.ReadPublic(ctx, ak)
			expect(err, nil)
		default:
			_, _, err := on.ReadPublic(ctx, 0x81000123)
			expect(err, tpm2.TPMRCHandle)
		}
	}
	for i := range count {
		operate(i)
		if i%100 == 0 {
			checkLoaded(t, on, 2, 2)
		}
	}
	checkLoaded(t, on, 2, 2)
}

// Each operation is cancelled at each of its commands: while the TPM works on it, and just when it
// answers.
func TestCancelledOperationsLeaveNothing(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		start  func(testing.TB) tpmtest.Machine
		rounds int
	}{{"swtpm", tpmtest.SwtpmMachine, 4}, {"simulator", tpmtest.BareMachine, 1}} {
		t.Run(tt.name, func(t *testing.T) {
			proxy := tpmtest.NewProxy(t, tt.start(t).Device())
			on := tpmtest.ConnectWith(t, tpm.Config{Device: proxy.Device(), SessionUses: 3})
			file := create(t, on, tpm.KeyOptions{})
			key, bound, third := load(t, on, file, tpm.LoadOptions{}), boundKey(t, on), newKey(t, on)
			digest := make([]byte, 32)
			operations := []struct {
				name string
				run  func(ctx context.Context) error
			}{
				{"creating", func(ctx context.Context) error {
					_, err := on.CreateKey(ctx, tpm.KeyOptions{Algorithm: tpm.ECDSAP256})
					return err
				}},
				{"loading", func(ctx context.Context) error {
					k, err := on.LoadKey(ctx, file, tpm.LoadOptions{})
					if err == nil {
						t.Cleanup(func() { _ = k.Close() }) // always nil
					}
					return err
				}},
				{"signing", func(ctx context.Context) error {
					_, err := key.Sign(ctx, tpm2.TPMAlgECDSA, crypto.SHA256, digest)
					return err
				}},
				{"signing with a policy", func(ctx context.Context) error {
					_, err := bound.Sign(ctx, tpm2.TPMAlgECDSA, crypto.SHA256, digest)
					return err
				}},
				{"reading", func(ctx context.Context) error { _, err := on.StorageRoot(ctx); return err }},
			}
			cancelled := 0
			for round := range tt.rounds {
				for _, operation := range operations {
					for nth, more := 1, true; more; nth++ {
						for _, late := range []bool{true, false} {
							checkSigns(t, third) // so that all slots are taken, and a key must give way
							checkSigns(t, key)
							checkSigns(t, bound)
							if more = cancelAt(t, proxy, nth, late, operation.run); more {
								cancelled++
							}
						}
						if list := present(t, on, loadedSessions); len(list) > 2 {
							t.Fatalf("round %d, %s, command %d: %x are loaded", round, operation.name, nth, list)
						}
					}
				}
			}
			if cancelled < 30*tt.rounds {
				t.Errorf("%d were cancelled", cancelled)
			}
			checkSigns(t, key)
			checkSigns(t, bound)
			t.Logf("%d were cancelled", cancelled)
			if err := on.Close(); err != nil {
				t.Fatal(err)
			}
			second := tpmtest.Connect(t, proxy.Device())
			if left := append(transients(t, second), present(t, second, loadedSessions)...); len(left) != 0 {
				t.Errorf("%x stayed", left)
			}
		})
	}
}

// cancelAt runs an operation and ends its context when the nth command is under way. If late, the
// TPM gets the command after the caller has gone. It reports whether there was such a command.
func cancelAt(t *testing.T, proxy *tpmtest.Proxy, nth int, late bool, run func(context.Context) error) bool {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	gone := make(chan struct{})
	reached := make(chan tpm2.TPMCC, 1)
	seen := 0
	proxy.Handle(func(command []byte, forward tpmtest.Forward) ([]byte, error) {
		if seen++; seen != nth {
			return forward(command)
		}
		reached <- codeOf(command)
		cancel()
		if late {
			<-gone
		}
		return forward(command)
	})
	err := run(ctx)
	close(gone)
	proxy.Handle(nil)
	var at tpm2.TPMCC
	select {
	case at = <-reached:
	default:
		if err != nil {
			t.Errorf("nobody cancelled it: %v", err)
		}
		return false
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("command %d: %v", nth, err)
	}
	if err == nil && late && at != tpm2.TPMCCFlushContext { // nobody waits for a flush
		t.Errorf("command %d, 0x%x: it was cancelled, and succeeded", nth, uint32(at))
	}
	return true
}

// A TPM may want a flush repeated, as any command. Where nobody waits for it, too.
func TestAFlushThatTheTPMPutsOffIsRepeated(t *testing.T) {
	t.Parallel()
	machine := tpmtest.Swtpm(t)
	proxy := tpmtest.NewProxy(t, machine.Device())
	on := tpmtest.ConnectWith(t, tpm.Config{Device: proxy.Device(), SessionUses: 2})
	var put atomic.Int32
	proxy.Handle(func(command []byte, forward tpmtest.Forward) ([]byte, error) {
		if codeOf(command) == tpm2.TPMCCFlushContext && put.Add(1)%3 != 0 {
			return tpmtest.Response(uint32(tpm2.TPMRCRetry)), nil
		}
		return forward(command)
	})
	var keys []*tpm.Key
	for range 5 { // more than there are slots
		keys = append(keys, newKey(t, on))
	}
	for _, k := range append(keys, keys...) {
		checkSigns(t, k)
	}
	for _, k := range keys {
		_ = k.Close() // always nil
	}
	checkLoaded(t, on, 0, 1)
	checkSigns(t, load(t, on, create(t, on, tpm.KeyOptions{}), tpm.LoadOptions{}))
	if err := on.Close(); err != nil {
		t.Fatal(err)
	}
	checkLoaded(t, tpmtest.Connect(t, machine.Device()), 0, 0)
}

// A key that is said to be gone is loaded again, and its slot is not lost if that was not so.
func TestAKeyThatIsSaidToBeGoneIsNotThereTwice(t *testing.T) {
	t.Parallel()
	on, proxy := throughProxy(t)
	key := newKey(t, on)
	for _, code := range []tpm2.TPMRC{tpm2.TPMRCReferenceH0, tpm2.TPMRCHandle | 0x100} {
		for range 4 { // more often than there are slots
			checkSigns(t, key)
			proxy.Handle(refusing(2, code, tpm2.TPMCCSign, tpm2.TPMCCReadPublic))
			checkSigns(t, key)
			proxy.Handle(nil)
			checkLoaded(t, on, 1, 1)
		}
	}
}

func TestAFlushWhoseContextEndsWhileItIsPutOffIsDone(t *testing.T) {
	t.Parallel()
	on, proxy := throughProxy(t)
	for range 20 { // the end of the context may come before the answer or after it
		ctx, cancel := context.WithCancel(t.Context())
		proxy.Handle(first(tpm2.TPMCCFlushContext, func([]byte, tpmtest.Forward) ([]byte, error) {
			cancel()
			return tpmtest.Response(uint32(tpm2.TPMRCRetry)), nil
		}))
		_ = on.Do(ctx, func(c transport.TPM) error {
			_, done := storageRoot(t, c)
			done()
			return nil
		})
		cancel()
		proxy.Handle(nil)
		checkLoaded(t, on, 0, 0)
	}
}
