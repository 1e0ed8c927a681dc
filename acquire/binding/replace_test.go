package binding_test

import (
	"bytes"
	"crypto/x509"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyagent/keyagent/acquire/binding"
	"github.com/keyagent/keyagent/acquire/imds"
)

func (w *world) replace(t *testing.T, m *binding.Manager, rejected *binding.Certificate) *binding.Certificate {
	t.Helper()
	c, err := m.Replace(t.Context(), system, rejected, binding.ReasonCertificate)
	if err != nil {
		t.Fatalf("%v\n%s", err, w.log.String())
	}
	return c
}

// paused wants a pause of this length.
func paused(t *testing.T, w *world, err error, want time.Duration) {
	t.Helper()
	p, ok := errors.AsType[*binding.PausedError](err)
	if !ok || p.RetryAfter != want || !p.Until.Equal(w.now().Add(want)) || !strings.Contains(err.Error(), want.String()) {
		t.Errorf("got %v, want a pause of %v", err, want)
	}
}

func TestARejectedCertificateIsReplacedPastIMDSCache(t *testing.T) {
	w := newWorld(t)
	m := w.start()
	first := w.certificate(t, m)
	second := w.replace(t, m, first)
	if second.Thumbprint() == first.Thumbprint() || m.Current(system) != second || w.certificate(t, m) != second {
		t.Error("the rejected certificate was not replaced")
	}
	if r := w.requests(); len(r) != 2 || r[0].bypass || !r[1].bypass {
		t.Errorf("got %+v, want a second request that bypasses the cache", r)
	}
	if len(w.attestor.discarded) != 0 {
		t.Error("the attestation token was dropped, which nobody blamed")
	}
	if c := w.certificate(t, w.start()); c.Thumbprint() != second.Thumbprint() {
		t.Error("not the one that a restart finds")
	}
}

func TestOneRejectionThatManyMeetCausesOneIssuance(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, w *world) {
		m := w.start()
		first := w.certificate(t, m)
		got := make([]*binding.Certificate, 50)
		var callers sync.WaitGroup
		for i := range got {
			callers.Go(func() {
				var err error
				if got[i], err = m.Replace(t.Context(), system, first, binding.ReasonCertificate); err != nil {
					t.Error(err)
				}
			})
		}
		callers.Wait()
		for _, c := range got {
			if c != got[0] || c == first {
				t.Error("not all got the one new certificate")
			}
		}
		if w.count() != 2 {
			t.Errorf("%d issuances, want 2", w.count())
		}
	})
}

func TestALateRejectionOfAnOlderCertificateCostsNothing(t *testing.T) {
	w := newWorld(t)
	m := w.start()
	first := w.certificate(t, m)
	second := w.replace(t, m, first)
	if c := w.replace(t, m, first); c != second || w.count() != 2 {
		t.Errorf("%d issuances, want the current certificate", w.count())
	}
	// After a restart, whose memory knows of neither.
	if c := w.replace(t, w.start(), first); c.Thumbprint() != second.Thumbprint() || w.count() != 2 {
		t.Errorf("%d issuances, want the current certificate from disk", w.count())
	}
	if c := w.certificate(t, w.start()); c.Thumbprint() != second.Thumbprint() || w.count() != 2 {
		t.Errorf("%d issuances, want the disk as it was", w.count())
	}
}

func TestALateRejectionDoesNotHideTheOneThatIsPending(t *testing.T) {
	w := newWorld(t)
	m := w.start()
	first := w.certificate(t, m)
	second := w.replace(t, m, first)
	for _, rejected := range []*binding.Certificate{second, first, second} {
		_, err := m.Replace(t.Context(), system, rejected, binding.ReasonCertificate)
		paused(t, w, err, 30*time.Second)
	}
	if c := w.certificate(t, w.start()); c.Thumbprint() == first.Thumbprint() || c.Thumbprint() == second.Thumbprint() {
		t.Error("a rejected certificate is served after a restart")
	}
}

