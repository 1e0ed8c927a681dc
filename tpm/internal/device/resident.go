package device

import (
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// Resident is an object or a session that stays in the TPM from turn to turn. Its owner notes where
// it is with [Turn.Keep], and asks with [Turn.Use] whether it is still there: it may have given
// way, or the TPM was reset.
type Resident interface {
	// GivesWay reports whether it may be flushed at this moment because another command needs its
	// slot. It is asked by the turn.
	GivesWay() bool
	// Retired reports whether its owner has given it up: it is flushed when nobody uses the TPM. It
	// is asked at any time.
	Retired() bool
}

// residents is the table of objects and sessions that stay in the TPM's slots from turn to turn. A
// TPM has few of them, three for objects and three for sessions as a rule: the one that was not
// used for longest gives way when a slot is needed.
//
// An entry can be wrong, after a TPM reset: then the TPM says so when the handle is used. It is
// never wrong by naming another object of ours, because a handle that the TPM gives out replaces
// the entry that had it before.
//
// It belongs to the turn.
type residents struct {
	slots []slot // least recently used first
}

// slot says that a resident is at handle, as far as we know.
type slot struct {
	resident Resident
	handle   tpm2.TPMHandle
	name     []byte // of an object; nil: a session
	boots    boots  // of a session: in one of them it was started
	turn     *Turn  // that used it last
}

// use finds a slot and marks it as used by a turn.
func (l *residents) use(r Resident, t *Turn) (h tpm2.TPMHandle, found bool) {
	s, found := l.remove(r)
	if !found {
		return 0, false
	}
	s.turn = t
	l.slots = append(l.slots, s)
	return s.handle, true
}

// put notes where something is now.
func (l *residents) put(s slot) {
	l.remove(s.resident)
	l.slots = append(l.slots, s)
}

// taken says that the TPM just gave out h. If anything was thought to be there, it is not: the TPM
// was reset meanwhile, or somebody flushed it.
func (l *residents) taken(h tpm2.TPMHandle) {
	l.slots = slices.DeleteFunc(l.slots, func(s slot) bool { return sameSlot(s.handle, h) })
}

// refresh notes in which boots a session is known to be there.
func (l *residents) refresh(r Resident, now boots) {
	if i := slices.IndexFunc(l.slots, func(s slot) bool { return s.resident == r }); i >= 0 {
		l.slots[i].boots = now
	}
}

// has reports whether something is at h.
func (l *residents) has(h tpm2.TPMHandle) bool {
	return slices.ContainsFunc(l.slots, func(s slot) bool { return s.handle == h })
}

// evictObject removes the object that was not used for longest, gives way, and was not used in the
// turn.
func (l *residents) evictObject(t *Turn) (s slot, found bool) {
	return l.removeFirst(func(s slot) bool { return !isSession(s.handle) && s.resident.GivesWay() && s.turn != t })
}

// evictSession removes the session that was not used for longest and gives way. The turn may have
// used it: the next command needs another one.
func (l *residents) evictSession() (s slot, found bool) {
	return l.removeFirst(func(s slot) bool { return isSession(s.handle) && s.resident.GivesWay() })
}

// removeRetired removes what its owners have given up.
func (l *residents) removeRetired() []slot {
	return l.removeAll(func(s slot) bool { return s.resident.Retired() })
}

// removeSessions removes the sessions that fit.
func (l *residents) removeSessions(fits func(slot) bool) []slot {
	return l.removeAll(func(s slot) bool { return isSession(s.handle) && fits(s) })
}

// sessions reports whether there are any.
func (l *residents) sessions() bool {
	return slices.ContainsFunc(l.slots, func(s slot) bool { return isSession(s.handle) })
}

// empty reports whether nothing is resident.
func (l *residents) empty() bool { return len(l.slots) == 0 }

// list returns a copy of the table.
func (l *residents) list() []slot { return slices.Clone(l.slots) }

// clear empties the table.
func (l *residents) clear() { l.slots = nil }

// remove takes a slot out.
func (l *residents) remove(r Resident) (s slot, found bool) {
	return l.removeFirst(func(s slot) bool { return s.resident == r })
}

func (l *residents) removeFirst(fits func(slot) bool) (s slot, found bool) {
	i := slices.IndexFunc(l.slots, fits)
	if i < 0 {
		return slot{}, false
	}
	s = l.slots[i]
	l.slots = slices.Delete(l.slots, i, i+1)
	return s, true
}

func (l *residents) removeAll(fits func(slot) bool) (removed []slot) {
	l.slots = slices.DeleteFunc(l.slots, func(s slot) bool {
		if fits(s) {
			removed = append(removed, s)
			return true
		}
		return false
	})
	return removed
}
