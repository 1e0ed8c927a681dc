package forward

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// ErrIdle is why a call ends in which nothing has moved for too long.
var ErrIdle = errors.New("nothing was sent or received for too long")

// ErrCaller is wrapped by errors of the caller's connection.
var ErrCaller = errors.New("the caller went away")

func callerError(err error) error { return fmt.Errorf("%w: %w", ErrCaller, err) }

// watch ends a call in which nothing moves in either direction. It is safe for concurrent use.
type watch struct {
	idle  time.Duration
	timer *time.Timer

	mu   sync.Mutex
	over bool // the caller's connection is not the call's any more; guarded by mu
}

// newWatch starts to watch. When nothing moves for idle, it cancels the call and wakes whoever
// waits for the caller.
func newWatch(idle time.Duration, caller *http.ResponseController, cancel context.CancelCauseFunc) *watch {
	w := &watch{idle: idle}
	w.timer = time.AfterFunc(idle, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.over {
			return
		}
		cancel(ErrIdle)
		past := time.Unix(1, 0)
		_ = caller.SetReadDeadline(past)
		_ = caller.SetWriteDeadline(past)
	})
	return w
}

// moved says that something was sent or received.
func (w *watch) moved() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.over {
		w.timer.Reset(w.idle)
	}
}

// stop ends the watch: from then on the caller's connection is left alone.
func (w *watch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	w.timer.Stop()
}
