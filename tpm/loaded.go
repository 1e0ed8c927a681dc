package tpm

import (
	"slices"
	"sync/atomic"

	"github.com/google/go-tpm/tpm2"
)

// loaded is the table of objects that are kept in the TPM's transient slots from turn to turn. A
// TPM has few of them, three as a rule: the one that was not used for longest gives way when a slot
// is needed.
//
// An entry can be wrong, after a TPM reset: then the TPM says so when the handle is used. It is never wrong by naming another
// object of ours, because a handle that the TPM gives out takes the entry of what had it before.
//
// It belongs to the turn.
type loaded struct {
	slots []slot // least recently used first
}

// resident is an object that is kept in a slot. Its owner embeds it.
type resident struct {
	name   []byte      // the object's; set before it is put into the table
	pinned bool        // it does not give way: it cannot be loaded again
	closed atomic.Bool // its owner has given it up
}

// slot says: object is at handle, as far as we know.
type slot struct {
	object *resident
	handle tpm2.TPMHandle
	turn   *turn // that used it last
}

// use finds an object's slot and marks it as used by a turn.
func (l *loaded) use(r *resident, t *turn) (h tpm2.TPMHandle, found bool) {
	s, found := l.remove(r)
	if !found {
		return 0, false
	}
	s.turn = t
	l.slots = append(l.slots, s)
	return s.handle, true
}

// put notes where an object is now.
func (l *loaded) put(r *resident, h tpm2.TPMHandle, t *turn) {
	l.remove(r)
	l.slots = append(l.slots, slot{object: r, handle: h, turn: t})
}

// forget removes an object. It returns its handle if it had one.
func (l *loaded) forget(r *resident) (h tpm2.TPMHandle, found bool) {
	s, found := l.remove(r)
	return s.handle, found
}

// taken says that the TPM just gave out h. If an object was thought to be there, it is not: the TPM
// was reset meanwhile.
func (l *loaded) taken(h tpm2.TPMHandle) {
	l.slots = slices.DeleteFunc(l.slots, func(s slot) bool { return s.handle == h })
}

// has reports whether an object is at h.
func (l *loaded) has(h tpm2.TPMHandle) bool {
	return slices.ContainsFunc(l.slots, func(s slot) bool { return s.handle == h })
}

// evict removes the object that was not used for longest, can be loaded again, and was not used in
// the turn.
func (l *loaded) evict(t *turn) (s slot, found bool) {
	i := slices.IndexFunc(l.slots, func(s slot) bool { return !s.object.pinned && (t == nil || s.turn != t) })
	if i < 0 {
		return slot{}, false
	}
	s = l.slots[i]
	l.slots = slices.Delete(l.slots, i, i+1)
	return s, true
}

// removeClosed removes the objects that their owners have given up.
func (l *loaded) removeClosed() (removed []slot) {
	l.slots = slices.DeleteFunc(l.slots, func(s slot) bool {
		if s.object.closed.Load() {
			removed = append(removed, s)
			return true
		}
		return false
	})
	return removed
}

// list returns a copy of the table.
func (l *loaded) list() []slot {
	return slices.Clone(l.slots)
}

// clear empties the table.
func (l *loaded) clear() {
	l.slots = nil
}

// remove takes an object's slot out.
func (l *loaded) remove(r *resident) (s slot, found bool) {
	i := slices.IndexFunc(l.slots, func(s slot) bool { return s.object == r })
	if i < 0 {
		return slot{}, false
	}
	s = l.slots[i]
	l.slots = slices.Delete(l.slots, i, i+1)
	return s, true
}
