package tpm_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

const place tpm2.TPMHandle = 0x81010007

func mustPersist(t *testing.T, k *tpm.Key, at tpm2.TPMHandle) {
	t.Helper()
	if err := k.Persist(t.Context(), at); err != nil {
		t.Fatal(err)
	}
}

// evictAt removes what is at a persistent handle, with go-tpm alone.
func evictAt(t *testing.T, on *tpm.TPM, at tpm2.TPMHandle) {
	t.Helper()
	_, name, err := on.ReadPublic(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	do(t, on, func(c transport.TPM) error {
		_, err := tpm2.EvictControl{
			Auth: tpm2.TPMRHOwner, ObjectHandle: tpm2.NamedHandle{Handle: at, Name: tpm2.TPM2BName{Buffer: name}}, PersistentHandle: at,
		}.Execute(c)
		return err
	})
}

func TestAPersistentKeyNeedsNoSlot(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(testing.TB) tpmtest.Machine{"simulator": tpmtest.BareMachine, "swtpm": tpmtest.SwtpmMachine} {
		t.Run(name, func(t *testing.T) {
			m := start(t)
			proxy := tpmtest.NewProxy(t, m.Device())
			on := tpmtest.Connect(t, proxy.Device())
			var wire traffic
			proxy.Handle(wire.under(nil))
			for i, tt := range []struct {
				name    string
				options tpm.KeyOptions
			}{
				{"nothing else", tpm.KeyOptions{}},
				{"with an authorization value", tpm.KeyOptions{AuthValue: secret.New("pw")}},
				{"bound to PCRs", tpm.KeyOptions{PCRs: selection(7), AuthValue: secret.New("pw")}},
			} {
				t.Run(tt.name, func(t *testing.T) {
					at := place + tpm2.TPMHandle(i) // #nosec G115 -- three
					file := create(t, on, tt.options)
					options := tpm.LoadOptions{AuthValue: tt.options.AuthValue, Persistent: at}
					key := load(t, on, file, options) // it is not there yet
					for range 2 {
						before := wire.count(tpm2.TPMCCEvictControl)
						mustPersist(t, key, at)
						if again := wire.count(tpm2.TPMCCEvictControl) - before; again > 1 {
							t.Errorf("%d times", again)
						}
					}
					if n := wire.count(tpm2.TPMCCEvictControl); n != i+1 {
						t.Errorf("TPM2_EvictControl was sent %d times for %d keys", n, i+1)
					}
					loads := wire.count(tpm2.TPMCCLoad)
					check := func(k *tpm.Key) {
						t.Helper()
						checkSigns(t, k)
						if left := transients(t, on); len(left) != 0 {
							t.Errorf("%x are loaded", left)
						}
					}
					check(key)
					second := load(t, on, file, options) // as the next start of the agent does
					check(second)
					m.Reboot(t)
					check(key)
					check(second)
					_ = second.Close() // always nil
					check(key)         // closing one is not the end of the other
					if n := wire.count(tpm2.TPMCCLoad) - loads; n != 0 {
						t.Errorf("it was loaded %d times", n)
					}
				})
			}
		})
	}
}

func TestPersistRefuses(t *testing.T) {
	t.Parallel()
	on := tpmtest.Open(t)
	key := newKey(t, on)
	do(t, on, func(c transport.TPM) error { return persistAt(t, c, tpm2.ECCSRKTemplate, 0x81010001) })
	before := present(t, on, persistent)
	for _, tt := range []struct {
		name string
		at   tpm2.TPMHandle
		want string
	}{
		{"the place of another object", 0x81010001, "another object is there"},
		{"the storage root's place", tpm.HandleSRK, "is not between"},
		{"the platform's places", 0x81800000, "is not between"},
		{"a transient handle", 0x80000000, "is not between"},
		{"an NV index", 0x01400001, "is not between"},
		{"nothing", 0, "is not between"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := key.Persist(t.Context(), tt.at); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v does not say %q", err, tt.want)
			}
			if now := present(t, on, persistent); !slices.Equal(before, now) {
				t.Errorf("at %x were objects, now at %x", before, now)
			}
			checkSigns(t, key)
		})
	}
	t.Run("a second place", func(t *testing.T) {
		mustPersist(t, key, place)
		if err := key.Persist(t.Context(), place+1); err == nil || !strings.Contains(err.Error(), "already") {
			t.Errorf("got %v", err)
		}
		checkSigns(t, key)
	})
}

