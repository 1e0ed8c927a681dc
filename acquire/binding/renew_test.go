package binding_test

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyagent/keyagent/acquire/binding"
	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/internal/statefile"
)

var errDown = errors.New("issuer is down")

// inVirtualTime runs a test whose clock runs when all wait.
func inVirtualTime(t *testing.T, test func(*testing.T, *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newWorldAt(t, time.Now)) })
}

// run lets a manager renew until the test ends. What it returns ends it before.
func (w *world) run(t *testing.T, m *binding.Manager) (end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	end = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
	t.Cleanup(end)
	return end
}

// pass lets time go by.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func passUntil(at time.Time) { pass(time.Until(at)) }

func TestRenewedAtHalfOfTheLife(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, w *world) {
		m := w.start()
		w.run(t, m)
		first := w.certificate(t, m)
		if half := time.Until(first.EffectiveExpiry()) / 2; time.Until(first.RenewAt()) < half-time.Minute || time.Until(first.RenewAt()) > half {
			t.Errorf("renewal in %v, half of the life is %v", time.Until(first.RenewAt()), half)
		}
		passUntil(first.RenewAt().Add(-time.Second))
		if c := w.certificate(t, m); c != first || w.count() != 1 {
			t.Errorf("renewed before its time: %d issuances", w.count())
		}
		passUntil(first.RenewAt())
		second := m.Current(system)
		if second == first || w.count() != 2 {
			t.Fatalf("not renewed at its time: %d issuances", w.count())
		}
		if c := w.certificate(t, m); c != second {
			t.Error("callers do not get the new certificate")
		}
		if c := w.certificate(t, w.start()); c.Thumbprint() != second.Thumbprint() {
			t.Error("the new certificate is not the one on disk")
		}
		passUntil(second.RenewAt())
		if r := w.requests(); len(r) != 3 || r[1].bypass || r[2].bypass {
			t.Errorf("got %+v, want the next renewal, and none that bypasses IMDS' cache", r)
		}
	})
}

func TestTheRenewalTimeIsDrawnOncePerCertificate(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, w *world) {
		w.jitter = nil
		m := w.start()
		first := w.certificate(t, m)
		if again := w.certificate(t, m); !again.RenewAt().Equal(first.RenewAt()) {
			t.Error("drawn again")
		}
		half := first.EffectiveExpiry().Sub(first.Leaf.NotBefore) / 2
		if got := first.RenewAt().Sub(first.Leaf.NotBefore); got < half-half/10 || got > half+half/10 {
			t.Errorf("renewal after %v, want within a tenth of %v", got, half)
		}
	})
}

func TestNothingIsRenewedThatNobodyUses(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, w *world) {
		w.certificate(t, w.start())
		w.run(t, w.start())
		pass(30 * 24 * time.Hour)
		if w.count() != 1 {
			t.Errorf("%d issuances, want 1: nobody has used the stored certificate since the start", w.count())
		}
	})
}

func TestAFailedRenewalIsTriedAgainWithGrowingPauses(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, w *world) {
		m := w.start()
		w.run(t, m)
		first := w.certificate(t, m)
		w.fail(errDown)
		passUntil(first.RenewAt().Add(250 * time.Minute))
		var got []time.Duration
		last := first.RenewAt()
		for _, r := range w.requests()[1:] {
			got = append(got, r.at.Sub(last).Round(time.Second))
			last = r.at
		}
		want := []time.Duration{0, 1, 2, 4, 8, 16, 32, 60, 60, 60}
		if len(got) != len(want) {
			t.Fatalf("attempts after %v, want %v (minutes)", got, want)
		}
		for i := range want {
			if got[i] != want[i]*time.Minute {
				t.Errorf("attempt %d after %v, want %v minutes", i+1, got[i], int(want[i]))
			}
		}
		if c := w.certificate(t, m); c != first {
			t.Error("the old certificate does not serve on")
		}
		w.fail(nil)
		pass(time.Hour)
		second := m.Current(system)
		if second == first {
			t.Fatal("not renewed after the fault")
		}
		w.fail(errDown)
		attempts := len(w.requests())
		passUntil(second.RenewAt().Add(90 * time.Second))
		if n := len(w.requests()) - attempts; n != 2 {
			t.Errorf("%d attempts in the first 90 seconds, want 2: the pauses begin anew", n)
		}
		if !strings.Contains(w.log.String(), "serves on") || !strings.Contains(w.log.String(), errDown.Error()) {
			t.Errorf("the log does not tell:\n%s", w.log.String())
		}
	})
}

