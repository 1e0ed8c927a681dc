package waiting

import (
	"context"
	"time"
)

// Sleep waits for d. If ctx ends first, it returns the error of ctx at once.
func Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Lock is a mutual exclusion that can be waited for with a context. It is made by [NewLock]; a copy
// is the same lock.
type Lock struct{ held chan struct{} }

// NewLock returns a lock that nobody holds.
func NewLock() Lock { return Lock{make(chan struct{}, 1)} }

// Lock waits until the lock is free and takes it. If ctx ends first, it returns the error of ctx,
// and the lock is not held.
func (l Lock) Lock(ctx context.Context) error {
	select {
	case l.held <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// LockAlways takes the lock, however long that takes: for a Close, whose work has to be done.
func (l Lock) LockAlways() { l.held <- struct{}{} }

// TryLock takes the lock if it is free, and reports whether it did.
func (l Lock) TryLock() bool {
	select {
	case l.held <- struct{}{}:
		return true
	default:
		return false
	}
}

// Unlock frees the lock, which must be held.
func (l Lock) Unlock() { <-l.held }
