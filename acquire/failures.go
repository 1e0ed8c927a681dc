package acquire

import (
	"fmt"
	"sync"
	"time"
)

// finalRest is how long a refusal that a retry does not change is answered from memory, so that a
// caller in a loop does not use up what IMDS and Entra allow the whole VM.
const finalRest = 5 * time.Second

// failureMemory remembers failures for as long as asking again is of no use: a refusal for
// finalRest, and a pause for as long as Retry-After said. Throttling concerns an identity as a
// whole, because the service throttles the client and not the resource. A pause that a service
// asked for holds for its client, even if a reload gives the identity another meaning.
type failureMemory struct {
	max int

	mu      sync.Mutex
	entries map[failureKey]failure
}

// failureKey identifies the subject of a failure: a token; or, with a client and meaning 0, what
// that client asks for under this name.
type failureKey struct {
	cacheKey
	client client
}

// pauseOf is the key of a pause that a service asked for.
func pauseOf(key cacheKey, of client) failureKey {
	key.meaning = 0
	return failureKey{key, of}
}

type failure struct {
	err   *Error
	until time.Time
}

// remembered is a failure that is repeated from memory: no service was asked.
type remembered struct {
	error
	left time.Duration
}

func (e *remembered) Error() string {
	return fmt.Sprintf("%v (remembered; asked again in %v)", e.error, max(e.left.Round(time.Second), time.Second))
}

func (e *remembered) Unwrap() error { return e.error }

func newFailureMemory(limit int) *failureMemory {
	return &failureMemory{max: limit, entries: map[failureKey]failure{}}
}

// remember keeps err for key, if it is of a kind that lasts.
func (m *failureMemory) remember(key cacheKey, of client, err *Error, now time.Time) {
	rest := err.RetryAfter
	about := failureKey{cacheKey: key}
	if rest > 0 {
		about = pauseOf(key, of)
	}
	switch err.Kind {
	case KindRefused, KindInvalidResource, KindUnknownIdentity:
		rest = max(rest, finalRest)
	case KindThrottled:
		about = pauseOf(cacheKey{identity: key.identity}, of)
	}
	if rest <= 0 || verdictOf(err.Err).costsNothing {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.entries) >= m.max {
		m.forgetLocked(now)
	}
	m.entries[about] = failure{err: err, until: now.Add(rest)}
}

// recall returns the failure because of which key must not be requested now, with the rest of its
// pause, or nil. A forced refresh is held up only by a pause that a service asked for: its caller
// may know that something was changed.
func (m *failureMemory) recall(key cacheKey, of client, now time.Time, forceRefresh bool) *Error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, k := range []failureKey{{cacheKey: key}, pauseOf(key, of), pauseOf(cacheKey{identity: key.identity}, of)} {
		f, ok := m.entries[k]
		if !ok {
			continue
		}
		left := f.until.Sub(now)
		if left > 0 && forceRefresh && f.err.RetryAfter == 0 {
			continue
		}
		if left > 0 {
			again := *f.err
			again.Err = &remembered{f.err.Err, left}
			if again.RetryAfter > 0 {
				again.RetryAfter = left
			}
			return &again
		}
		delete(m.entries, k)
	}
	return nil
}

// reconsider forgets the failures for which the other side asked for no pause.
func (m *failureMemory) reconsider() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, f := range m.entries {
		if f.err.RetryAfter == 0 {
			delete(m.entries, key)
		}
	}
}

// forgetLocked makes room: failures whose time is over are dropped, and if there are none, all are.
// At worst, that causes a few requests more.
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