func TestARejectionBeforeTheStateFileWasReadHolds(t *testing.T) {
	w := newWorld(t)
	first := w.certificate(t, w.start())
	w.fail(errDown)
	if c, err := w.start().Replace(t.Context(), system, first, binding.ReasonCertificate); !errors.Is(err, errDown) {
		t.Errorf("got %v, %v", c, err)
	}
	w.fail(nil)
	if c := w.certificate(t, w.start()); c.Thumbprint() == first.Thumbprint() {
		t.Error("served after a restart")
	}
}

func TestTheKeyIsAttestedAnewIfTheAttestationIsBlamed(t *testing.T) {
	w := newWorld(t)
	m := w.start()
	first := w.certificate(t, m)
	w.fail(errDown)
	if _, err := m.Replace(t.Context(), system, first, binding.ReasonAttestation); !errors.Is(err, errDown) {
		t.Fatalf("got %v", err)
	}
	w.fail(nil)
	w.advance(30 * time.Second)
	w.certificate(t, m)
	r := w.requests()
	if len(r) != 3 || r[0].token != "attestation-token-0" || r[1].token != "attestation-token-1" || r[2].token != "attestation-token-1" {
		t.Errorf("got %+v, want a new token from the first replacement on, and one only", r)
	}
	if d := w.attestor.discarded; len(d) != 1 || d[0] != metadata.AttestationEndpoint {
		t.Errorf("discarded %q", d)
	}
}

func TestARejectedCertificateIsNeverServedAgain(t *testing.T) {
	for _, tc := range []struct {
		name    string
		restart bool
	}{{"from memory", false}, {"after a restart", true}} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			m := w.start()
			first := w.certificate(t, m)
			w.fail(errDown)
			if _, err := m.Replace(t.Context(), system, first, binding.ReasonCertificate); !errors.Is(err, errDown) {
				t.Fatalf("got %v", err)
			}
			if tc.restart {
				m = w.start()
			}
			w.advance(30 * time.Second)
			if c, err := m.Certificate(t.Context(), system); !errors.Is(err, errDown) || m.Current(system) != nil {
				t.Errorf("got %v, %v", c, err)
			}
			w.fail(nil)
			w.advance(time.Minute)
			if c := w.certificate(t, m); c.Thumbprint() == first.Thumbprint() {
				t.Error("served again")
			}
			for _, r := range w.requests()[1:] {
				if !r.bypass {
					t.Errorf("%+v does not bypass IMDS' cache", r)
				}
			}
		})
	}
}

