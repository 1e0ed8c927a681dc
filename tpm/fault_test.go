package tpm_test

import (
	"context"
	"crypto"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// throughProxy opens a simulator behind a proxy.
func throughProxy(t *testing.T) (*tpm.TPM, *tpmtest.Proxy) {
	t.Helper()
	p := tpmtest.NewProxy(t, tpmtest.Bare(t).Device())
	return tpmtest.Connect(t, p.Device()), p
}

// first makes a handler that treats the first command with this code in another way than the rest.
func first(code tpm2.TPMCC, treat tpmtest.Handler) tpmtest.Handler {
	var done atomic.Bool
	return func(command []byte, forward tpmtest.Forward) ([]byte, error) {
		if tpm2.TPMCC(tpmtest.CommandCode(command)) != code || done.Swap(true) {
			return forward(command)
		}
		return treat(command, forward)
	}
}

func random(c transport.TPM, n uint16) ([]byte, error) {
	rsp, err := tpm2.GetRandom{BytesRequested: n}.Execute(c)
	if err != nil {
		return nil, err
	}
	return rsp.RandomBytes.Buffer, nil
}

func TestRetryableCodesAreRepeated(t *testing.T) {
	t.Parallel()
	on, proxy := throughProxy(t)
	for _, tt := range []struct {
		name string
		code uint32
	}{
		{"TPM_RC_RETRY", 0x922},
		{"TPM_RC_YIELDED", 0x908},
		{"TPM_RC_TESTING", 0x90a},
		{"TPM_RC_NV_RATE", 0x920},
		{"TPM_RC_RETRY through a resource manager", 0x000b0922},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var refused int
			proxy.Handle(func(command []byte, forward tpmtest.Forward) ([]byte, error) {
				if refused < 3 {
					refused++
					return tpmtest.Response(tt.code), nil
				}
				return forward(command)
			})
			do(t, on, func(c transport.TPM) error {
				b, err := random(c, 8)
				if len(b) != 8 {
					t.Errorf("%d bytes, %v", len(b), err)
				}
				return err
			})
		})
	}
}

func TestRetryingEndsWithTheContext(t *testing.T) {
	t.Parallel()
	on, proxy := throughProxy(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var asked int
	proxy.Handle(func([]byte, tpmtest.Forward) ([]byte, error) {
		if asked++; asked == 3 {
			cancel()
		}
		return tpmtest.Response(0x922), nil
	})
	err := on.Do(ctx, func(c transport.TPM) error { _, err := random(c, 8); return err })
	fails(t, err, context.Canceled)
	proxy.Handle(nil)
	do(t, on, func(c transport.TPM) error { _, err := random(c, 8); return err })
}

func TestOtherCodesAreHandedUpAtOnceWithoutLayerBits(t *testing.T) {
	t.Parallel()
	on, proxy := throughProxy(t)
	for _, tt := range []struct {
		name string
		sent uint32
		want tpm2.TPMRC
	}{
		{"unknown command, from the kernel's resource manager", 0x000b0143, tpm2.TPMRCCommandCode},
		{"lockout", 0x921, tpm2.TPMRCLockout},
		{"a format-one code with a parameter number", 0x000b01d5, tpm2.TPMRCSize},
		{"cancelled", 0x909, tpm2.TPMRCCanceled},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var asked int
			proxy.Handle(func([]byte, tpmtest.Forward) ([]byte, error) { asked++; return tpmtest.Response(tt.sent), nil })
			err := on.Do(t.Context(), func(c transport.TPM) error { _, err := random(c, 8); return err })
			fails(t, err, tt.want)
			if asked != 1 {
				t.Errorf("sent %d times", asked)
			}
		})
	}
}

// A command that hangs is left by its caller, and its answer, when it comes at last, is not taken
// for another's.
func TestALateAnswerIsDrained(t *testing.T) {
	t.Parallel()
	on, proxy := throughProxy(t)
	ctx, cancel := context.WithCancel(t.Context())
	release := make(chan struct{})
	proxy.Handle(first(tpm2.TPMCCGetRandom, func(command []byte, forward tpmtest.Forward) ([]byte, error) {
		cancel() // the caller goes now
		<-release
		return forward(command)
	}))
	err := on.Do(ctx, func(c transport.TPM) error {
		if _, err := random(c, 32); !errors.Is(err, context.Canceled) {
			t.Errorf("the hanging command returned %v", err)
		}
		_, err := random(c, 32)
		return err // a second command of the same turn does not start either
	})
	fails(t, err, context.Canceled)

	next := make(chan int, 1)
	go func() {
		_ = on.Do(t.Context(), func(c transport.TPM) error {
			b, err := random(c, 7)
			next <- len(b)
			return err
		})
	}()
	close(release)
	if n := <-next; n != 7 {
		t.Errorf("the next caller asked for 7 bytes and got %d", n)
	}
}

