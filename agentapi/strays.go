package agentapi

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Bounds of the reports on connections whose caller cannot be known: anybody on the machine can
// make such connections, by closing them at once.
const (
	straysAtOnce = 10
	strayEvery   = 10 * time.Second // one more is told of
)

// strays counts the connections of a face whose caller could not be known. It is safe for
// concurrent use.
type strays struct {
	mu     sync.Mutex
	told   *rate.Limiter
	untold int64
}

func newStrays() *strays { return &strays{told: rate.NewLimiter(rate.Every(strayEvery), straysAtOnce)} }

// next counts one more. It reports whether it is to be told of, and how many were not before it.
func (s *strays) next(now time.Time) (tell bool, untold int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.told.AllowN(now, 1) {
		s.untold++
		return false, 0
	}
	untold, s.untold = s.untold, 0
	return true, untold
}

// refuse puts a connection that is closed, because nobody knows whose it is, into log and audit.
func (a *admission) refuse(ctx context.Context, err error) {
	tell, untold := a.strays.next(a.server.cfg.Now())
	if !tell {
		return
	}
	a.server.cfg.Logger.WarnContext(ctx, "closing a connection", "error", err, "untold_before", untold)
	a.server.Note("connection refused", slog.String("endpoint", a.face.name),
		slog.String("reason", "its user is not known: "+clip(err.Error(), maxAuditedBytes)), slog.Int64("untold_before", untold))
}
