package agentapi

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/policy"
)

// Bounds of the records of answers that cost their callers nothing.
const (
	// quotaWindow is how long an account's counts are kept.
	quotaWindow = time.Minute
	// recordsOfAccount is how many such records an account may have in a window: one that asks in
	// vain each second is on record each time.
	recordsOfAccount = 60
	// A user may have a block of subordinate uids besides its own (subuid(5)): blockBits is the
	// usual size of one. accountsOfBlock uids of a block are counted one by one, the others of it
	// together, so that the owner of a block can neither fill the log nor keep refusals of users
	// outside of the block from being recorded.
	blockBits       = 16
	accountsOfBlock = 64
	// maxBlocks is how many blocks are told apart.
	maxBlocks = 64
)

// uidRange names the uids whose records are counted together: one uid, or all from first to last
// that are not counted on their own.
type uidRange struct{ first, last uint32 }

// quota bounds the records of answers that cost the caller nothing, which are all but tokens, so
// that nobody can push the records of others out of the log. Answers beyond the bound are counted.
// It is safe for concurrent use.
type quota struct {
	mu      sync.Mutex
	tallies map[uidRange]*tally
	blocks  map[uint32]int // how many uids of a block are counted on their own
}

// tally has the counts of one account in one window.
type tally struct {
	written int
	unwritten
}

// unwritten counts the answers that have no record of their own.
type unwritten struct {
	count int64
	since time.Time        // when the first was given
	kinds map[string]int64 // by code or, without one, decision
}

func newQuota() *quota {
	q := new(quota)
	q.start()
	return q
}

// start begins a window.
func (q *quota) start() {
	q.tallies = make(map[uidRange]*tally)
	q.blocks = make(map[uint32]int)
}

// admits reports whether an answer has a record of its own, and counts it otherwise.
func (q *quota) admits(caller peer.Caller, standing policy.Standing, kind string, now time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	t := q.tallyOf(caller.UID, standing == policy.ByUID)
	if t.written < recordsOfAccount {
		t.written++
		return true
	}
	t.add(unwritten{count: 1, since: now, kinds: map[string]int64{kind: 1}})
	return false
}

// tallyOf returns the counts of a uid. A uid that the policy names always has its own: the
// configuration bounds their number.
func (q *quota) tallyOf(uid uint32, named bool) *tally {
	account := uidRange{uid, uid}
	if q.tallies[account] == nil && !named {
		account = q.accountOf(uid)
	}
	t := q.tallies[account]
	if t == nil {
		t = new(tally)
		q.tallies[account] = t
	}
	return t
}

// accountOf returns the account of a uid that is new in this window.
func (q *quota) accountOf(uid uint32) uidRange {
	block := uid >> blockBits
	n, known := q.blocks[block]
	switch {
	case n < accountsOfBlock && (known || len(q.blocks) < maxBlocks):
		q.blocks[block]++
		return uidRange{uid, uid}
	case known:
		return uidRange{block << blockBits, block<<blockBits | (1<<blockBits - 1)}
	}
	return uidRange{0, 1<<32 - 1}
}

func (u *unwritten) add(more unwritten) {
	if u.count == 0 || more.since.Before(u.since) {
		u.since = more.since
	}
	u.count += more.count
	if u.kinds == nil {
		u.kinds = make(map[string]int64)
	}
	for kind, n := range more.kinds {
		u.kinds[kind] += n
	}
}

// lift ends the window. It returns the accounts that have answers without a record, ordered by uid,
// with the counts.
func (q *quota) lift() ([]uidRange, map[uidRange]unwritten) {
	q.mu.Lock()
	ended := q.tallies
	q.start()
	q.mu.Unlock()
	missing := make(map[uidRange]unwritten)
	for account, t := range ended {
		if t.count > 0 {
			missing[account] = t.unwritten
		}
	}
	return slices.SortedFunc(maps.Keys(missing), func(a, b uidRange) int {
		return cmp.Or(cmp.Compare(a.first, b.first), cmp.Compare(a.last, b.last))
	}), missing
}

// putBack counts again the records that could not be written.
func (q *quota) putBack(account uidRange, missing unwritten) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if account.first == account.last {
		q.tallyOf(account.first, false).add(missing)
		return
	}
	if q.tallies[account] == nil {
		q.tallies[account] = new(tally)
	}
	q.tallies[account].add(missing)
}
