package entra

// AADSTS codes that the agent decides on, or that have a hint for the operator.
const (
	CodeInvalidResourceURI = 50001  // the resource is not known at all
	CodeInvalidResource    = 500011 // the resource principal is not in the tenant

	CodeAttestationTime      = 1000610 // attestation token used for issuance: outside its validity
	CodeAttestationIssuer    = 1000611 // ... of an issuer that is not trusted
	CodeAttestationClaim     = 1000612 // ... with a claim value that is not accepted
	CodeAttestationKeyURL    = 1000613 // ... with a key URL (jku) that is not trusted
	CodeAttestationSignature = 1000614 // ... with a wrong signature

	CodeTokenNotAfterPassed = 1000901 // the binding certificate's token_not_after has passed
	CodeCertificateInvalid  = 1000502 // the certificate is outside its validity
	CodeCertificateRejected = 7000214 // the certificate was revoked or is not accepted
	CodeCertificateRevoked  = 7000277 // the certificate was revoked
	CodeCertificateMismatch = 500181  // the connection's certificate is not the one that the assertion is bound to

	CodeBoundUnsupportedByResource = 392196  // the resource takes no certificate-bound tokens
	CodeBoundUnsupportedByTenant   = 3921996 // the tenant gets no certificate-bound tokens

	CodeFeatureDisabled    = 51000    // mutual-TLS client authentication is not enabled for the tenant or app
	CodeCertificateTrust   = 392189   // over mutual TLS, only certificates that are trusted by subject name and issuer, and federated credentials
	CodeNoCredential       = 7000218  // the request carried neither certificate nor assertion
	CodeNoFederation       = 70022204 // no federated credential of the app matches the assertion's audience
	CodeFederationSubject  = 700213   // ... its subject
	CodeFederationIssuer   = 700211   // ... its issuer
	CodeAssertionSignature = 700027   // the assertion's signature fits no registered certificate
	CodeCertificateUnknown = 7000274  // the certificate is not registered for the app
	CodeAssertionTime      = 700024   // the assertion is outside its validity
	CodeWrongSecret        = 7000215  // wrong client secret
	CodeAppNotFound        = 700016   // no such app in the tenant
	CodeAppDisabled        = 7000112  // the app is disabled in the tenant
	CodeTenantNotFound     = 90002    // no such tenant
	CodeAssertionInvalid   = 50013    // the assertion is not valid
)

const (
	hintAttestation = "Entra does not accept the attestation that the certificate was issued on. For a managed identity the agent attests anew (if it stays, see what the log says of attestation); the certificate of an application has to be made anew"
	hintRegistered  = "upload the certificate to the app registration, or name one that is registered there; over mutual TLS it can also mean " +
		"that Entra does not take this app's certificates there (see AADSTS51000 and 392189 in docs/credentials.md)"
	hintRejected   = "the certificate was revoked or replaced in Entra: a managed identity gets a new one by itself, an app registration needs a valid one uploaded"
	hintClock      = "check this machine's clock"
	hintFederation = "the app has no federated credential that matches the assertion: check issuer, audience and subject there (the object id of the managed identity, or of the other application's service principal)"
)

var hints = map[int]string{
	CodeInvalidResourceURI: "check the resource URI",
	CodeInvalidResource:    "check the resource URI; its service principal must exist in the tenant",

	CodeAttestationTime:      hintAttestation + "; " + hintClock,
	CodeAttestationIssuer:    hintAttestation,
	CodeAttestationClaim:     hintAttestation,
	CodeAttestationKeyURL:    hintAttestation,
	CodeAttestationSignature: hintAttestation,

	CodeTokenNotAfterPassed: "the binding certificate is too old for tokens; the agent gets a new one. If it stays, " + hintClock,
	CodeCertificateInvalid:  "the certificate is outside its validity; " + hintClock,
	CodeCertificateRejected: hintRejected,
	CodeCertificateRevoked:  hintRejected,
	CodeCertificateMismatch: "certificate and assertion were not a pair; the agent obtains both anew. If it stays, check that no proxy ends the TLS connection",

	CodeBoundUnsupportedByResource: "this resource does not take certificate-bound tokens: ask for a Bearer token",
	CodeBoundUnsupportedByTenant:   "this tenant does not get certificate-bound tokens: ask for a Bearer token, or have Microsoft enable them",

	CodeFeatureDisabled: "sign-in with a TLS certificate is switched off for this app or tenant on Microsoft's side. " +
		"Nothing on this machine can change that: ask Microsoft support to enable mutual-TLS client authentication, " +
		"or let the app authenticate with a signed assertion instead (bound: prefer or never at that credential)",
	CodeCertificateTrust: "Entra takes no certificate over mutual TLS that was merely uploaded, self-signed ones included: have an authority issue it " +
		"(keyagent key csr, then keyagent cert import) and the app registration trust it by subject name and issuer; " +
		"or let the app authenticate with a signed assertion (bound: prefer or never at that credential); or use a federated credential",
	CodeNoCredential:       "Entra wants an assertion in this flow: set send_assertion_over_mtls to always",
	CodeNoFederation:       hintFederation,
	CodeFederationSubject:  hintFederation,
	CodeFederationIssuer:   hintFederation,
	CodeAssertionSignature: hintRegistered,
	CodeCertificateUnknown: hintRegistered,
	CodeAssertionTime:      hintClock,
	CodeWrongSecret:        "the client secret is wrong or has expired",
	CodeAppNotFound:        "check client id and tenant id of the app registration",
	CodeAppDisabled:        "the app is disabled in the tenant: enable it there",
	CodeTenantNotFound:     "check the tenant of the application, and that its cloud is the right one",
	CodeAssertionInvalid:   "Entra does not accept the assertion: check that it is made for this app and cloud",
}
