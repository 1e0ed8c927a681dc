package maa

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/keyagent/keyagent/internal/upstream"
)

// ErrNotOpened means that the answer's envelope could not be opened. It deliberately says no more.
var ErrNotOpened = errors.New("the attestation service's answer could not be opened")

// ErrWrongToken is in the error of a token that answers another request than ours.
var ErrWrongToken = errors.New("the attestation token is not an answer to this request")

// Error is a failure of the attestation service.
type Error struct {
	Endpoint   string
	Status     int           // HTTP status; 0: no usable answer came
	Code       string        // MAA's error code; may be empty
	Message    string        // MAA's text, shortened; may be empty
	RetryAfter time.Duration // 0: not said
	Err        error         // the cause, if Status is 0
}

func (e *Error) Error() string {
	text := fmt.Sprintf("attesting at %s", e.Endpoint)
	switch {
	case e.Status == 0:
		return fmt.Sprintf("%s: %v", text, e.Err)
	case e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden:
		text += fmt.Sprintf(": status %d: this instance of Azure Attestation wants its callers to authenticate", e.Status)
	default:
		text += fmt.Sprintf(": status %d", e.Status)
	}
	for _, part := range []string{e.Code, e.Message} {
		if part != "" {
			text += ": " + part
		}
	}
	return text
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Temporary reports whether the same request may succeed later. A refusal of the evidence (400) is
// final.
func (e *Error) Temporary() bool {
	return e.Status == 0 || e.Status == http.StatusTooManyRequests || e.Status >= 500
}

// Refuses reports whether the service has said no to this request, for good. A redirect is neither
// that nor temporary.
func (e *Error) Refuses() bool { return e.Status >= http.StatusBadRequest && !e.Temporary() }

// RefusesEvidence reports whether the service says that it does not accept this machine's evidence.
// 401 and 403 are about the caller, every other status is about something else.
func (e *Error) RefusesEvidence() bool { return e.Status == http.StatusBadRequest }

// refusal reads the service's error body: {"error":{"code","message"}}. A body of another form says
// nothing that we would repeat.
func refusal(endpoint string, rsp *http.Response, body []byte, now time.Time) *Error {
	e := &Error{Endpoint: endpoint, Status: rsp.StatusCode, RetryAfter: upstream.RetryAfter(rsp.Header.Get("Retry-After"), now)}
	members, err := upstream.ParseMembers(body)
	if err != nil {
		return e
	}
	said, _ := members.Object("error") // each may be missing
	code, _ := said.Text("code")
	message, _ := said.Text("message")
	e.Code, e.Message = upstream.Text(code), upstream.Text(message)
	return e
}
