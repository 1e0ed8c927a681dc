package entra

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/keyagent/keyagent/internal/upstream"
)

// Sentinels that callers of this package decide on.
var (
	// ErrUnreachable: no answer came from the token endpoint.
	ErrUnreachable = errors.New("token endpoint not reachable")
	// ErrBadAnswer: the answer is not one that a token endpoint gives.
	ErrBadAnswer = errors.New("unusable answer from the token endpoint")
)

// maxCodes is how many of an error's codes are kept; Entra gives one or two.
const maxCodes = 16

// Error is a refusal by Entra (RFC 6749, 5.2, with Entra's additions).
type Error struct {
	Status        int    // HTTP status
	Code          string // member "error", such as "invalid_client"
	Suberror      string
	Codes         []int // AADSTS numbers, most specific first, 16 at most
	Description   string
	CorrelationID string
	TraceID       string
	RetryAfter    time.Duration // header Retry-After; 0 if absent
	Claims        string        // claims challenge to pass on, JSON as it came, 8 KiB at most
	// Unread: a part of the answer could not be read, so that Code and Codes may be incomplete.
	Unread bool
}

func (e *Error) Error() string {
	text := fmt.Sprintf("Entra token endpoint: status %d", e.Status)
	if e.Code != "" {
		text += ": " + e.Code
	}
	if e.Description != "" {
		text += ": " + e.Description
	}
	if e.CorrelationID != "" {
		text += " (correlation id " + e.CorrelationID + ")"
	}
	return text
}

// Has reports whether Entra named the AADSTS code.
func (e *Error) Has(code int) bool { return slices.Contains(e.Codes, code) }

// Temporary reports whether the same request may succeed later.
func (e *Error) Temporary() bool {
	return e.Status == http.StatusTooManyRequests || e.Status == http.StatusRequestTimeout || e.Status >= 500
}

// BlamesTime reports whether the refusal is about a time that Entra compared with its own clock:
// that of an assertion, a certificate or an attestation. A client with a wrong clock is refused
// like that, too.
func (e *Error) BlamesTime() bool {
	for _, code := range e.Codes {
		switch code {
		case CodeAssertionTime, CodeCertificateInvalid, CodeTokenNotAfterPassed, CodeAttestationTime:
			return true
		}
	}
	return false
}

// BlamesCertificate reports whether the refusal is about the certificate that the application
// presented or signed with.
func (e *Error) BlamesCertificate() bool {
	for _, code := range e.Codes {
		switch code {
		case CodeAssertionSignature, CodeCertificateUnknown, CodeCertificateRejected, CodeCertificateRevoked, CodeCertificateInvalid, CodeCertificateTrust:
			return true
		}
	}
	return false
}

// RefusesRequest reports whether Entra has refused this request for good, so that it may still give
// the client a token for another resource. It reports false if Entra blames the client's
// credential, application or tenant.
func (e *Error) RefusesRequest() bool {
	if e.Temporary() {
		return false
	}
	for _, code := range e.Codes {
		switch code {
		case CodeInvalidResource, CodeInvalidResourceURI:
			return true
		case CodeAppNotFound, CodeAppDisabled, CodeTenantNotFound, CodeNoFederation, CodeFederationSubject, CodeFederationIssuer, CodeWrongSecret, CodeAssertionInvalid:
			return false
		}
	}
	switch ReactionTo(e) {
	case ReactionUnboundResource:
		return true
	case ReactionFinal:
		return e.Code != "invalid_client" && (e.Code != "unauthorized_client" || len(e.Codes) > 0)
	}
	return false
}

// Hint says what an operator can do about the error, or nothing.
func (e *Error) Hint() string {
	for _, code := range e.Codes {
		if hint := hints[code]; hint != "" {
			return hint
		}
	}
	return ""
}

func newError(resp *http.Response, body []byte, now time.Time) *Error {
	e := &Error{Status: resp.StatusCode, RetryAfter: upstream.RetryAfter(resp.Header.Get("Retry-After"), now)}
	members, err := upstream.ParseMembers(body)
	if err != nil {
		return e // a body that is not JSON says nothing that we would repeat
	}
	text := func(name string) string {
		s, _ := members.Text(name) // each may be missing
		return upstream.Text(s)
	}
	e.Code, e.Suberror, e.Description = text("error"), text("suberror"), text("error_description")
	e.TraceID, e.CorrelationID = text("trace_id"), text("correlation_id")
	e.Codes, e.Unread = errorCodes(members)
	if _, err := members.Text("error"); err != nil && !missing(err) {
		e.Unread = true
	}
	if claims, _ := members.Text("claims"); len(claims) <= maxClaimsBytes {
		e.Claims = claims
	}
	return e
}

// errorCodes returns the AADSTS codes, and whether some could not be read, or are too many. A
// refusal without codes means something; one whose codes are not understood does not.
func errorCodes(members upstream.Members) (codes []int, unread bool) {
	list, err := members.List("error_codes")
	if err != nil {
		return nil, !missing(err)
	}
	for _, raw := range list[:min(len(list), maxCodes)] {
		var code int
		if string(raw) == "null" || json.Unmarshal(bytes.Trim(raw, `"`), &code) != nil {
			unread = true
			continue
		}
		codes = append(codes, code)
	}
	return codes, unread || len(list) > maxCodes
}

func missing(err error) bool {
	_, ok := errors.AsType[*upstream.MissingError](err)
	return ok
}
