package daemon_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// What was obtained while the TPM answered says nothing about what it signs when it does not.
func TestCapabilitiesSayThatTheTPMDoesNotAnswer(t *testing.T) {
	s := newStage(t)
	proxy := tpmtest.NewProxy(t, s.cfg.TPM)
	s.cfg.TPM = proxy.Device()
	var gone atomic.Bool
	proxy.Handle(func(command []byte, forward tpmtest.Forward) ([]byte, error) {
		if gone.Load() {
			return nil, tpmtest.ErrHangUp
		}
		return forward(command)
	})
	s.start()
	s.mustToken()
	want := func(strongest, signed string) {
		t.Helper()
		if err := s.platform.Clock().Advance(10 * time.Second); err != nil {
			t.Fatal(err)
		}
		c, err := s.client.Capabilities(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		form := ""
		for _, f := range c.Forms {
			if f.Name == "certificate-signed" {
				form = f.Reached()
			}
		}
		if c.StrongestBinding != strongest || form != signed {
			t.Errorf("strongest binding %q (%s), certificate-signed %q; want %q, %q", c.StrongestBinding, c.Reason, form, strongest, signed)
		}
	}
	want("attested", "yes")
	gone.Store(true)
	want("none", "no")
	gone.Store(false)
	want("attested", "yes")
}