func TestThePauseAfterAFailureIsMovedByTheJitter(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, w *world) {
		w.jitter = func(d time.Duration) time.Duration { return d + d/10 }
		m := w.start()
		w.run(t, m)
		first := w.certificate(t, m)
		w.fail(errDown)
		passUntil(first.RenewAt().Add(66 * time.Second))
		r := w.requests()
		if len(r) != 3 || r[2].at.Sub(r[1].at) != 66*time.Second {
			t.Errorf("got %+v, want the second attempt 66 seconds after the first", r)
		}
	})
}

func TestNoCertificateIsServedPastItsHardStop(t *testing.T) {
	for _, running := range []bool{true, false} {
		name := "when nobody renews"
		if running {
			name = "when all renewals fail"
		}
		t.Run(name, func(t *testing.T) {
			inVirtualTime(t, func(t *testing.T, w *world) {
				m := w.start()
				if running {
					w.run(t, m)
				}
				first := w.certificate(t, m)
				w.fail(errDown)
				stop := first.EffectiveExpiry().Add(-binding.HardStop)
				passUntil(stop.Add(-time.Second))
				if c := w.certificate(t, m); c != first || m.Current(system) != first {
					t.Error("not served until its hard stop")
				}
				passUntil(stop)
				if c, err := m.Certificate(t.Context(), system); !errors.Is(err, errDown) {
					t.Errorf("past the hard stop: %v, %v", c, err)
				}
				if m.Current(system) != nil {
					t.Error("still said to be in use")
				}
				w.fail(nil)
				if c := w.certificate(t, m); c.Thumbprint() == first.Thumbprint() {
					t.Error("still served")
				}
			})
		})
	}
}

func TestACertificateWithAnHourOfTokensLeftIsRenewedAtOnce(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, w *world) {
		w.edit = func(c *x509.Certificate) {
			if w.issued > 1 {
				return
			}
			c.NotBefore, c.NotAfter = w.now().Add(-6*24*time.Hour), w.now().Add(8*24*time.Hour)
			c.ExtraExtensions[0] = tokenNotAfter(t, w.now().Add(time.Hour))
		}
		m := w.start()
		w.run(t, m)
		synctest.Wait() // Run is in the middle of a minute's wait
		w.certificate(t, m)
		synctest.Wait()
		if r := w.requests(); len(r) != 2 || !r[1].at.Equal(r[0].at) {
			t.Errorf("got %+v, want a second issuance at once", r)
		}
	})
}

func TestAStoredCertificateThatIsDueIsRenewedAtItsFirstUse(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, w *world) {
		first := w.certificate(t, w.start())
		passUntil(first.RenewAt().Add(time.Hour))
		m := w.start()
		w.run(t, m)
		synctest.Wait() // Run is in the middle of a minute's wait
		if c := w.certificate(t, m); c.Thumbprint() != first.Thumbprint() {
			t.Error("the caller had to wait for the renewal")
		}
		synctest.Wait()
		if w.count() != 2 {
			t.Errorf("%d issuances, want 2", w.count())
		}
	})
}

func TestARenewalThatComesAfterACallersIssuanceDoesNothing(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, w *world) {
		m := w.start()
		w.run(t, m)
		first := w.certificate(t, m)
		w.fail(errDown)
		passUntil(first.EffectiveExpiry())
		r := w.requests()
		passUntil(r[len(r)-1].at.Add(time.Hour - time.Second)) // a second before the next attempt
		w.fail(nil)
		w.hold = make(chan struct{})
		var caller sync.WaitGroup
		caller.Go(func() {
			if _, err := m.Certificate(t.Context(), system); err != nil {
				t.Error(err)
			}
		})
		pass(2 * time.Second)
		w.hold <- struct{}{}
		caller.Wait()
		synctest.Wait()
		select {
		case w.hold <- struct{}{}:
			t.Error("the certificate that the caller got is renewed")
		default:
		}
	})
}

