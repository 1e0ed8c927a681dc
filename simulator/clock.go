package simulator

import (
	"fmt"
	"sync"
	"time"
)

// Clock is the platform's time: that of its base, and what it was advanced by. It is safe for
// concurrent use.
type Clock struct {
	base func() time.Time

	mu     sync.Mutex // guards what follows
	offset time.Duration
}

// NewClock returns a clock that shows the time of base; nil means time.Now.
func NewClock(base func() time.Time) *Clock {
	if base == nil {
		base = time.Now
	}
	return &Clock{base: base}
}

// Now returns the platform's time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.base().Add(c.offset)
}

// Advance puts the clock forward. It does not go back, because certificates that were issued would
// then lie in the future.
func (c *Clock) Advance(d time.Duration) error {
	if d < 0 {
		return fmt.Errorf("advancing the clock by %v: it only goes forward", d)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset += d
	return nil
}