func TestAHangingTurnLeavesNothingLoaded(t *testing.T) {
	t.Parallel()
	on, proxy := throughProxy(t)
	for name, hang := range map[string]tpm2.TPMCC{
		"making the storage root": tpm2.TPMCCCreatePrimary, "making the key": tpm2.TPMCCCreate,
		"loading": tpm2.TPMCCLoad, "reading the public area": tpm2.TPMCCReadPublic,
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			gone := make(chan struct{})
			proxy.Handle(first(hang, func(command []byte, forward tpmtest.Forward) ([]byte, error) {
				cancel()
				<-gone
				return forward(command)
			}))
			file, err := on.CreateKey(ctx, tpm.KeyOptions{})
			if err == nil {
				_, err = on.LoadKey(ctx, file, tpm.LoadOptions{})
			}
			fails(t, err, context.Canceled)
			close(gone)
			proxy.Handle(nil)
			if left := transients(t, on); len(left) != 0 {
				t.Errorf("%x stayed loaded", left)
			}
		})
	}
}

// Each way in which the conversation can break: the command that was under way fails or is
// repeated, and the next one finds a new connection.
func TestABrokenTransportIsReplaced(t *testing.T) {
	t.Parallel()
	on, proxy := throughProxy(t)
	key := tpmtest.CreateKey(t, on)
	whole := tpmtest.Response(0)
	tests := []struct {
		name  string
		treat tpmtest.Handler
	}{
		{"closed before the TPM saw the command", func([]byte, tpmtest.Forward) ([]byte, error) { return nil, tpmtest.ErrHangUp }},
		{"closed after the TPM executed it", func(command []byte, forward tpmtest.Forward) ([]byte, error) {
			if _, err := forward(command); err != nil {
				return nil, err
			}
			return nil, tpmtest.ErrHangUp
		}},
		{"closed within the header", func([]byte, tpmtest.Forward) ([]byte, error) { return whole[:4], tpmtest.ErrHangUp }},
		{"closed within the body", func(command []byte, forward tpmtest.Forward) ([]byte, error) {
			rsp, err := forward(command)
			if err != nil {
				return nil, err
			}
			return rsp[:len(rsp)-1], tpmtest.ErrHangUp
		}},
		{"garbage", func([]byte, tpmtest.Forward) ([]byte, error) { return []byte("HTTP/1.1 400 Bad Request\r\n"), nil }},
		{"a response that claims 4 GB", func([]byte, tpmtest.Forward) ([]byte, error) { return claim(0xffffffff), nil }},
		{"a response that claims one byte too many", func([]byte, tpmtest.Forward) ([]byte, error) { return claim(4097), nil }},
		{"a response shorter than its header", func([]byte, tpmtest.Forward) ([]byte, error) { return claim(9), nil }},
		{"a response with bytes after it", func([]byte, tpmtest.Forward) ([]byte, error) { return append(slices.Clip(whole), 0), nil }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			proxy.Handle(first(tpm2.TPMCCGetRandom, tt.treat))
			err := on.Do(t.Context(), func(c transport.TPM) error { _, err := random(c, 8); return err })
			fails(t, err, tpm.ErrUnavailable)
			do(t, on, func(c transport.TPM) error { _, err := random(c, 8); return err })

			proxy.Handle(first(tpm2.TPMCCSign, tt.treat)) // can be repeated, so it is
			checkSigns(t, key)
		})
	}
}

// claim is a response header with a false size.
func claim(size uint32) []byte {
	b := tpmtest.Response(0)
	binary.BigEndian.PutUint32(b[2:], size)
	return b
}

