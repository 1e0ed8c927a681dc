package tpm

import (
	"slices"
	"sync"

	"github.com/google/go-tpm/tpm2"
)

// loaded is the table of keys that are kept in the TPM's transient slots. A TPM has few of them, three as a rule: a key that
// was not used for longest gives way when a slot is needed.
//
// Safe for concurrent use. The lock is never held across a command.
type loaded struct {
	mu    sync.Mutex
	slots []slot // least recently used first
}

// slot says: key is at handle, as far as we know.
type slot struct {
	key        *Key
	handle     tpm2.TPMHandle
	generation uint64 // of the connection over which it was loaded
	turn       *turn  // that used it last
}

// use finds a key's slot and marks it as used by a turn. The generation is that of the connection over which it was loaded.
func (l *loaded) use(k *Key, t *turn) (h tpm2.TPMHandle, generation uint64, found bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := l.index(k)
	if i < 0 {
		return 0, 0, false
	}
	s := l.slots[i]
	s.turn = t
	l.slots = append(slices.Delete(l.slots, i, i+1), s)
	return s.handle, s.generation, true
}

// put notes where a key is now.
func (l *loaded) put(k *Key, h tpm2.TPMHandle, generation uint64, t *turn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.remove(k)
	l.slots = append(l.slots, slot{key: k, handle: h, generation: generation, turn: t})
}

// forget removes a key. It returns its handle if it had one.
func (l *loaded) forget(k *Key) (h tpm2.TPMHandle, generation uint64, found bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.remove(k)
}

// taken says that the TPM just gave out h. If a key was thought to be there, it is not: the TPM was reset meanwhile.
func (l *loaded) taken(h tpm2.TPMHandle) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.slots = slices.DeleteFunc(l.slots, func(s slot) bool { return s.handle == h })
}

// evict removes the key that was not used for longest, and that the turn has not used, and returns its handle.
func (l *loaded) evict(t *turn, generation uint64) (tpm2.TPMHandle, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, s := range l.slots {
		if s.generation == generation && (t == nil || s.turn != t) {
			l.slots = slices.Delete(l.slots, i, i+1)
			return s.handle, true
		}
	}
	return 0, false
}

// all empties the table and returns the handles that were loaded over the connection of this generation.
func (l *loaded) all(generation uint64) []tpm2.TPMHandle {
	l.mu.Lock()
	defer l.mu.Unlock()
	var handles []tpm2.TPMHandle
	for _, s := range l.slots {
		if s.generation == generation {
			handles = append(handles, s.handle)
		}
	}
	l.slots = nil
	return handles
}

func (l *loaded) index(k *Key) int {
	return slices.IndexFunc(l.slots, func(s slot) bool { return s.key == k })
}

// remove needs the lock.
func (l *loaded) remove(k *Key) (h tpm2.TPMHandle, generation uint64, found bool) {
	i := l.index(k)
	if i < 0 {
		return 0, 0, false
	}
	s := l.slots[i]
	l.slots = slices.Delete(l.slots, i, i+1)
	return s.handle, s.generation, true
}
