package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/keyagent/keyagent/agentapi/wire"
)

// Sentinels for errors.Is.
var (
	// ErrNotReachable: there was no answer from the socket, or only a part of one.
	ErrNotReachable = errors.New("the agent is not reachable")
	// ErrRefused: the agent's rules do not allow it. Only its administrator can
	// change that.
	ErrRefused = errors.New("refused by the agent's rules")
)

// Error is an error reported by the agent.
type Error struct {
	// Problem is the agent's description. Decide on its Code; show its Detail and
	// Hint. Code is empty if the answer did not come from the agent.
	Problem wire.Problem
	// Status is the HTTP status.
	Status int
	// RetryAfter is how long to wait before asking again; 0 means that asking
	// again will not help.
	RetryAfter time.Duration
}

func (e *Error) Error() string {
	if e.Problem.Code == "" {
		return fmt.Sprintf("the agent answered with status %d", e.Status)
	}
	if e.Problem.Detail == "" {
		return fmt.Sprintf("the agent answered %s: %s", e.Problem.Code, e.Problem.Title)
	}
	return fmt.Sprintf("the agent answered %s: %s", e.Problem.Code, e.Problem.Detail)
}

// Is makes errors.Is(err, ErrRefused) true for refusals by policy.
func (e *Error) Is(target error) bool {
	return target == ErrRefused && e.Problem.Code.RefusedByPolicy()
}

// maxRetryAfter bounds what a reply can make a caller wait.
const maxRetryAfter = time.Hour

func decodeError(resp *http.Response, body []byte) *Error {
	e := &Error{Status: resp.StatusCode}
	if seconds, err := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 31); err == nil {
		e.RetryAfter = min(time.Duration(seconds)*time.Second, maxRetryAfter)
	}
	mediaType, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || mediaType != wire.ContentTypeProblem {
		return e
	}
	var problem wire.Problem
	if err := json.Unmarshal(body, &problem); err == nil || isType(err) {
		e.Problem = problem
	}
	return e
}

// transportError says why there was no answer. If the caller's context has ended, that is
// the reason given: it is not the agent's fault.
func (c *Client) transportError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("asking the agent at %s: %w", c.socket, context.Cause(ctx))
	}
	if urlError, ok := errors.AsType[*url.Error](err); ok {
		err = urlError.Err // the URL is internal to this package
	}
	cause := err
	if opError, ok := errors.AsType[*net.OpError](err); ok {
		cause = opError.Err // the path is already in the text
	}
	advice := []string{fmt.Sprintf("%v at %s: %v", ErrNotReachable, c.socket, cause)}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		advice = append(advice, "is keyagent running, and is this its socket?")
	case errors.Is(err, syscall.ECONNREFUSED):
		advice = append(advice, "the socket is there, but keyagent is not running")
	case errors.Is(err, fs.ErrPermission):
		advice = append(advice, "this user may not open the socket; see its mode and that of its directory")
	}
	return &notReachable{text: strings.Join(advice, ": "), err: err}
}

// notReachable is both ErrNotReachable and its cause.
type notReachable struct {
	text string
	err  error
}

func (e *notReachable) Error() string   { return e.text }
func (e *notReachable) Unwrap() []error { return []error{ErrNotReachable, e.err} }
