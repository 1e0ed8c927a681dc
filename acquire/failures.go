package acquire

import (
	"fmt"
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
// not the resource. What the other side asked for holds for its client, whatever
// the agent's configuration says of it meanwhile.
type failureMemory struct {
	max int

	mu      sync.Mutex
	entries map[failureKey]failure
}

// failureKey is what a failure is about: a token, or with a client and without a meaning what that client asks for under this name.
type failureKey struct {
	cacheKey
	client client
}

// pauseOf is the key of a pause that was asked for.
func pauseOf(key cacheKey, of client) failureKey {
	key.meaning = 0
	return failureKey{key, of}
}

type failure struct {
	err   *Error
	until time.Time
}

// remembered is a failure that is told again, without anybody having been asked.
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

// recall returns what stands against asking for key now, with what is left of the
// pause; nil if nothing does. Whoever asks past the cache may know that something was
// changed, and is held up only by a pause that the other side asked for.
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
