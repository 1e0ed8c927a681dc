package entra

import "errors"

// Reaction is what a failed token request asks of the client. The zero value is
// [ReactionFinal].
type Reaction int

// Reactions to a failed token request.
const (
	// ReactionFinal: the same request fails until the configuration, here or in Entra, is changed.
	ReactionFinal Reaction = iota
	// ReactionWait: nothing is wrong with the request; try later.
	ReactionWait
	// ReactionReattest: drop the attestation token, attest the key again and have a new certificate
	// issued.
	ReactionReattest
	// ReactionReissue: have a new binding certificate issued.
	ReactionReissue
	// ReactionCertificate: the certificate is bad. A managed identity has a new one issued, an
	// application goes on to its next credential.
	ReactionCertificate
	// ReactionPair: certificate and assertion do not belong together; obtain both again.
	ReactionPair
	// ReactionNextCredential: the credential is not registered; try the next one.
	ReactionNextCredential
	// ReactionRebuildAssertion: sign another assertion, with the time of now, once.
	ReactionRebuildAssertion
	// ReactionUnboundResource: this resource takes no bound tokens. A Bearer token in
	// place of one is weaker, so only the operator's policy can allow it.
	ReactionUnboundResource
	// ReactionUnboundTenant: the same for all resources of the tenant.
	ReactionUnboundTenant
	// ReactionFeature: mutual-TLS client authentication is not enabled for the app, or not with
	// this kind of certificate.
	ReactionFeature
	// ReactionNeedsAssertion: the flow needs a client assertion, too.
	ReactionNeedsAssertion
)

var reactions = map[int]Reaction{
	CodeAttestationTime:            ReactionReattest,
	CodeAttestationIssuer:          ReactionReattest,
	CodeAttestationClaim:           ReactionReattest,
	CodeAttestationKeyURL:          ReactionReattest,
	CodeAttestationSignature:       ReactionReattest,
	CodeTokenNotAfterPassed:        ReactionReissue,
	CodeCertificateInvalid:         ReactionCertificate,
	CodeCertificateRejected:        ReactionCertificate,
	CodeCertificateRevoked:         ReactionCertificate,
	CodeCertificateMismatch:        ReactionPair,
	CodeAssertionSignature:         ReactionNextCredential,
	CodeCertificateUnknown:         ReactionNextCredential,
	CodeAssertionTime:              ReactionRebuildAssertion,
	CodeBoundUnsupportedByResource: ReactionUnboundResource,
	CodeBoundUnsupportedByTenant:   ReactionUnboundTenant,
	CodeFeatureDisabled:            ReactionFeature,
	CodeCertificateTrust:           ReactionFeature,
	CodeNoCredential:               ReactionNeedsAssertion,

	// These are named so that a less specific code beside them counts for nothing.
	CodeInvalidResource:    ReactionFinal,
	CodeInvalidResourceURI: ReactionFinal,
	CodeNoFederation:       ReactionFinal,
	CodeWrongSecret:        ReactionFinal,
	CodeAppNotFound:        ReactionFinal,
	CodeAssertionInvalid:   ReactionFinal,
}

// ReactionTo decides by status, error and error_codes, never by text. The first code that is known
// decides; a code that is unknown, or could not be read, is final. Alerts of a TLS handshake are
// [ErrUnreachable] here, which means to wait: whether they reject a certificate is decided by
// package tlsbridge.
func ReactionTo(err error) Reaction {
	e, ok := errors.AsType[*Error](err)
	switch {
	case !ok && errors.Is(err, ErrUnreachable):
		return ReactionWait
	case !ok:
		return ReactionFinal
	case e.Temporary():
		return ReactionWait
	case e.Unread:
		return ReactionFinal
	case e.Code == "invalid_client" && len(e.Codes) == 0:
		return ReactionReissue // something about the credential, and Entra does not say what
	}
	for _, code := range e.Codes {
		if reaction, known := reactions[code]; known {
			return reaction
		}
	}
	return ReactionFinal
}