// The file is the truth: whatever becomes of the persistent handle, the key signs.
func TestAPersistentKeyThatIsNotThereAnyMore(t *testing.T) {
	t.Parallel()
	on := tpmtest.Connect(t, tpmtest.Bare(t).Device())
	stranger := create(t, on, tpm.KeyOptions{})
	file := create(t, on, tpm.KeyOptions{})
	for _, tt := range []struct {
		name    string
		happens func(t *testing.T)
	}{
		{"somebody evicted it", func(*testing.T) {}},
		{"somebody put another key there", func(t *testing.T) {
			k := load(t, on, stranger, tpm.LoadOptions{})
			mustPersist(t, k, place)
			_ = k.Close() // always nil
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			key := load(t, on, file, tpm.LoadOptions{})
			mustPersist(t, key, place)
			evictAt(t, on, place)
			tt.happens(t)
			checkSigns(t, key)
			checkSigns(t, load(t, on, file, tpm.LoadOptions{Persistent: place}))
			if n := len(present(t, on, loadedSessions)); n > 1 {
				t.Errorf("%d sessions are loaded", n)
			}
		})
	}
}

func TestUnpersistLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	on := tpmtest.Open(t)
	key, other := newKey(t, on), newKey(t, on)
	mustPersist(t, key, place)
	mustPersist(t, other, place+1)
	before := present(t, on, persistent)
	if err := on.Unpersist(t.Context(), place+1, key.Name()); err == nil || !strings.Contains(err.Error(), "another object") {
		t.Errorf("got %v", err)
	}
	if err := on.Unpersist(t.Context(), tpm.HandleSRK, key.Name()); err == nil {
		t.Error("the storage root is not the key")
	}
	if err := on.Unpersist(t.Context(), place+2, key.Name()); err != nil {
		t.Errorf("nothing was there: %v", err)
	}
	if now := present(t, on, persistent); !slices.Equal(before, now) {
		t.Errorf("at %x were objects, now at %x", before, now)
	}
	for range 2 { // the second time, it is gone
		if err := on.Unpersist(t.Context(), place, key.Name()); err != nil {
			t.Fatal(err)
		}
	}
	if now := present(t, on, persistent); slices.Contains(now, place) || !slices.Contains(now, place+1) {
		t.Errorf("objects are at %x", now)
	}
	checkSigns(t, key) // from its file
	checkSigns(t, other)
}

func TestTheMemoryForPersistentKeysIsFull(t *testing.T) {
	t.Parallel()
	on := tpmtest.Connect(t, tpmtest.Bare(t).Device())
	for i := range tpm2.TPMHandle(20) {
		key := newKey(t, on)
		err := key.Persist(t.Context(), place+i)
		checkSigns(t, key)
		if err == nil {
			continue
		}
		if !errors.Is(err, tpm2.TPMRCNVSpace) || !strings.Contains(err.Error(), "tpm2_getcap handles-persistent") {
			t.Errorf("got %v", err)
		}
		return
	}
	t.Error("there was room for 20")
}

func TestAnOwnerWithAPassword(t *testing.T) {
	t.Parallel()
	on := tpmtest.Open(t)
	key := newKey(t, on)
	do(t, on, func(c transport.TPM) error {
		_, err := tpm2.HierarchyChangeAuth{
			AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}, NewAuth: tpm2.TPM2BAuth{Buffer: []byte("pw")},
		}.Execute(c)
		return err
	})
	if err := key.Persist(t.Context(), place); err == nil || !strings.Contains(err.Error(), "owner hierarchy has a password") {
		t.Errorf("got %v", err)
	}
	checkSigns(t, key)
	checkSigns(t, newKey(t, on)) // under the persistent storage root, which has none
}
