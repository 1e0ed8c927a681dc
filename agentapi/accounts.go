package agentapi

import (
	"time"

	"golang.org/x/time/rate"

	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/policy"
)

// account names requests that are counted together: those of one uid, or of all callers who are
// known in the same way without regard to the uid.
type account struct {
	together policy.Standing // Stranger or ByGroupOnly; ByUnitOnly of unit; else the account is that of uid
	uid      uint32
	unit     uint64 // a cgroup id
}

// accountOf returns the account of a caller. A user can have many uids, all of which are strangers
// or keep the user's groups (subuid(5)), and so can a unit: each of these shares one account.
func accountOf(caller peer.Caller, standing policy.Standing) account {
	switch standing {
	case policy.ByUID:
		return account{together: standing, uid: caller.UID}
	case policy.ByUnitOnly:
		return account{together: standing, unit: caller.CgroupID}
	default:
		return account{together: standing}
	}
}

// maxLimiters is how many accounts are remembered before those are forgotten that have nothing on
// them. Rules name few, but a unit is another cgroup after each of its starts.
const maxLimiters = 256

// limiters has a limiter for each account. It is not safe for concurrent use.
type limiters struct {
	every time.Duration // in which one event is forgotten
	burst int
	each  map[account]*rate.Limiter
}

func newLimiters(every time.Duration, burst int) *limiters {
	return &limiters{every: every, burst: burst, each: map[account]*rate.Limiter{}}
}

func (l *limiters) of(owner account, now time.Time) *rate.Limiter {
	if known := l.each[owner]; known != nil {
		return known
	}
	if len(l.each) >= maxLimiters {
		l.forget(now)
	}
	made := rate.NewLimiter(rate.Every(l.every), l.burst)
	l.each[owner] = made
	return made
}

// forget drops the limiters that would be the same if they were new.
func (l *limiters) forget(now time.Time) {
	for owner, limiter := range l.each {
		if limiter.TokensAt(now) >= float64(l.burst) {
			delete(l.each, owner)
		}
	}
}
