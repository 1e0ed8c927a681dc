package binding_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/keyagent/keyagent/acquire/binding"
	"github.com/keyagent/keyagent/acquire/imds"
)

func TestIMDSIsAskedOnceAMinute(t *testing.T) {
	w := newWorld(t)
	m := w.start()
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if _, err := m.Certificate(t.Context(), system); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	w.advance(59 * time.Second)
	w.certificate(t, m)
	if w.looks != 1 {
		t.Errorf("IMDS was asked %d times in a minute, want once", w.looks)
	}
	first := w.certificate(t, m)
	w.meta.ClientID = "8b0c3d0e-0000-4000-8000-00000000c1d2"
	w.advance(time.Second)
	if again := w.certificate(t, m); again.ClientID == first.ClientID || w.looks != 2 {
		t.Errorf("after a minute: client %s after %d requests, want the identity that the VM has now", again.ClientID, w.looks)
	}
}

func TestIMDSIsAskedAtOnceWhereItsLastAnswerMayBeWrong(t *testing.T) {
	t.Run("after a failure", func(t *testing.T) {
		w := newWorld(t)
		m := w.start()
		w.metaErr = imds.ErrUnreachable
		if _, err := m.Certificate(t.Context(), system); !errors.Is(err, imds.ErrUnreachable) {
			t.Errorf("got %v", err)
		}
		w.metaErr = nil
		w.certificate(t, m)
	})
	t.Run("after a rejection", func(t *testing.T) {
		w := newWorld(t)
		m := w.start()
		rejected := w.certificate(t, m)
		w.meta.ClientID = "8b0c3d0e-0000-4000-8000-00000000c1d2"
		other, err := m.Replace(t.Context(), system, rejected, binding.ReasonCertificate)
		if err != nil || other.ClientID != w.meta.ClientID {
			t.Errorf("got %+v, %v, want a certificate of the identity that the VM has now", other, err)
		}
	})
	t.Run("after the clock was set back", func(t *testing.T) {
		w := newWorld(t)
		m := w.start()
		w.certificate(t, m)
		w.advance(-30 * time.Second)
		w.certificate(t, m)
		if w.looks != 2 {
			t.Errorf("IMDS was asked %d times, want twice", w.looks)
		}
	})
}
