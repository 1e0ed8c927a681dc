package acquire

import (
	"errors"
	"fmt"

	"github.com/keyagent/keyagent/acquire/binding"
	"github.com/keyagent/keyagent/acquire/entra"
	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/tlsbridge"
)

// certificateRejected reports whether err is a rejection of a binding certificate that another one would mend, and which of its
// foundations is suspected.
func certificateRejected(err error) (why binding.Reason, rejected bool) {
	if err == nil {
		return "", false
	}
	if tlsbridge.CertificateRefused(err) {
		return binding.ReasonCertificate, true
	}
	switch entra.ReactionTo(err) {
	case entra.ReactionReattest:
		return binding.ReasonAttestation, true
	case entra.ReactionReissue, entra.ReactionCertificate:
		return binding.ReasonCertificate, true
	}
	return "", false
}

// assertionRejected reports whether another assertion, obtained now, could be taken in place of the one that was sent.
func assertionRejected(err error) bool {
	switch entra.ReactionTo(err) {
	case entra.ReactionPair, entra.ReactionRebuildAssertion:
		return true
	}
	return false
}

// credentialRejected reports whether Entra has turned down the credential itself, so that another entry of the list may do. An alert
// that anybody on the way can have sent is no word of Entra's: another certificate may be tried for it, not another credential.
func credentialRejected(err error) bool {
	if tlsbridge.RefusalProven(err) {
		return true
	}
	switch entra.ReactionTo(err) {
	case entra.ReactionReattest, entra.ReactionReissue, entra.ReactionCertificate,
		entra.ReactionPair, entra.ReactionRebuildAssertion, entra.ReactionNextCredential:
		return true
	}
	return false
}

// notReplaced says that Entra rejected a certificate, and why there is no other one.
type notReplaced struct{ rejection, err error }

func (e *notReplaced) Error() string {
	return fmt.Sprintf("%v (and another certificate was not obtained: %v)", e.rejection, e.err)
}

// Unwrap returns both.
func (e *notReplaced) Unwrap() []error { return []error{e.rejection, e.err} }

// rejectsAll reports whether no certificate will do: what Entra rejected was a replacement already, or the issuer gives no other.
func (e *notReplaced) rejectsAll() bool {
	if _, paused := errors.AsType[*binding.PausedError](e.err); paused {
		return credentialRejected(e.rejection)
	}
	return cannotBeBound(e.err)
}

// cannotBeBound reports whether the other side has said for good that it does not take, or give, the bound form of a credential.
// A failure to reach anybody never says that: who can disturb a network must not choose the weaker form.
func cannotBeBound(err error) bool {
	if e, ok := errors.AsType[*notReplaced](err); ok {
		return e.rejectsAll()
	}
	switch entra.ReactionTo(err) {
	case entra.ReactionFeature, entra.ReactionUnboundResource, entra.ReactionUnboundTenant:
		return true
	}
	if errors.Is(err, imds.ErrNotSupported) || credentialRejected(err) {
		return true
	}
	if errors.Is(err, binding.ErrAttestation) {
		return refuses(err)
	}
	if e, ok := errors.AsType[*imds.Error](err); ok {
		return e.Refuses() && e.Code != "identity_not_found"
	}
	return false
}

// refuses reports whether an error says of itself that it is a refusal which asking again does not mend. The method Temporary of
// errors of package net and of the system says something else: a connection that is cut is not temporary there.
func refuses(err error) bool {
	var refusal interface{ Refuses() bool }
	return errors.As(err, &refusal) && refusal.Refuses()
}