func TestAnIssuerThatGivesNothingBetterIsNotAskedAllTheTime(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, w *world) {
		w.edit = func(c *x509.Certificate) { c.NotBefore = w.now().Add(-20 * 24 * time.Hour) }
		m := w.start()
		w.run(t, m)
		w.certificate(t, m)
		pass(62 * time.Minute)
		if n := w.count(); n != 7 { // the first, at once, and after 1, 3, 7, 15, 31 minutes
			t.Errorf("%d issuances in an hour, want 7", n)
		}
		if !strings.Contains(w.log.String(), "at once, too") {
			t.Errorf("the log does not tell:\n%s", w.log.String())
		}
	})
}

func TestAClockThatIsSetForwardIsNoticedWithinAMinute(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, w *world) {
		m := w.start()
		w.run(t, m)
		w.certificate(t, m)
		pass(time.Hour)
		w.advance(4 * 24 * time.Hour)
		pass(time.Minute)
		if w.count() != 2 {
			t.Errorf("%d issuances, want 2", w.count())
		}
	})
}

func TestAClockThatIsSetBackEndsThePauseAfterAFailure(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, w *world) {
		m := w.start()
		w.run(t, m)
		first := w.certificate(t, m)
		w.fail(errDown)
		passUntil(first.RenewAt().Add(30 * time.Minute)) // a pause of 16 minutes ends in a minute
		w.advance(-20 * time.Minute)
		attempts := len(w.requests())
		pass(time.Minute)
		if n := len(w.requests()) - attempts; n != 1 {
			t.Errorf("%d attempts, want 1", n)
		}
	})
}

func TestEachIdentityHasItsOwnRenewal(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, w *world) {
		m := w.start()
		w.run(t, m)
		app := imds.Selector{ClientID: metadata.ClientID}
		first := w.certificate(t, m)
		pass(24 * time.Hour)
		other := w.certificateOf(t, m, app)
		if first == other || w.count() != 2 {
			t.Fatalf("%d issuances for two identities", w.count())
		}
		passUntil(first.RenewAt())
		if m.Current(system) == first || m.Current(app) != other {
			t.Error("want the first one renewed, and only that")
		}
		passUntil(other.RenewAt())
		r := w.requests()
		if m.Current(app) == other || len(r) != 4 || r[2].sel != system || r[3].sel != app {
			t.Errorf("got %+v, want the other one renewed", r)
		}
	})
}

func TestARenewalUnderWayDisturbsNobody(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, w *world) {
		m := w.start()
		first := w.certificate(t, m)
		w.hold = make(chan struct{})
		w.run(t, m)
		passUntil(first.RenewAt())
		for range 5 {
			if c := w.certificate(t, m); c != first {
				t.Error("got another certificate than the current one")
			}
		}
		if _, err := m.Replace(t.Context(), system, nil, binding.ReasonCertificate); err != nil {
			t.Errorf("a caller without a rejected certificate: %v", err)
		}
		w.hold <- struct{}{}
		synctest.Wait()
		if c := w.certificate(t, m); c == first || w.count() != 2 {
			t.Errorf("%d issuances, want 2 and the new certificate", w.count())
		}
	})
}

