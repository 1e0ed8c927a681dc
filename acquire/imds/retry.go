package imds

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/keyagent/keyagent/internal/upstream"
)

const goneDelay = 10 * time.Second

// A schedule gives the pauses between attempts after a first failure with this status: none if it
// is final. Status 0 stands for a time-out on our side.
type schedule func(status int) []time.Duration

// pauses is the schedule of Microsoft's own clients.
func pauses(status int) []time.Duration {
	switch {
	case status == http.StatusGone:
		return slices.Repeat([]time.Duration{goneDelay}, 7)
	case status == 0 || retryable(status):
		return []time.Duration{time.Second, 2 * time.Second, 4 * time.Second}
	}
	return nil
}

func retryable(status int) bool {
	switch status {
	case http.StatusNotFound, http.StatusRequestTimeout, http.StatusGone, http.StatusTooManyRequests:
		return true
	}
	return status >= 500
}

// withRetries calls attempt until it succeeds, its failure is final or the
// schedule is used up, and returns the last error.
func (c *Client) withRetries(ctx context.Context, plan schedule, attempt func() error) error {
	var planned []time.Duration
	for n := 0; ; n++ {
		err := attempt()
		status, told := statusOf(err)
		if err == nil || !told || len(plan(status)) == 0 || ctx.Err() != nil {
			return err
		}
		if n == 0 {
			planned = plan(status)
		}
		if n >= len(planned) {
			return err
		}
		if c.sleep(ctx, planned[n]) != nil {
			return err // the last answer says more than "deadline exceeded"
		}
	}
}

// statusOf returns the status of an answer that is not 200, whether IMDS or another server gave it,
// or 0 for a time-out. told is false if err is neither.
func statusOf(err error) (status int, told bool) {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Status, true
	}
	if e, ok := errors.AsType[*strangerError](err); ok {
		return e.status, true
	}
	return 0, upstream.TimedOut(err)
}
