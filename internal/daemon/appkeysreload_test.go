package daemon_test

import (
	"encoding/binary"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// loadedObjects counts the objects that a client has in the TPM behind a proxy. It is safe for
// concurrent use.
type loadedObjects struct {
	mu      sync.Mutex
	handles map[uint32]bool
}

// handle is a [tpmtest.Handler].
func (l *loadedObjects) handle(command []byte, forward tpmtest.Forward) ([]byte, error) {
	answer, err := forward(command)
	if err != nil || binary.BigEndian.Uint32(answer[6:]) != 0 {
		return answer, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch tpm2.TPMCC(tpmtest.CommandCode(command)) {
	case tpm2.TPMCCLoad:
		l.handles[binary.BigEndian.Uint32(answer[10:])] = true
	case tpm2.TPMCCFlushContext:
		delete(l.handles, binary.BigEndian.Uint32(command[10:]))
	}
	return answer, nil
}

func (l *loadedObjects) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.handles)
}

// TestAKeyThatNoIdentityHasAnyMoreIsUnloaded: a TPM has few places.
func TestAKeyThatNoIdentityHasAnyMoreIsUnloaded(t *testing.T) {
	s := newStage(t)
	proxy, loaded := tpmtest.NewProxy(t, s.cfg.TPM), &loadedObjects{handles: map[uint32]bool{}}
	proxy.Handle(loaded.handle)
	s.cfg.TPM = proxy.Device()
	e := newExpiringOn(t, s, 365)
	look := func() {
		e.after(10 * time.Minute)
		s.status() // which has a turn at the TPM after what is done there in the background
	}
	ask := func() {
		t.Helper()
		// A refusal will do: it needs the key as well.
		_, _ = e.client.Token(t.Context(), client.TokenRequest{Identity: "app-cert", Resource: resource, ForceRefresh: true})
	}
	want := func(n int, when string) {
		t.Helper()
		if got := loaded.count(); got != n {
			t.Errorf("%s: %d objects are loaded, want %d", when, got, n)
		}
	}
	without := func(c *config.Config) {
		c.Identities = slices.DeleteFunc(c.Identities, func(id config.Identity) bool { return id.Name == "app-cert" })
		c.Rules[0].Identities = slices.DeleteFunc(c.Rules[0].Identities, func(name string) bool { return name == "app-cert" })
	}

	before := loaded.count()
	ask()
	want(before+1, "after a request")
	look()
	look()
	want(before+1, "while the identity is there")
	e.mustReload(without)
	want(before+1, "at the reload, when requests may still be under way")
	look()
	want(before+1, "at the first look")
	look()
	want(before, "at the second look")

	e.mustReload(nothing)
	ask()
	want(before+1, "after a request of the identity that is there again")
	e.mustReload(without)
	look()
	e.mustReload(nothing)
	look()
	look()
	want(before+1, "after it was away for a moment")
}
