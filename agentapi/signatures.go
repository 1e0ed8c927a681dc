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
	// signBurst is how many signatures one uid may have at once; all callers together who are known
	// by a group only share one such bound, since a user can have thousands of uids that keep its
	// groups (subuid(5)).
	signBurst = 128
	// signEvery is how long one signature takes to be forgotten.
	signEvery = 50 * time.Millisecond
)

// reasonSignatures is the reason in the audit for the refusal of a signature that a rule allows.
const reasonSignatures policy.Reason = "too many signatures for TLS handshakes"

// signatures bounds how many each caller may have.
type signatures struct {
	now func() time.Time

	mu    sync.Mutex // guards the limiters, too
	named map[uint32]*rate.Limiter
	group *rate.Limiter
}

func newSignatures(now func() time.Time) *signatures {
	return &signatures{now: now, named: map[uint32]*rate.Limiter{}, group: newSignLimiter()}
}

func newSignLimiter() *rate.Limiter { return rate.NewLimiter(rate.Every(signEvery), signBurst) }

// charge counts a signature, and returns 0; or how long the caller has to wait. The policy knows
// the caller, and it names a bounded number of uids.
func (s *signatures) charge(caller peer.Caller, standing policy.Standing) (wait time.Duration) {
	return s.chargeMany(caller, standing, 1)
}

// chargeMany is charge for what occupies the TPM as n signatures do; at most signBurst.
func (s *signatures) chargeMany(caller peer.Caller, standing policy.Standing, n int) (wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, limiter := s.now(), s.limiterOf(caller, standing)
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
	now, limiter := s.now(), s.limiterOf(caller, standing)
	if limiter.TokensAt(now) >= 1 {
		return 0
	}
	return waitFor(limiter, now, 1)
}

// limiterOf is called with the lock held.
func (s *signatures) limiterOf(caller peer.Caller, standing policy.Standing) *rate.Limiter {
	limiter := s.group
	if standing == policy.ByUID {
		if limiter = s.named[caller.UID]; limiter == nil {
			limiter = newSignLimiter()
			s.named[caller.UID] = limiter
		}
	}
	return limiter
}

func waitFor(limiter *rate.Limiter, now time.Time, n int) time.Duration {
	return max(time.Millisecond, time.Duration((float64(n)-limiter.TokensAt(now))*float64(signEvery)))
}
