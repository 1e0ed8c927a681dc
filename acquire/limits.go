package acquire

import (
	"errors"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// maxFlights bounds the flights under way for one identity.
	maxFlights = 256
	// crowdedPause is the Retry-After of a request that would be one flight too many.
	crowdedPause = time.Second
)

// permit returns the reason not to ask for a token now: the cache was skipped too often for it, or
// a failure is remembered.
func (a *Acquirer) permit(f flight, now time.Time) error {
	if f.forceRefresh {
		if err := a.refreshLimits.permit(f.key, f.account, now); err != nil {
			return err
		}
	}
	if failure := a.failures.recall(f.key, f.id.client(), now, f.forceRefresh); failure != nil {
		return failure
	}
	return nil
}

// begin counts a flight, unless the acquirer is closed, the identity is retired or has too many
// flights: flights outlive their callers, and callers that come and go must not leave ever more of
// them behind.
func (a *Acquirer) begin(id *identityState, account Account) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.closed:
		return &Error{Kind: KindUnavailable, Identity: id.Name, Err: errClosed}
	case id.retired:
		return &Error{Kind: KindUnavailable, Identity: id.Name, RetryAfter: crowdedPause, Err: errRetired}
	case id.flights >= maxFlights:
		return &Error{Kind: KindUnavailable, Identity: id.Name, RetryAfter: crowdedPause, Err: errCrowded}
	}
	if err := charge(id, account); err != nil {
		return err
	}
	id.flights++
	a.wg.Add(1)
	return nil
}

// charge charges a flight to an account. An error of the account gets the name of the identity.
func charge(id *identityState, account Account) error {
	if account == nil {
		return nil
	}
	err := account.Charge()
	if refusal, ok := errors.AsType[*Error](err); ok {
		named := *refusal
		named.Identity = id.Name
		return &named
	}
	return err
}

func (a *Acquirer) end(id *identityState) {
	a.mu.Lock()
	defer a.mu.Unlock()
	id.flights--
	a.wg.Done()
}

// A program in a loop must not use up what Entra allows the whole machine.
const (
	forceRefreshEvery = 10 * time.Second
	forceRefreshBurst = 5
	maxRefreshLimits  = 1000
)

// refreshLimits limits how often the cache may be skipped, for each pair of token and account: no
// caller can hold up another one.
type refreshLimits struct {
	mu       sync.Mutex
	limiters map[limitKey]*rate.Limiter
}

// limitKey is a token, and the account that forced refreshes of it are charged to.
type limitKey struct {
	key     cacheKey
	account Account
}

func newRefreshLimits() *refreshLimits { return &refreshLimits{limiters: map[limitKey]*rate.Limiter{}} }

var errForceRefresh = errors.New("the token cache is skipped too often for this token")

func (f *refreshLimits) permit(key cacheKey, account Account, now time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	key.meaning = 0 // a reload of the configuration does not reset the limit
	limiter := f.limiters[limitKey{key, account}]
	if limiter == nil {
		if len(f.limiters) >= maxRefreshLimits {
			clear(f.limiters) // at worst, that allows a few more requests
		}
		limiter = rate.NewLimiter(rate.Every(forceRefreshEvery), forceRefreshBurst)
		f.limiters[limitKey{key, account}] = limiter
	}
	if limiter.AllowN(now, 1) {
		return nil
	}
	return &Error{Kind: KindThrottled, Identity: key.identity, RetryAfter: forceRefreshEvery, Err: errForceRefresh, Hint: "wait a moment, or take the token that is in memory"}
}
