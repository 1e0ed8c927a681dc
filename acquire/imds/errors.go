package imds

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/http"

	"github.com/keyagent/keyagent/internal/upstream"
)

// Sentinels that callers of this package decide on.
var (
	// ErrUnreachable: there was no answer of IMDS, or only one that says to try again later.
	ErrUnreachable = errors.New("instance metadata service not reachable")
	// ErrBadAnswer: the answer breaks the protocol.
	ErrBadAnswer = errors.New("unusable answer from the instance metadata service")
	// ErrNotSupported: the host's IMDS has no MSI v2 endpoints.
	ErrNotSupported = errors.New("this VM's instance metadata service does not offer binding certificates (MSI v2)")
)

// Error is a refusal by IMDS itself: its header Server says so.
type Error struct {
	Operation     string // "getplatformmetadata", "issuecredential", "token" or "compute"
	Status        int    // HTTP status
	Code          string // member "error", such as "invalid_request" or "identity_not_found"; may be empty
	Description   string // member "error_description" or "message", shortened; may be empty
	CorrelationID string // member "correlationId", for a support request; may be empty
	Unread        bool   // there is a member "error" that could not be read
}

func (e *Error) Error() string {
	text := fmt.Sprintf("IMDS %s: status %d", e.Operation, e.Status)
	for _, part := range []string{e.Code, e.Description} {
		if part != "" {
			text += ": " + part
		}
	}
	return text
}

// Temporary reports whether the same request may succeed later.
func (e *Error) Temporary() bool {
	return retryable(e.Status)
}

// Refuses reports whether IMDS has refused this request for good. A redirect, or a status that IMDS
// never gives, is neither that nor temporary.
func (e *Error) Refuses() bool {
	return e.Status >= http.StatusBadRequest && e.Status < http.StatusInternalServerError && !e.Temporary()
}

// RefusesIssuance reports whether IMDS refuses to issue a binding certificate to this VM's
// identity: its 400 to issuecredential. Any other refusal may be about one request, or about the
// identity.
func (e *Error) RefusesIssuance() bool {
	return e.Operation == opCredential && e.Status == http.StatusBadRequest && e.Code != CodeIdentityNotFound && !e.Unread
}

// RefusesRequest reports whether IMDS has refused this request only, so that it may still give the
// identity a token for another resource. It reports false if IMDS does not have the identity, or
// does not serve this process at all.
func (e *Error) RefusesRequest() bool {
	switch e.Status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusProxyAuthRequired:
		return false
	}
	return e.Operation == opToken && e.Refuses() && e.Code != CodeIdentityNotFound
}

// CodeIdentityNotFound is the error code for an identity that the VM does not have.
const CodeIdentityNotFound = "identity_not_found"

// Is makes a 404 to getplatformmetadata match [ErrNotSupported]: only hosts without MSI v2 give it
// for good. A 404 to issuecredential is an ordinary failure, as in Microsoft's clients.
func (e *Error) Is(target error) bool {
	return target == ErrNotSupported && e.Status == http.StatusNotFound && e.Operation == opMetadata
}

// strangerError is an answer, not 200, of a server that is not IMDS and so can neither refuse nor
// say what the host has. It may be a proxy's answer about IMDS behind it, which is why its status
// decides on retries.
type strangerError struct {
	operation string
	status    int
	server    string // header Server, shortened
	asks      bool   // it asks for the header that IMDS demands
}

func (e *strangerError) Error() string {
	return fmt.Sprintf("IMDS %s: %v: status %d, and the Server header %q is not that of IMDS: something else answers in its place",
		e.operation, e.Unwrap(), e.status, e.server)
}

// Unwrap tells a failure to get to IMDS from an answer that makes no sense. A 404 is the latter: it
// does not say that IMDS is behind this server.
func (e *strangerError) Unwrap() error {
	if retryable(e.status) && e.status != http.StatusNotFound {
		return ErrUnreachable
	}
	return ErrBadAnswer
}

// newError makes an error of an answer that is not 200.
func newError(operation string, a answer) error {
	if a.status == http.StatusForbidden && bytes.Contains(a.body, []byte("unreachable")) {
		return fmt.Errorf("IMDS %s: %w: the container engine's proxy answered in its place", operation, ErrUnreachable)
	}
	if !a.ofIMDS() {
		return &strangerError{operation: operation, status: a.status, server: upstream.Text(a.server), asks: asksForHeader(a.body)}
	}
	e := &Error{Operation: operation, Status: a.status}
	members, err := upstream.ParseMembers(a.body)
	if err != nil {
		return e // a body that is not JSON says nothing that we would repeat
	}
	text := func(name string) string {
		s, _ := members.Text(name) // each may be missing
		return upstream.Text(s)
	}
	e.Code, e.CorrelationID = text("error"), text("correlationId")
	if _, err := members.Text("error"); err != nil {
		_, missing := errors.AsType[*upstream.MissingError](err)
		e.Unread = !missing
	}
	e.Description = cmp.Or(text("error_description"), text("message"))
	return e
}

// asksForHeader reports whether a refusal has IMDS' own text for a request without its header:
// "Required metadata header not specified".
func asksForHeader(body []byte) bool {
	return bytes.Contains(bytes.ToLower(body), []byte("metadata header"))
}
