package acquire

import (
	"errors"

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

// credentialRejected reports whether Entra has turned down the credential itself, so that another entry of the list may do.
func credentialRejected(err error) bool {
	if tlsbridge.CertificateRefused(err) {
		return true
	}
	switch entra.ReactionTo(err) {
	case entra.ReactionReattest, entra.ReactionReissue, entra.ReactionCertificate,
		entra.ReactionPair, entra.ReactionRebuildAssertion, entra.ReactionNextCredential:
		return true
	}
	return false
}

// cannotBeBound reports whether the other side has said for good that it does not take, or give, the bound form of a credential.
// A failure to reach anybody never says that: who can disturb a network must not choose the weaker form.
func cannotBeBound(err error) bool {
	switch entra.ReactionTo(err) {
	case entra.ReactionFeature, entra.ReactionUnboundResource, entra.ReactionUnboundTenant:
		return true
	}
	if errors.Is(err, imds.ErrNotSupported) || credentialRejected(err) {
		return true
	}
	if errors.Is(err, binding.ErrAttestation) {
		var temporary interface{ Temporary() bool }
		return errors.As(err, &temporary) && !temporary.Temporary()
	}
	if e, ok := errors.AsType[*imds.Error](err); ok {
		return !e.Temporary() && e.Code != "identity_not_found"
	}
	return false
}
