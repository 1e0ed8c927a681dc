package acquire

import (
	"sync"
	"time"
)

// finalRest is how long a refusal that a retry will not change is answered from
// memory, so that one caller's loop does not use up what IMDS and Entra allow the
// whole VM.
const finalRest = 5 * time.Second

// failureMemory remembers failures for as long as asking again is of no use: a
// refusal for a moment, and for as long as the other side said with Retry-After. A
// throttled identity rests as a whole, because it is the client that is throttled,
// not the resource.
type failureMemory struct {
	max int

	mu      sync.Mutex
	entries map[cacheKey]failure
}

type failure struct {
	err   *Error
	until time.Time
}

func newFailureMemory(limit int) *failureMemory {
	return &failureMemory{max: limit, entries: map[cacheKey]failure{}}
}

// remember keeps err for key, if it is of a kind that lasts.
func (m *failureMemory) remember(key cacheKey, err *Error, now time.Time) {
	rest := err.RetryAfter
	switch err.Kind {
	case KindRefused, KindInvalidResource, KindUnknownIdentity:
		rest = max(rest, finalRest)
	case KindThrottled:
		key = cacheKey{identity: key.identity}
	}
	if rest <= 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.entries) >= m.max {
		m.forgetLocked(now)
	}
	m.entries[key] = failure{err: err, until: now.Add(rest)}
}

// recall returns what stands against asking for key now, with what is left of the
// pause; nil if nothing does.
func (m *failureMemory) recall(key cacheKey, now time.Time) *Error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, k := range []cacheKey{key, {identity: key.identity}} {
		f, ok := m.entries[k]
		if !ok {
			continue
		}
		if left := f.until.Sub(now); left > 0 {
			again := *f.err
			if again.RetryAfter > 0 {
				again.RetryAfter = left
			}
			return &again
		}
		delete(m.entries, k)
	}
	return nil
}

// forgetLocked makes room: what is over goes, and if nothing is, all goes. The
// price is a request more.
func (m *failureMemory) forgetLocked(now time.Time) {
	for key, f := range m.entries {
		if !now.Before(f.until) {
			delete(m.entries, key)
		}
	}
	if len(m.entries) >= m.max {
		clear(m.entries)
	}
}
