package agentapi

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/policy"
)

// A TPM makes some tens of signatures a second, one after the other, and the agent needs them for
// its own handshakes, too. A program needs one for each connection that it makes.
const (
	// signBurst is how many signatures one account may have at once.
	signBurst = 128
	// signEvery is how long one signature takes to be forgotten.
	signEvery = 50 * time.Millisecond
)

// reasonSignatures is the reason in the audit for the refusal of a signature that a rule allows.
const reasonSignatures policy.Reason = "too many signatures for TLS handshakes"

// signatures bounds how many each caller may have.
type signatures struct {
	now func() time.Time

	mu   sync.Mutex // guards the limiters, too
	each *limiters
}

func newSignatures(now func() time.Time) *signatures {
	return &signatures{now: now, each: newLimiters(signEvery, signBurst)}
}

// charge counts a signature, and returns 0; or how long the caller has to wait.
func (s *signatures) charge(caller peer.Caller, standing policy.Standing) (wait time.Duration) {
	return s.chargeMany(caller, standing, 1)
}

// chargeMany is charge for what occupies the TPM as n signatures do; at most signBurst.
func (s *signatures) chargeMany(caller peer.Caller, standing policy.Standing, n int) (wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	limiter := s.each.of(accountOf(caller, standing), now)
	if limiter.AllowN(now, n) {
		return 0
	}
	return waitFor(limiter, now, n)
}

// due returns how long the caller has to wait until a signature may be charged to it, without
// charging one.
func (s *signatures) due(caller peer.Caller, standing policy.Standing) (wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	limiter := s.each.of(accountOf(caller, standing), now)
	if limiter.TokensAt(now) >= 1 {
		return 0
	}
	return waitFor(limiter, now, 1)
}

func waitFor(limiter *rate.Limiter, now time.Time, n int) time.Duration {
	return max(time.Millisecond, time.Duration((float64(n)-limiter.TokensAt(now))*float64(signEvery)))
}
