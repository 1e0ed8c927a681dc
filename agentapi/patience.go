package agentapi

import (
	"context"
	"sync"
	"time"
)

// patience is the context of a request with a deadline, like that of [context.WithTimeout]. Its
// timer is not started before somebody waits, because nobody does for a token in memory, and the
// timer would be a tenth of what such an answer costs.
type patience struct {
	context.Context // of the request
	until           time.Time

	mu    sync.Mutex
	timed context.Context // with the timer; nil until somebody waits
	stop  context.CancelFunc
}

// withPatience returns a context that ends after d. Call end when it is not needed any more.
func withPatience(ctx context.Context, d time.Duration) (waits context.Context, end context.CancelFunc) {
	p := &patience{Context: ctx, until: time.Now().Add(d)}
	return p, p.end
}

// end releases the timer, if there is one.
func (p *patience) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stop != nil {
		p.stop()
	}
}

func (p *patience) wait() context.Context {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timed == nil {
		p.timed, p.stop = context.WithDeadline(p.Context, p.until)
	}
	return p.timed
}

// Deadline implements [context.Context].
func (p *patience) Deadline() (time.Time, bool) { return p.wait().Deadline() }

// Done implements [context.Context].
func (p *patience) Done() <-chan struct{} { return p.wait().Done() }

// Err implements [context.Context].
func (p *patience) Err() error { return p.wait().Err() }
