package binding_test

import (
	"errors"
	"testing"

	"github.com/keyagent/keyagent/acquire/imds"
)

func TestIMDSIsAskedEachTimeWhetherTheIdentityIsStillTheSame(t *testing.T) {
	w := newWorld(t)
	m := w.start()
	first := w.certificate(t, m)
	w.certificate(t, m)
	if w.looks != 2 {
		t.Errorf("IMDS was asked %d times for two certificates, want twice", w.looks)
	}
	w.meta.ClientID = "8b0c3d0e-0000-4000-8000-00000000c1d2"
	if again := w.certificate(t, m); again.ClientID == first.ClientID {
		t.Errorf("got a certificate of client %s, which the VM no longer has", again.ClientID)
	}
	w.metaErr = imds.ErrUnreachable
	if _, err := m.Certificate(t.Context(), system); !errors.Is(err, imds.ErrUnreachable) {
		t.Errorf("got %v where IMDS does not answer", err)
	}
	w.metaErr = nil
	w.certificate(t, m)
}
