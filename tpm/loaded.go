package tpm

import (
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// loaded is the table of keys that are kept in the TPM's transient slots. A TPM has few of them, three as a rule: a key that
// was not used for longest gives way when a slot is needed.
//
// An entry can be wrong, after a TPM reset: then the TPM says so when the handle is used. It is never wrong by naming another
// key of ours, because a handle that the TPM gives out takes the entry of who had it before.
//
// Of whoever has the turn.
type loaded struct {
	slots []slot // least recently used first
}

// slot says: key is at handle, as far as we know.
type slot struct {
	key    *Key
	handle tpm2.TPMHandle
	turn   *turn // that used it last
}

// use finds a key's slot and marks it as used by a turn.
func (l *loaded) use(k *Key, t *turn) (h tpm2.TPMHandle, found bool) {
	s, found := l.remove(k)
	if !found {
		return 0, false
	}
	s.turn = t
	l.slots = append(l.slots, s)
	return s.handle, true
}

// put notes where a key is now.
func (l *loaded) put(k *Key, h tpm2.TPMHandle, t *turn) {
	l.remove(k)
	l.slots = append(l.slots, slot{key: k, handle: h, turn: t})
}

// forget removes a key. It returns its handle if it had one.
func (l *loaded) forget(k *Key) (h tpm2.TPMHandle, found bool) {
	s, found := l.remove(k)
	return s.handle, found
}

// taken says that the TPM just gave out h. If a key was thought to be there, it is not: the TPM was reset meanwhile.
func (l *loaded) taken(h tpm2.TPMHandle) {
	l.slots = slices.DeleteFunc(l.slots, func(s slot) bool { return s.handle == h })
}

// evict removes the key that was not used for longest, and that the turn has not used, and returns its handle.
func (l *loaded) evict(t *turn) (h tpm2.TPMHandle, found bool) {
	i := slices.IndexFunc(l.slots, func(s slot) bool { return t == nil || s.turn != t })
	if i < 0 {
		return 0, false
	}
	h = l.slots[i].handle
	l.slots = slices.Delete(l.slots, i, i+1)
	return h, true
}

// list returns a copy of the table.
func (l *loaded) list() []slot {
	return slices.Clone(l.slots)
}

// clear empties the table.
func (l *loaded) clear() {
	l.slots = nil
}

// remove takes a key's slot out.
func (l *loaded) remove(k *Key) (s slot, found bool) {
	i := slices.IndexFunc(l.slots, func(s slot) bool { return s.key == k })
	if i < 0 {
		return slot{}, false
	}
	s = l.slots[i]
	l.slots = slices.Delete(l.slots, i, i+1)
	return s, true
}
