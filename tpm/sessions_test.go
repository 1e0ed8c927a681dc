package tpm_test

import (
	"context"
	"crypto"
	"crypto/sha256"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// boundKey makes and loads a key that is bound to PCR 7: it signs in a policy session.
func boundKey(t testing.TB, on *tpm.TPM) *tpm.Key {
	t.Helper()
	return load(t, on, create(t, on, tpm.KeyOptions{PCRs: tpm.PCRSelection{PCRs: []int{7}}}), tpm.LoadOptions{})
}

func TestCommandsShareASession(t *testing.T) {
	t.Parallel()
	on, proxy := azureThroughProxy(t, tpm.Config{})
	var wire traffic
	proxy.Handle(wire.under(nil))
	a, b, bound := newKey(t, on), newKey(t, on), boundKey(t, on)
	for range 10 {
		checkSigns(t, a)
		checkSigns(t, b)
		checkSigns(t, bound)
		if _, err := on.Certify(t.Context(), a, handleAK, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := on.Quote(t.Context(), handleAK, []int{7}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if n := wire.count(tpm2.TPMCCStartAuthSession); n != 2 { // one for HMACs, one for the policy
		t.Errorf("%d sessions were started", n)
	}
	if n := len(present(t, on, loadedSessions)); n != 2 {
		t.Errorf("%d sessions are loaded", n)
	}
}

func TestPlainSessionsAreNone(t *testing.T) {
	t.Parallel()
	on, proxy := azureThroughProxy(t, tpm.Config{PlainSessions: true})
	var wire traffic
	proxy.Handle(wire.under(nil))
	checkSigns(t, newKey(t, on))
	if n := wire.count(tpm2.TPMCCStartAuthSession); n != 0 {
		t.Errorf("%d sessions were started", n)
	}
	checkSigns(t, boundKey(t, on)) // where there is no other way
	if n := wire.count(tpm2.TPMCCStartAuthSession); n != 1 {
		t.Errorf("%d sessions were started", n)
	}
}

func TestASessionIsReplacedAfterItsUses(t *testing.T) {
	t.Parallel()
	proxy := tpmtest.NewProxy(t, tpmtest.Bare(t).Device())
	on := tpmtest.ConnectWith(t, tpm.Config{Device: proxy.Device(), SessionUses: 5})
	for name, key := range map[string]*tpm.Key{"HMAC": newKey(t, on), "policy": boundKey(t, on)} {
		t.Run(name, func(t *testing.T) {
			var wire traffic
			proxy.Handle(wire.under(nil))
			for range 20 {
				checkSigns(t, key)
			}
			proxy.Handle(nil)
			if n := wire.count(tpm2.TPMCCStartAuthSession); n != 4 {
				t.Errorf("%d sessions were started for 20 signatures", n)
			}
		})
	}
	if n := len(present(t, on, loadedSessions)); n > 2 {
		t.Errorf("%d sessions are loaded", n)
	}
}

func TestASessionThatNobodyUsesIsFlushed(t *testing.T) {
	t.Parallel()
	on := tpmtest.ConnectWith(t, tpm.Config{Device: tpmtest.Bare(t).Device(), SessionIdle: time.Millisecond})
	key, bound := newKey(t, on), boundKey(t, on)
	for range 3 {
		checkSigns(t, key)
		checkSigns(t, bound)
		await(t, on, loadedSessions, 0)
	}
	if n := len(transients(t, on)); n != 2 {
		t.Errorf("%d keys are loaded, the sessions only should go", n)
	}
}

// A bare TPM keeps the sessions of a connection that was lost. They are flushed once there is a
// connection again.
func TestAnIdleSessionOfALostConnectionIsFlushedLater(t *testing.T) {
	t.Parallel()
	machine := tpmtest.Swtpm(t)
	proxy := tpmtest.NewProxy(t, machine.Device())
	on := tpmtest.ConnectWith(t, tpm.Config{Device: proxy.Device(), SessionIdle: 20 * time.Millisecond})
	key := newKey(t, on)
	checkSigns(t, key)
	proxy.Disconnect()
	other, err := tpm.Open(t.Context(), tpm.Config{Device: machine.Device(), PlainSessions: true})
	if err != nil {
		t.Fatal(err)
	}
	create(t, other, tpm.KeyOptions{Algorithm: tpm.RSA2048}) // takes longer than the session may idle
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	await(t, on, loadedSessions, 0)
	checkSigns(t, key)
}

func TestCloseFlushesTheSessions(t *testing.T) {
	t.Parallel()
	machine := tpmtest.Swtpm(t) // has no resource manager that would do it
	for _, tt := range []struct {
		name   string
		before func(*tpmtest.Proxy)
	}{
		{"over the connection", func(*tpmtest.Proxy) {}},
		{"also if the connection is lost at this moment", func(p *tpmtest.Proxy) { p.Disconnect() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			proxy := tpmtest.NewProxy(t, machine.Device())
			first := tpmtest.Connect(t, proxy.Device())
			checkSigns(t, newKey(t, first))
			checkSigns(t, boundKey(t, first))
			if n := len(present(t, first, loadedSessions)); n != 2 {
				t.Fatalf("%d sessions are loaded", n)
			}
			tt.before(proxy)
			if err := first.Close(); err != nil {
				t.Fatal(err)
			}
			second, err := tpm.Open(t.Context(), tpm.Config{Device: machine.Device()})
			if err != nil {
				t.Fatal(err)
			}
			defer second.Close()
			if left := append(present(t, second, loadedSessions), transients(t, second)...); len(left) != 0 {
				t.Errorf("%x stayed", left)
			}
		})
	}
}

// Whatever became of a session, the next signature finds out and gets another.
func TestASessionThatIsGoneIsStartedAnew(t *testing.T) {
	t.Parallel()
	v := tpmtest.Bare(t)
	proxy := tpmtest.NewProxy(t, v.Device())
	on := tpmtest.Connect(t, proxy.Device())
	key, bound := newKey(t, on), boundKey(t, on)
	digest := sha256.Sum256([]byte("message"))
	for _, tt := range []struct {
		name        string
		happens     func(t *testing.T, k *tpm.Key)
		hmac, bound int // sessions that are started then
	}{
		{"nothing happened", func(*testing.T, *tpm.Key) {}, 0, 0},
		{"the TPM was reset", func(t *testing.T, _ *tpm.Key) {
			if err := v.Reset(t.Context()); err != nil {
				t.Fatal(err)
			}
		}, 1, 3}, // the key is found gone when its policy is executed, and loading it takes the other kind
		{"the connection was replaced", func(*testing.T, *tpm.Key) { proxy.Disconnect() }, 1, 2},
		{"somebody flushed it", func(t *testing.T, _ *tpm.Key) {
			for _, h := range present(t, on, loadedSessions) {
				if _, err := (tpm2.FlushContext{FlushHandle: h}).Execute(v); err != nil {
					t.Fatal(err)
				}
			}
		}, 1, 1},
		{"a command was left before its answer, which rolls the nonces", func(t *testing.T, k *tpm.Key) {
			ctx, cancel := context.WithCancel(t.Context())
			gone := make(chan struct{})
			proxy.Handle(first(tpm2.TPMCCSign, func(command []byte, forward tpmtest.Forward) ([]byte, error) {
				cancel()
				<-gone
				return forward(command)
			}))
			_, err := k.Sign(ctx, tpm2.TPMAlgECDSA, crypto.SHA256, digest[:])
			fails(t, err, context.Canceled)
			close(gone)
		}, 1, 1},
		{"an answer was not the TPM's", func(t *testing.T, k *tpm.Key) {
			proxy.Handle(first(tpm2.TPMCCSign, func(command []byte, forward tpmtest.Forward) ([]byte, error) {
				rsp, err := forward(command)
				rsp[len(rsp)-1] ^= 1
				return rsp, err
			}))
			_, err := sign(t, k)
			fails(t, err, tpm.ErrTampered)
		}, 1, 1},
		{"the TPM refused a command, which leaves the nonces alone", func(t *testing.T, k *tpm.Key) {
			proxy.Handle(refusing(1, tpm2.TPMRCScheme, tpm2.TPMCCSign))
			_, err := sign(t, k)
			fails(t, err, tpm2.TPMRCScheme)
		}, 0, 1},
	} {
		for kind, k := range map[string]*tpm.Key{"HMAC": key, "policy": bound} {
			t.Run(fmt.Sprintf("%s: %s", kind, tt.name), func(t *testing.T) {
				checkSigns(t, key) // both keys are loaded, both sessions are good
				checkSigns(t, bound)
				tt.happens(t, k)
				var wire traffic
				proxy.Handle(wire.under(nil))
				checkSigns(t, k)
				proxy.Handle(nil)
				want := tt.hmac
				if k == bound {
					want = tt.bound
				}
				if n := wire.count(tpm2.TPMCCStartAuthSession); n != want {
					t.Errorf("%d sessions were started, want %d", n, want)
				}
				checkSigns(t, key)
				checkSigns(t, bound)
				if n := len(present(t, on, loadedSessions)); n != 2 {
					t.Errorf("%d sessions are loaded", n)
				}
				if n := len(transients(t, on)); n != 2 {
					t.Errorf("%d keys are loaded", n)
				}
			})
		}
	}
}

func TestASessionOfACallerIsNotTakenForOurs(t *testing.T) {
	t.Parallel()
	v := tpmtest.Bare(t)
	on := tpmtest.Connect(t, v.Device())
	key := newKey(t, on)
	checkSigns(t, key)
	ours := present(t, on, loadedSessions)
	if err := v.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	var theirs tpm2.TPMHandle
	do(t, on, func(c transport.TPM) (err error) { theirs, err = startSession(c); return err })
	if len(ours) != 1 || theirs != ours[0] {
		t.Fatalf("ours was %x, theirs is %x", ours, theirs)
	}
	checkSigns(t, key)
	if now := present(t, on, loadedSessions); len(now) != 2 {
		t.Errorf("%x are loaded: a caller's session was flushed", now)
	}
}

// startSession starts a session with go-tpm alone. The caller flushes it.
func startSession(c transport.TPM) (tpm2.TPMHandle, error) {
	rsp, err := tpm2.StartAuthSession{
		TPMKey: tpm2.TPMRHNull, Bind: tpm2.TPMRHNull, NonceCaller: tpm2.TPM2BNonce{Buffer: make([]byte, 16)},
		SessionType: tpm2.TPMSEHMAC, Symmetric: tpm2.TPMTSymDef{Algorithm: tpm2.TPMAlgNull}, AuthHash: tpm2.TPMAlgSHA256,
	}.Execute(c)
	if err != nil {
		return 0, err
	}
	return rsp.SessionHandle, nil
}

// The TPM says once that it has no room for sessions, or that one is too old: somebody else's, as a
// rule.
func TestATPMOutOfSessionsIsTriedAgain(t *testing.T) {
	t.Parallel()
	on, proxy := throughProxy(t)
	key, bound := newKey(t, on), boundKey(t, on)
	for _, code := range []tpm2.TPMRC{tpm2.TPMRCContextGap, tpm2.TPMRCSessionMemory, tpm2.TPMRCSessionHandles} {
		for _, refused := range []tpm2.TPMCC{tpm2.TPMCCStartAuthSession, tpm2.TPMCCSign, tpm2.TPMCCPolicyPCR} {
			for kind, k := range map[string]*tpm.Key{"HMAC": key, "policy": bound} {
				for state, prepare := range map[string]func(){
					"there is no session": proxy.Disconnect,
					"there are sessions":  func() { checkSigns(t, key); checkSigns(t, bound) },
				} {
					t.Run(fmt.Sprintf("%v to command 0x%x, %s, %s", code, uint32(refused), kind, state), func(t *testing.T) {
						prepare()
						proxy.Handle(refusing(1, code, refused))
						checkSigns(t, k)
						proxy.Handle(nil)
						if n := len(present(t, on, loadedSessions)); n > 2 {
							t.Errorf("%d sessions are loaded", n)
						}
					})
				}
			}
		}
	}
}

func TestAllSessionsAreTaken(t *testing.T) {
	t.Parallel()
	on := tpmtest.Connect(t, tpmtest.Bare(t).Device())
	key, bound := newKey(t, on), boundKey(t, on)
	checkSigns(t, key)
	checkSigns(t, bound)
	var taken []tpm2.TPMHandle
	do(t, on, func(c transport.TPM) error {
		for range 3 { // all there are: ours give way
			h, err := startSession(c)
			if err != nil {
				return err
			}
			taken = append(taken, h)
		}
		return nil
	})
	for _, k := range []*tpm.Key{key, bound} {
		_, err := sign(t, k)
		fails(t, err, tpm2.TPMRCSessionMemory)
	}
	do(t, on, func(c transport.TPM) error { flush(t, c, taken[0]); return nil })
	for range 3 { // they take turns in the one place
		checkSigns(t, key)
		checkSigns(t, bound)
	}
}

// rude is another program that uses sessions, 260 of them, each for a moment. The reference TPM has
// room for 252 between the newest session that is put aside and the oldest.
func rude(t *testing.T, manager *tpmtest.Manager) error {
	t.Helper()
	other, err := tpm.Open(t.Context(), tpm.Config{Device: manager.Device()})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	return other.Do(t.Context(), func(c transport.TPM) error {
		for range 260 {
			h, err := startSession(c)
			if err != nil {
				return err
			}
			flush(t, c, h)
		}
		return nil
	})
}

func TestOurSessionsDoNotHoldBackOtherPrograms(t *testing.T) {
	t.Parallel()
	t.Run("a session that is kept for long does, so the danger is real", func(t *testing.T) {
		manager := tpmtest.NewManager(t, tpmtest.Bare(t).Device())
		on := tpmtest.ConnectWith(t, tpm.Config{Device: manager.Device(), SessionIdle: time.Hour})
		key, bound := newKey(t, on), boundKey(t, on)
		for range 2 {
			checkSigns(t, key)
			checkSigns(t, bound)
			fails(t, rude(t, manager), tpm2.TPMRCContextGap)
		}
		checkSigns(t, key) // ours are the oldest, and make room by being used
		checkSigns(t, bound)
	})
	t.Run("one that is flushed when nobody uses it does not", func(t *testing.T) {
		v := tpmtest.Bare(t)
		manager := tpmtest.NewManager(t, v.Device())
		on := tpmtest.ConnectWith(t, tpm.Config{Device: manager.Device(), SessionIdle: time.Millisecond})
		key, bound := newKey(t, on), boundKey(t, on)
		checkSigns(t, key)
		checkSigns(t, bound)
		until(t, func() bool {
			saved, err := handles(v, savedSessions)
			return err == nil && len(saved) == 0
		}, func() string { return "a session stays" })
		if err := rude(t, manager); err != nil {
			t.Error(err)
		}
		checkSigns(t, key)
		checkSigns(t, bound)
	})
}

func TestAuthorizationInASessionIsNotAPassword(t *testing.T) {
	t.Parallel()
	on, proxy := throughProxy(t)
	key := load(t, on, create(t, on, tpm.KeyOptions{AuthValue: secret.New("value")}), tpm.LoadOptions{AuthValue: secret.New("value")})
	proxy.Handle(func(command []byte, forward tpmtest.Forward) ([]byte, error) {
		if codeOf(command) == tpm2.TPMCCSign && handleOf(command[8:]) == tpm2.TPMRSPW {
			t.Error("a password was sent")
		}
		return forward(command)
	})
	checkSigns(t, key)
}
