package daemon_test

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/internal/agenttest"
	"github.com/keyagent/keyagent/internal/waiting"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// timers run down when a test says so. They are safe for concurrent use.
type timers struct {
	mu      sync.Mutex
	pending map[*func()]bool
}

// after is AfterFunc of a [waiting.Config].
func (c *timers) after(_ time.Duration, f func()) (stop func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := &f
	c.pending[key] = true
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		was := c.pending[key]
		delete(c.pending, key)
		return was
	}
}

// runDown is the moment at which all that is waited for has taken long.
func (c *timers) runDown() {
	c.mu.Lock()
	due := c.pending
	c.pending = map[*func()]bool{}
	c.mu.Unlock()
	for f := range due {
		(*f)()
	}
}

// tpmThatHolds is a TPM that does not answer commands to sign until it is told to.
type tpmThatHolds struct {
	held    chan struct{} // an element for each
	release chan struct{} // closed: it answers
}

func (h *tpmThatHolds) handle(command []byte, forward tpmtest.Forward) ([]byte, error) {
	if tpm2.TPMCC(tpmtest.CommandCode(command)) == tpm2.TPMCCSign {
		select {
		case <-h.release:
		default:
			h.held <- struct{}{}
			<-h.release
		}
	}
	return forward(command)
}

// TestAWaitForTheTPMHasAName: one request waits for the TPM's answer, the next for its turn there.
// Log and status name both.
func TestAWaitForTheTPMHasAName(t *testing.T) {
	s := newStage(t)
	clock := &timers{pending: map[*func()]bool{}}
	s.waits = waiting.New(waiting.Config{Logger: slog.New(slog.NewTextHandler(&s.log, nil)), Now: s.platform.Clock().Now, AfterFunc: clock.after})
	proxy := tpmtest.NewProxy(t, s.cfg.TPM)
	s.cfg.TPM = proxy.Device()
	s.start()
	holds := &tpmThatHolds{make(chan struct{}, 8), make(chan struct{})}
	release := sync.OnceFunc(func() { close(holds.release) })
	t.Cleanup(release)
	proxy.Handle(holds.handle)

	var requests sync.WaitGroup
	ask := func(identity string) {
		requests.Go(func() {
			if _, err := s.client.Token(t.Context(), client.TokenRequest{Identity: identity, Resource: resource}); err != nil {
				t.Errorf("identity %s: %v", identity, err)
			}
		})
	}
	told := func(what string) {
		t.Helper()
		clock.runDown()
		if log := s.log.String(); strings.Count(log, `level=WARN msg="this takes long: it is still waited for" for="`+what+`" since=`) != 1 {
			t.Errorf("the log does not have %q once:\n%s", what, log)
		}
		// Status asks the TPM as well. Whoever has gone away does not wait for that.
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		waits := s.daemon.Status(gone).Waiting
		if !slices.ContainsFunc(waits, func(w wire.WaitStatus) bool { return w.What == what && w.Count == 1 && !w.Since.IsZero() }) {
			t.Errorf("status has %+v, want %q", waits, what)
		}
	}

	ask("vm")
	<-holds.held
	told("the TPM")
	ask("vm-user")
	agenttest.SawWait(t, "a turn at the TPM", func() []string { return names(s.waits.Now()) })
	told("a turn at the TPM")

	release()
	requests.Wait()
	if long := s.waits.Long(); len(long) != 0 {
		t.Errorf("everybody was served, and status would have %+v", long)
	}
	for _, what := range []string{"the TPM", "a turn at the TPM"} {
		if log := s.log.String(); strings.Count(log, `level=INFO msg="a long wait is over" for="`+what+`"`) != 1 {
			t.Errorf("the log does not say once that the wait for %q is over:\n%s", what, log)
		}
	}
}

func names(waits []waiting.Wait) (list []string) {
	for _, w := range waits {
		list = append(list, w.What)
	}
	return list
}
