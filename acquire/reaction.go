package acquire

import (
	"errors"
	"fmt"

	"github.com/keyagent/keyagent/acquire/binding"
	"github.com/keyagent/keyagent/acquire/entra"
	"github.com/keyagent/keyagent/tlsbridge"
)

// certificateRejected reports whether err is a rejection of a binding certificate that another one would mend, and which of its
// foundations is suspected.
func certificateRejected(err error) (why binding.Reason, rejected bool) {
	if err == nil {
		return "", false
	}
	switch {
	case tlsbridge.RefusalProven(err):
		return binding.ReasonCertificate, true
	case tlsbridge.CertificateRefused(err): // before TLS 1.3, a server that means it looks the same as somebody on the way
		return binding.ReasonDoubt, true
	}
	switch entra.ReactionTo(err) {
	case entra.ReactionReattest:
		return binding.ReasonAttestation, true
	case entra.ReactionReissue, entra.ReactionCertificate:
		return binding.ReasonCertificate, true
	}
	return "", false
}

// pairRejected reports whether an assertion that is obtained now, and the certificate that it is then bound to, could be taken in place
// of those that were sent.
func pairRejected(err error) bool {
	switch entra.ReactionTo(err) {
	case entra.ReactionPair, entra.ReactionRebuildAssertion:
		return true
	}
	_, certificate := certificateRejected(err)
	return certificate
}

// notReplaced says that Entra rejected a certificate, and why there is no other one.
type notReplaced struct{ rejection, err error }

func (e *notReplaced) Error() string {
	return fmt.Sprintf("%v (and another certificate was not obtained: %v)", e.rejection, e.err)
}

// Unwrap returns both.
func (e *notReplaced) Unwrap() []error { return []error{e.rejection, e.err} }

// rejectsAll reports whether no certificate will do: Entra itself has rejected one, and that was a replacement already, or the issuer
// gives no other.
func (e *notReplaced) rejectsAll() bool {
	if !CannotBeBound(e.rejection) {
		return false
	}
	if paused, ok := errors.AsType[*binding.PausedError](e.err); ok {
		return paused.Replacement
	}
	return CannotBeBound(e.err)
}

// refuses reports whether an error says of itself that it is a refusal which asking again does not mend. The method Temporary of
// errors of package net and of the system says something else: a connection that is cut is not temporary there.
func refuses(err error) bool {
	var refusal interface{ Refuses() bool }
	return errors.As(err, &refusal) && refusal.Refuses()
}