func TestWithoutAUsableCertificateTheIssuanceUnderWayIsWaitedFor(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, w *world) {
		m := w.start()
		w.hold = make(chan struct{})
		var callers sync.WaitGroup
		for range 20 {
			callers.Go(func() {
				if _, err := m.Certificate(t.Context(), system); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		impatient, leave := context.WithCancel(t.Context())
		var left sync.WaitGroup
		left.Go(func() {
			if _, err := m.Certificate(impatient, system); !errors.Is(err, context.Canceled) {
				t.Errorf("the caller that left got %v", err)
			}
		})
		synctest.Wait()
		leave()
		left.Wait()
		w.hold <- struct{}{}
		callers.Wait()
		if w.count() != 1 {
			t.Errorf("%d issuances, want 1", w.count())
		}
	})
}

func TestAnIdentityThatChangedIsFollowedByTheRenewal(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, w *world) {
		m := w.start()
		w.run(t, m)
		first := w.certificate(t, m)
		w.describe(func() { w.metaErr = imds.ErrUnreachable })
		passUntil(first.RenewAt())
		if m.Current(system) != first {
			t.Error("replaced without IMDS")
		}
		w.describe(func() { w.metaErr, w.meta.ClientID = nil, "8b0c3d0e-0000-4000-8000-00000000c1d2" })
		pass(time.Minute)
		if c := m.Current(system); c.ClientID != "8b0c3d0e-0000-4000-8000-00000000c1d2" || w.certificate(t, m) != c || w.count() != 2 {
			t.Errorf("client %s, %d issuances", c.ClientID, w.count())
		}
	})
}

func TestARenewalThatHangsEnds(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, w *world) {
		m := w.start()
		first := w.certificate(t, m)
		w.hold = make(chan struct{})
		w.run(t, m)
		passUntil(first.RenewAt().Add(5 * time.Minute))
		if !strings.Contains(w.log.String(), "deadline exceeded") {
			t.Errorf("the log does not tell:\n%s", w.log.String())
		}
		w.hold <- struct{}{} // the second attempt
		synctest.Wait()
		if m.Current(system) == first {
			t.Error("not renewed")
		}
	})
}

func TestAPanicDuringARenewalEndsNothing(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, w *world) {
		m := w.start()
		w.run(t, m)
		first := w.certificate(t, m)
		w.attestor.breakDown(true)
		passUntil(first.RenewAt())
		w.attestor.breakDown(false)
		pass(time.Minute)
		if m.Current(system) == first || !strings.Contains(w.log.String(), "panic") {
			t.Errorf("not renewed after the panic:\n%s", w.log.String())
		}
	})
}

func TestRunEndsWithItsContextAtAnyMoment(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, w *world) {
		m := w.start()
		end := w.run(t, m)
		synctest.Wait()
		end() // while it waits
		first := w.certificate(t, m)
		w.hold = make(chan struct{})
		end = w.run(t, m)
		passUntil(first.RenewAt())
		end() // while it renews
		if strings.Contains(w.log.String(), "did not work") {
			t.Errorf("the end is told as a failure:\n%s", w.log.String())
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := m.Run(ctx); err != nil {
			t.Errorf("ended before it began: %v", err)
		}
	})
}

func TestRunWaitsInPiecesOfAtMostAMinute(t *testing.T) {
	w := newWorld(t)
	broken := errors.New("no timer")
	var waits []time.Duration
	m := binding.New(binding.Config{IMDS: w.issuer, Key: w.key, Attestor: w.attestor, Files: statefile.In(w.dir), MTLSHosts: imds.MicrosoftMTLSHosts(), Now: w.now,
		Jitter: same, Logger: slog.New(slog.DiscardHandler),
		Wait: func(_ context.Context, d time.Duration) error {
			waits = append(waits, d)
			w.advance(d)
			if len(waits) == 500 {
				return broken
			}
			return nil
		}})
	w.edit = func(c *x509.Certificate) { c.NotAfter = w.now().Add(4*time.Hour + 20*time.Second) }
	w.certificate(t, m)
	if err := m.Run(t.Context()); !errors.Is(err, broken) {
		t.Errorf("got %v, want what made waiting impossible", err)
	}
	short := 0
	for _, d := range waits {
		if d <= 0 || d > time.Minute {
			t.Errorf("waited for %v", d)
		}
		if d < time.Minute {
			short++
		}
	}
	if w.count() < 4 || short != w.count()-1 {
		t.Errorf("%d issuances, %d waits that ended before a minute: want one before each renewal", w.count(), short)
	}
}