func TestBytesOutOfTurnAreNobodysAnswer(t *testing.T) {
	t.Parallel()
	on, proxy := throughProxy(t)
	proxy.Push(t, tpmtest.Response(0x101))
	do(t, on, func(c transport.TPM) error {
		b, err := random(c, 5)
		if len(b) != 5 {
			t.Errorf("%d bytes", len(b))
		}
		return err
	})
}

func TestATransportThatClosedWhileIdleIsReopenedUnnoticed(t *testing.T) {
	t.Parallel()
	v := tpmtest.Bare(t)
	on := tpmtest.Connect(t, v.Device())
	key := tpmtest.CreateKey(t, on)
	v.Disconnect()
	do(t, on, func(c transport.TPM) error { _, err := random(c, 5); return err })
	v.Disconnect()
	checkSigns(t, key)
}

func TestATPMThatNeverAnswersIsGivenUp(t *testing.T) {
	t.Parallel()
	proxy := tpmtest.NewProxy(t, tpmtest.Bare(t).Device())
	on, err := tpm.Open(t.Context(), tpm.Config{Device: proxy.Device(), CommandTimeout: 250 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer on.Close()
	var asked atomic.Int32
	proxy.Handle(func(command []byte, forward tpmtest.Forward) ([]byte, error) {
		if tpm2.TPMCC(tpmtest.CommandCode(command)) == tpm2.TPMCCReadPublic {
			asked.Add(1)
			return nil, nil // as if it still worked on it
		}
		return forward(command)
	})
	_, _, err = on.ReadPublic(t.Context(), tpm.HandleSRK)
	fails(t, err, tpm.ErrUnavailable)
	if err != nil && !strings.Contains(err.Error(), "did not answer in time") {
		t.Errorf("the error does not say what happened: %v", err)
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("sent %d times: a command that hangs should not be repeated", n)
	}
	proxy.Handle(nil)
	do(t, on, func(c transport.TPM) error { _, err := random(c, 5); return err })
}

func TestATPMThatComesBackIsFound(t *testing.T) {
	t.Parallel()
	proxy := tpmtest.NewProxy(t, tpmtest.Bare(t).Device())
	on := tpmtest.Connect(t, proxy.Device())
	key := tpmtest.CreateKey(t, on)
	proxy.Handle(func([]byte, tpmtest.Forward) ([]byte, error) { return nil, tpmtest.ErrHangUp })
	for range 3 {
		_, err := on.Properties(t.Context())
		fails(t, err, tpm.ErrUnavailable)
	}
	proxy.Handle(nil)
	checkSigns(t, key)
}

func TestFullSlotsMakeRoomForTheNext(t *testing.T) {
	t.Parallel()
	on, _ := throughProxy(t)
	var keys []*tpm.Key
	for range 5 { // the TPM has 3 slots
		keys = append(keys, tpmtest.CreateKey(t, on))
	}
	for _, k := range slices.Concat(keys, keys) {
		checkSigns(t, k)
	}
	for _, k := range keys {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	}
	if left := transients(t, on); len(left) != 0 {
		t.Errorf("%x stayed loaded", left)
	}
}

// Some TPMs want a free slot to sign. Another key gives way then, but not the key that is to sign.
func TestTheKeyInUseDoesNotGiveWay(t *testing.T) {
	t.Parallel()
	on, proxy := throughProxy(t)
	key := tpmtest.CreateKey(t, on)
	tpmtest.CreateKey(t, on)
	var refuse, loads int
	proxy.Handle(func(command []byte, forward tpmtest.Forward) ([]byte, error) {
		switch tpm2.TPMCC(tpmtest.CommandCode(command)) {
		case tpm2.TPMCCLoad:
			loads++
		case tpm2.TPMCCSign:
			if refuse > 0 {
				refuse--
				return tpmtest.Response(uint32(tpm2.TPMRCObjectMemory)), nil
			}
		}
		return forward(command)
	})
	refuse = 1
	checkSigns(t, key) // the other key is flushed
	if n := len(transients(t, on)); n != 1 {
		t.Errorf("%d keys are loaded", n)
	}
	refuse = 1
	digest := make([]byte, 32)
	_, err := key.Sign(t.Context(), tpm2.TPMAlgRSASSA, crypto.SHA256, digest)
	fails(t, err, tpm2.TPMRCObjectMemory) // nothing is left that could give way
	checkSigns(t, key)
	if loads != 0 {
		t.Errorf("the key was loaded again %d times", loads)
	}
}
