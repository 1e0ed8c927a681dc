package daemon_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// TestFaultsThatNeedARestartAreFound: a command that the TPM never answers has the turn stand
// still. While a command merely takes its time, or the TPM is gone, nothing is found: tokens that
// are in memory are served.
func TestFaultsThatNeedARestartAreFound(t *testing.T) {
	s := newStage(t)
	proxy := tpmtest.NewProxy(t, s.cfg.TPM)
	s.cfg.TPM = proxy.Device()
	var hangs, gone atomic.Bool
	hung, let := make(chan struct{}), make(chan struct{})
	proxy.Handle(func(command []byte, forward tpmtest.Forward) ([]byte, error) {
		switch {
		case gone.Load():
			return nil, tpmtest.ErrHangUp
		case hangs.Swap(false):
			close(hung)
			<-let
		}
		return forward(command)
	})
	var ahead atomic.Int64
	s.now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) } // with the monotonic clock
	s.start()
	s.mustToken()
	works := func(when, finds string) {
		t.Helper()
		err := s.daemon.Works(t.Context())
		if finds == "" && err != nil || finds != "" && (err == nil || !strings.Contains(err.Error(), finds)) {
			t.Errorf("%s: found %v, want %q", when, err, finds)
		}
	}
	works("with a TPM", "")
	gone.Store(true)
	_, _ = s.client.Capabilities(t.Context())
	works("without a TPM", "")
	gone.Store(false)

	hangs.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		_, _ = client.New(client.Config{Socket: s.cfg.Socket}).Status(ctx)
	}()
	<-hung
	works("while a command is under way", "")
	ahead.Store(int64(4 * time.Minute))
	works("while a command is under way for ever", "a turn at the TPM has stood still for 4m0s")
	close(let)
	<-asked
	cancel()
	if _, err := s.client.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	works("when it has been answered", "")

	s.stop()
	works("when it has ended", "nothing is served")
}
