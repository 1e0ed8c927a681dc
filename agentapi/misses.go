package agentapi

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/policy"
)

// Tokens that are not in memory are fetched from IMDS and Entra, which answer 429 to an identity
// that asks too often: then no caller gets a token of it for as long as they say. A caller allowed
// to have any resource could name ever new resources, or ever new claims, so the fetches of each
// caller are bounded. The bound has room for a program that wants a hundred tokens at its start,
// and for keeping some hundreds fresh.
const (
	// missBurst is how many fetches one uid may cause at once.
	missBurst = 128
	// groupMissBurst is the same bound for all callers together that are known by a group only: a
	// user can have thousands of uids that keep its groups (subuid(5)). It is more than one caller
	// may have, so that one leaves room for the others, and less than may be under way for one
	// identity, so that all of them leave room for users named by uid.
	groupMissBurst = 192
	// missEvery is how long one fetch takes to be forgotten.
	missEvery = 3 * time.Second
	// maxMissAccounts bounds the memory. Callers that are known by a group only cannot fill it,
	// because they share groupMissBurst.
	maxMissAccounts = 1024
)

// reasonMisses is the reason in the audit for the refusal of a request that a rule allows.
const reasonMisses policy.Reason = "the caller asks for too many tokens that are not in memory"

// errMisses is wrapped by the error for a caller that has asked for too much.
var errMisses = errors.New("too many tokens that are not in memory")

// misses keeps the accounts of callers.
type misses struct {
	now func() time.Time

	mu      sync.Mutex // guards the limiters, too
	named   map[missKey]*missAccount
	members map[missKey]*missAccount // known by a group only
	group   *rate.Limiter            // of all members together
}

func newMisses(now func() time.Time) *misses {
	return &misses{
		now: now, named: map[missKey]*missAccount{}, members: map[missKey]*missAccount{},
		group: rate.NewLimiter(rate.Every(missEvery), groupMissBurst),
	}
}

// missKey identifies an account: that of a uid, or of a unit by its cgroup id, which is 0
// otherwise.
type missKey struct {
	uid  uint32
	unit uint64
}

// missAccount is the [acquire.Account] of one uid, or of one unit.
type missAccount struct {
	misses *misses
	uid    uint32
	own    *rate.Limiter
	group  *rate.Limiter // nil for a uid that a rule names
}

// account returns the account of a caller that the policy knows.
func (m *misses) account(caller peer.Caller, standing policy.Standing) *missAccount {
	m.mu.Lock()
	defer m.mu.Unlock()
	accounts, group, key := m.named, (*rate.Limiter)(nil), missKey{uid: caller.UID}
	switch standing {
	case policy.ByUID:
	case policy.ByUnitOnly: // its processes may have any number of uids
		key = missKey{unit: caller.CgroupID}
	default:
		accounts, group = m.members, m.group
	}
	if known := accounts[key]; known != nil {
		return known
	}
	if len(accounts) >= maxMissAccounts {
		m.forgetLocked(accounts)
	}
	made := &missAccount{misses: m, uid: caller.UID, own: rate.NewLimiter(rate.Every(missEvery), missBurst), group: group}
	accounts[key] = made
	return made
}

// forgetLocked drops the accounts that have nothing on them: a new one is the same.
func (m *misses) forgetLocked(accounts map[missKey]*missAccount) {
	now := m.now()
	for key, a := range accounts {
		if a.own.TokensAt(now) >= missBurst {
			delete(accounts, key)
		}
	}
}

// Charge implements [acquire.Account].
func (a *missAccount) Charge() error {
	now := a.misses.now()
	a.misses.mu.Lock()
	defer a.misses.mu.Unlock()
	if wait := untilOne(a.own, now); wait > 0 {
		return a.refusal(fmt.Errorf("uid %d asks for %w", a.uid, errMisses), wait, "ask for fewer different resources, and use each token until it expires")
	}
	if a.group != nil {
		if wait := untilOne(a.group, now); wait > 0 {
			return a.refusal(fmt.Errorf("users known by a group only ask for %w", errMisses), wait, "name this user in a rule, which gives it a bound of its own")
		}
		a.group.AllowN(now, 1)
	}
	a.own.AllowN(now, 1)
	return nil
}

// untilOne returns how long it is until a limiter allows one more; 0: it does now.
func untilOne(l *rate.Limiter, now time.Time) time.Duration {
	missing := 1 - l.TokensAt(now)
	if missing <= 0 {
		return 0
	}
	return max(time.Duration(missing*float64(missEvery)), time.Millisecond)
}

func (a *missAccount) refusal(err error, wait time.Duration, hint string) error {
	return &acquire.Error{
		Kind: acquire.KindThrottled, RetryAfter: wait, Err: err,
		Hint: "tokens that are in memory are given as before; wait, or " + hint,
	}
}
