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

// credentialRejected reports whether Entra has turned down the credential itself, so that another entry of the list may do. An alert
// that anybody on the way can have sent is no word of Entra's: another certificate may be tried for it, not another credential.
func credentialRejected(err error) bool {
	if chain, ok := errors.AsType[*ChainError](err); ok {
		return chain.every(credentialRejected)
	}
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

// rejectsAll reports whether no certificate will do: Entra itself has rejected one, and that was a replacement already, or the issuer
// gives no other.
func (e *notReplaced) rejectsAll() bool {
	if !credentialRejected(e.rejection) {
		return false
	}
	if paused, ok := errors.AsType[*binding.PausedError](e.err); ok {
		return paused.Replacement
	}
	return cannotBeBound(e.err)
}

// cannotBeBound reports whether the other side has said for good that it does not take, or give, the bound form of a credential.
// A failure to reach anybody never says that: who can disturb a network must not choose the weaker form.
func cannotBeBound(err error) bool {
	if chain, ok := errors.AsType[*ChainError](err); ok {
		return chain.every(cannotBeBound)
	}
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

// definite reports whether the bound form of a credential cannot be had because of something on this machine, its metadata service
// included, or by a word that is certainly the other side's. After anything else, only a credential that is bound, too, may take its
// place.
func definite(err error) bool {
	if chain, ok := errors.AsType[*ChainError](err); ok {
		return chain.every(definite)
	}
	if e, ok := errors.AsType[*notReplaced](err); ok {
		return e.rejectsAll()
	}
	if _, weak := errors.AsType[*floorError](err); weak {
		return true
	}
	if _, said := errors.AsType[*imds.Error](err); said || errors.Is(err, imds.ErrUnreachable) {
		return true
	}
	return cannotBeBound(err) || refuses(err)
}

// refuses reports whether an error says of itself that it is a refusal which asking again does not mend. The method Temporary of
// errors of package net and of the system says something else: a connection that is cut is not temporary there.
func refuses(err error) bool {
	var refusal interface{ Refuses() bool }
	return errors.As(err, &refusal) && refusal.Refuses()
}
