// Package errinfo reads what an error says of itself beside its text: whether asking again is of
// no use, and what to do next.
//
// Errors say it by methods, so that a package whose errors say it need not import this one; these
// are the methods' only declarations. A whole tree of wrapped errors is searched, as errors.As does
// it, and the first one that has the method answers.
package errinfo

import "errors"

// Refuser is an error that knows whether it is a refusal for good.
type Refuser interface {
	error
	// Refuses reports whether asking again changes nothing. It is not the opposite of the method
	// Temporary of package net's errors: a connection that was cut is not temporary there.
	Refuses() bool
}

// Hinter is an error that knows what can be done about it.
type Hinter interface {
	error
	// Hint says what to do next, for the operator; it may be empty.
	Hint() string
}

// EvidenceRefuser is an error of an attestation service.
type EvidenceRefuser interface {
	error
	// RefusesEvidence reports whether the service itself does not accept this machine's evidence.
	RefusesEvidence() bool
}

// Refuses reports whether err says of itself that asking again changes nothing.
func Refuses(err error) bool {
	e, ok := errors.AsType[Refuser](err)
	return ok && e.Refuses()
}

// Hint is what err says is to be done next, or "".
func Hint(err error) string {
	if e, ok := errors.AsType[Hinter](err); ok {
		return e.Hint()
	}
	return ""
}

// RefusesEvidence reports whether err is an attestation service's refusal of this machine's
// evidence.
func RefusesEvidence(err error) bool {
	e, ok := errors.AsType[EvidenceRefuser](err)
	return ok && e.RefusesEvidence()
}
