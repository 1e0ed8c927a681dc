package imds

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/keyagent/keyagent/internal/upstream"
)

const goneDelay = 10 * time.Second

// schedule returns the pauses between attempts that the first failure's status
// buys; status 0 stands for a time-out on our side.
func schedule(status int) []time.Duration {
	switch {
	case status == http.StatusGone:
		pauses := make([]time.Duration, 7)
		for i := range pauses {
			pauses[i] = goneDelay
		}
		return pauses
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
func (c *Client) withRetries(ctx context.Context, attempt func() error) error {
	var pauses []time.Duration
	for n := 0; ; n++ {
		err := attempt()
		status, worthIt := statusOf(err)
		if err == nil || !worthIt || ctx.Err() != nil {
			return err
		}
		if n == 0 {
			pauses = schedule(status)
		}
		if n >= len(pauses) {
			return err
		}
		if c.sleep(ctx, pauses[n]) != nil {
			return err // the server's last word says more than "deadline exceeded"
		}
	}
}

func statusOf(err error) (status int, worthIt bool) {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Status, retryable(e.Status)
	}
	return 0, upstream.TimedOut(err)
}