// IMDS may have a cache of its own and may not know how to bypass it.
func TestTheRejectedCertificateIsNotTakenFromIMDSEither(t *testing.T) {
	for _, tc := range []struct {
		name  string
		again func(t *testing.T, w *world, m *binding.Manager, first *binding.Certificate) error
	}{
		{"when it is replaced", func(t *testing.T, _ *world, m *binding.Manager, first *binding.Certificate) error {
			_, err := m.Replace(t.Context(), system, first, binding.ReasonCertificate)
			return err
		}},
		{"when a restart replaces it", func(t *testing.T, w *world, m *binding.Manager, first *binding.Certificate) error {
			w.metaErr = errDown // so that there is no attempt before the restart
			if _, err := m.Replace(t.Context(), system, first, binding.ReasonCertificate); !errors.Is(err, errDown) {
				t.Fatal(err)
			}
			w.metaErr = nil
			_, err := w.start().Certificate(t.Context(), system)
			return err
		}},
		{"when its successor has expired after a restart", func(t *testing.T, w *world, m *binding.Manager, first *binding.Certificate) error {
			answer := w.answer
			w.answer = nil
			second := w.replace(t, m, first)
			w.answer = answer
			m = w.start()
			w.certificate(t, m)
			w.advance(second.EffectiveExpiry().Sub(w.now()) - binding.HardStop)
			_, err := m.Certificate(t.Context(), system)
			return err
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.edit = func(c *x509.Certificate) { c.ExtraExtensions = nil }
			m := w.start()
			first := w.certificate(t, m)
			w.edit = func(c *x509.Certificate) { c.ExtraExtensions[0] = tokenNotAfter(t, w.now().Add(time.Hour)) }
			w.answer = func(c *imds.Credential) { c.Certificate = first.Leaf.Raw }
			if err := tc.again(t, w, m, first); !errors.Is(err, imds.ErrBadAnswer) || !strings.Contains(err.Error(), "again that Entra rejected") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestReplacementsKeepPauses(t *testing.T) {
	w := newWorld(t)
	m := w.start()
	current := w.certificate(t, m)
	for _, pause := range []time.Duration{30 * time.Second, time.Minute, 2 * time.Minute} {
		current = w.replace(t, m, current)
		_, err := m.Replace(t.Context(), system, current, binding.ReasonCertificate)
		paused(t, w, err, pause)
		w.advance(pause - time.Second)
		_, err = m.Certificate(t.Context(), system) // the way around
		paused(t, w, err, time.Second)
		w.advance(time.Second)
	}
	if w.count() != 4 {
		t.Errorf("%d issuances, want 4", w.count())
	}
	current = w.certificate(t, m)
	w.advance(9 * time.Minute) // a pause of 4 minutes, and more than 4 minutes of peace
	current = w.replace(t, m, current)
	_, err := m.Replace(t.Context(), system, current, binding.ReasonCertificate)
	paused(t, w, err, 30*time.Second)
}

func TestAFailedReplacementCounts(t *testing.T) {
	w := newWorld(t)
	m := w.start()
	first := w.certificate(t, m)
	w.fail(errDown)
	for _, pause := range []time.Duration{30 * time.Second, time.Minute} {
		if _, err := m.Replace(t.Context(), system, first, binding.ReasonCertificate); !errors.Is(err, errDown) {
			t.Fatal(err)
		}
		_, err := m.Replace(t.Context(), system, first, binding.ReasonCertificate)
		paused(t, w, err, pause)
		w.advance(pause)
	}
	if n := len(w.requests()); n != 3 {
		t.Errorf("%d requests, want 3", n)
	}
}

func TestPausesOfOneIdentityDoNotHoldUpAnother(t *testing.T) {
	w := newWorld(t)
	m := w.start()
	app := imds.Selector{ClientID: metadata.ClientID}
	first, other := w.certificate(t, m), w.certificateOf(t, m, app)
	w.replace(t, m, first)
	if c, err := m.Replace(t.Context(), app, other, binding.ReasonCertificate); err != nil || c == other {
		t.Errorf("got %v", err)
	}
}

func TestARejectionDuringARenewalIsSettledByIt(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, w *world) {
		m := w.start()
		first := w.certificate(t, m)
		w.hold = make(chan struct{})
		w.run(t, m)
		passUntil(first.RenewAt())
		var caller sync.WaitGroup
		caller.Go(func() {
			if c, err := m.Replace(t.Context(), system, first, binding.ReasonCertificate); err != nil || c == first {
				t.Errorf("got %v", err)
			}
		})
		synctest.Wait()
		if m.Current(system) != nil {
			t.Error("the rejected certificate is still in use")
		}
		w.hold <- struct{}{}
		caller.Wait()
		if w.count() != 2 {
			t.Errorf("%d issuances, want 2", w.count())
		}
	})
}

func TestARejectionOnAFullDiskRemovesTheFile(t *testing.T) {
	if !inAProcessOfItsOwn(t) {
		return
	}
	w := newWorld(t)
	m := w.start()
	first := w.certificate(t, m)
	w.metaErr = errDown // so that there is no attempt before the restart
	fillDisk(t, func() {
		if _, err := m.Replace(t.Context(), system, first, binding.ReasonCertificate); !errors.Is(err, errDown) {
			t.Errorf("got %v", err)
		}
	})
	if _, err := os.Stat(w.file()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the state file: %v", err)
	}
	w.metaErr = nil
	if c := w.certificate(t, w.start()); c.Thumbprint() == first.Thumbprint() {
		t.Error("served again after a restart")
	}
}

// inAProcessOfItsOwn has a test run by a child process, and reports true in that: go test's own
// files may grow meanwhile.
func inAProcessOfItsOwn(t *testing.T) bool {
	t.Helper()
	const variable = "KEYAGENT_TEST_OWN_PROCESS"
	if os.Getenv(variable) == t.Name() {
		return true
	}
	child := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v") // #nosec G204 -- this test binary
	child.Env = append(os.Environ(), variable+"="+t.Name())
	if out, err := child.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

// fillDisk does something while no file can grow.
func fillDisk(t *testing.T, do func()) {
	t.Helper()
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 0, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	do()
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
}

// A doubt, which a machine in between can cause, does not take a certificate out of use, nor leave
// a mark on disk.
func TestADoubtedCertificateServesOnUntilThereIsAnother(t *testing.T) {
	w := newWorld(t)
	m := w.start()
	doubted := w.certificate(t, m)
	w.issueErr = imds.ErrUnreachable
	if _, err := m.Replace(t.Context(), system, doubted, binding.ReasonDoubt); !errors.Is(err, imds.ErrUnreachable) {
		t.Errorf("got %v", err)
	}
	if again := w.certificate(t, m); again.Thumbprint() != doubted.Thumbprint() {
		t.Error("the certificate in doubt is no longer in use, and there is no other")
	}
	w.issueErr = nil
	if _, err := m.Replace(t.Context(), system, doubted, binding.ReasonDoubt); !isPaused(err) {
		t.Errorf("got %v right after a failure, want a pause", err)
	}
	w.advance(time.Minute)
	other, err := m.Replace(t.Context(), system, doubted, binding.ReasonDoubt)
	if err != nil || other.Thumbprint() == doubted.Thumbprint() {
		t.Fatalf("got %v, want another certificate", err)
	}
	if late, err := m.Replace(t.Context(), system, doubted, binding.ReasonDoubt); err != nil || late.Thumbprint() != other.Thumbprint() {
		t.Errorf("got %v for a doubt that came late, want the certificate in use", err)
	}
}

func isPaused(err error) bool {
	_, ok := errors.AsType[*binding.PausedError](err)
	return ok
}

// A machine in between can cause doubts, which must not use up the replacements that a genuine
// rejection needs.
func TestDoubtsDoNotHoldUpTheReplacementOfARejectedCertificate(t *testing.T) {
	w := newWorld(t)
	m := w.start()
	first := w.certificate(t, m)
	w.issueErr = imds.ErrUnreachable
	for range 8 {
		if _, err := m.Replace(t.Context(), system, first, binding.ReasonDoubt); err == nil {
			t.Fatal("got a certificate")
		}
		w.advance(time.Hour)
	}
	w.issueErr = nil
	if other := w.replace(t, m, first); other.Thumbprint() == first.Thumbprint() {
		t.Error("got the rejected certificate")
	}
}

// Whether what Entra rejects was a replacement already is what the pause says.
func TestThePauseSaysWhetherAReplacementWasRejected(t *testing.T) {
	w := newWorld(t)
	m := w.start()
	first := w.certificate(t, m)
	w.issueErr = imds.ErrUnreachable
	if _, err := m.Replace(t.Context(), system, first, binding.ReasonCertificate); err == nil {
		t.Fatal("got a certificate")
	}
	if paused := wantPaused(t, m, first); paused.Replacement {
		t.Error("a replacement is said to be rejected, and there was none")
	}
	w.issueErr = nil
	w.advance(time.Hour)
	second := w.replace(t, m, first)
	if paused := wantPaused(t, m, second); !paused.Replacement {
		t.Error("the pause does not say that a replacement was rejected")
	}
}

func wantPaused(t *testing.T, m *binding.Manager, rejected *binding.Certificate) *binding.PausedError {
	t.Helper()
	_, err := m.Replace(t.Context(), system, rejected, binding.ReasonCertificate)
	paused, ok := errors.AsType[*binding.PausedError](err)
	if !ok {
		t.Fatalf("got %v, want a pause", err)
	}
	return paused
}
