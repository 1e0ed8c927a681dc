package agentapi

import (
	"context"
	"sync"
)

// newcomers are the connections that were accepted and have not asked anything yet. A server of
// net/http that is shutting down drops what it reads from them, and their programs, unlike those of
// a connection that was used before, do not ask again. The zero value has none. Safe for concurrent
// use.
type newcomers struct {
	mu   sync.Mutex
	open int
	none chan struct{} // closed when there are none; nil: nobody waits
}

// come counts one, until the function that it returns is called for the first time.
func (n *newcomers) come() (asked func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.open++
	return sync.OnceFunc(n.gone)
}

func (n *newcomers) gone() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.open--
	if n.open == 0 && n.none != nil {
		close(n.none)
		n.none = nil
	}
}

// wait returns when there are none, or ctx is done. Only one may wait, and none may come meanwhile.
func (n *newcomers) wait(ctx context.Context) {
	n.mu.Lock()
	if n.open == 0 {
		n.mu.Unlock()
		return
	}
	none := make(chan struct{})
	n.none = none
	n.mu.Unlock()
	select {
	case <-none:
	case <-ctx.Done():
	}
}
