package acquire

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyagent/keyagent/internal/secret"
)

// slowSource is an assertionSource that answers when it is let.
type slowSource struct {
	asked   int
	release chan error
	gives   Strength
}

func (s *slowSource) assertion(context.Context, *ask) (*assertion, error) {
	s.asked++ // under the caller's lock
	if err := <-s.release; err != nil {
		return nil, err
	}
	return &assertion{token: secret.New("assertion"), strength: s.gives}, nil
}

func newSlow(gives Strength) (*federated, *slowSource) {
	source := &slowSource{release: make(chan error), gives: gives}
	return newFederated(&application{cfg: &Config{Now: time.Now}}, source, true), source
}

// Callers that waited for an assertion request share its result, good or bad. Later callers make
// another attempt.
func TestAnAssertionRequestIsSharedByItsWaitingCallers(t *testing.T) {
	for name, end := range map[string]error{"it fails": errors.New("down"), "it succeeds": nil} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, source := newSlow(StrengthTPM)
				ended := make(chan error, 8)
				for range 8 {
					go func() {
						_, err := f.take(t.Context(), &ask{}, nil)
						ended <- err
					}()
				}
				synctest.Wait() // one is at the source, seven wait
				source.release <- end
				for range 8 {
					if err := <-ended; !errors.Is(err, end) {
						t.Errorf("got %v, want %v", err, end)
					}
				}
				if source.asked != 1 {
					t.Errorf("the source was asked %d times for eight callers that waited, want once", source.asked)
				}
				if end == nil {
					return
				}
				go func() { source.release <- nil }()
				if _, err := f.take(t.Context(), &ask{}, nil); err != nil || source.asked != 2 {
					t.Errorf("later: got %v after %d attempts", err, source.asked)
				}
			})
		})
	}
}

// An assertion that is kept is used by callers whose floor it satisfies; for others, another one is
// obtained.
func TestAKeptAssertionIsHeldToEachFloor(t *testing.T) {
	f, source := newSlow(StrengthTPM)
	take := func(floor Strength) error {
		_, err := f.take(t.Context(), &ask{floors: []Strength{floor}}, nil)
		return err
	}
	go func() { source.release <- nil }()
	if err := take(StrengthTPM); err != nil {
		t.Fatal(err)
	}
	source.gives = StrengthAttested // the certificate was renewed, on attestation
	go func() { source.release <- nil }()
	if err := take(StrengthAttested); err != nil {
		t.Errorf("got %v, want a stronger one", err)
	}
	if err := take(StrengthTPM); err != nil || source.asked != 2 {
		t.Errorf("got %v after %d attempts, want the one that is kept", err, source.asked)
	}
}
