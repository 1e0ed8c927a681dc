// Package acquire turns configured identities into access tokens.
//
// An [Acquirer] holds the identities of one configuration. A request is answered from the token
// cache; on a miss one flight per cache key, however many callers wait for it, tries the identity's
// list of credentials in order. Each credential obtains tokens of Microsoft Entra in its own way:
//
//	managed identity, bound     binding certificate (binding) → token over mTLS (tlsbridge, entra)
//	managed identity, unbound   token of IMDS (imds)
//	certificate, bound          TPM key's certificate and signed assertion → token over mTLS
//	certificate, unbound        signed assertion → token
//	federated, bound            another identity's bound assertion → exchange over its mTLS
//	federated, unbound          assertion of another identity, or of a file → exchange
//
// The result is an ordinary Bearer token, or one of type mtls_pop. To follow a request, read
// request.go, flight.go, obtain.go and outcome.go in this order; chain.go tries the list,
// licence.go and verdict.go say what an error means, and each credential has a file of its own.
//
// # Invariants
//
//   - An access token is kept in memory only, inside a [secret.String] that no printing, logging or
//     encoding reveals.
//   - A failed refresh leaves a good token alone. A token is served until it expires, and not one
//     second longer; a token that is bound to a certificate is dropped with that certificate.
//   - The cancellation of one caller never cancels the flight that others wait for, and a token
//     that one caller got by claims or a forced refresh is never given to others.
//   - The report about a token ([Strength], [Binding], fallback) tells how it was obtained, never
//     what was configured.
//   - A weaker credential is used only where the configuration allows it and the other side has
//     definitely refused the better one; never because a service could not be reached.
//   - Each flight is charged to the [Account] of the request that caused it; a refresh ahead of
//     need is charged to the account that asked for the token, or had it fetched, before. A caller
//     over its limit is refused before any request leaves this process.
//   - An assertion and the certificate that it is bound to are one value.
//   - A binding certificate is replaced at most once in a flight, and only after a rejection of its
//     own identity's token request.
//
// # Errors
//
// Every error of [Acquirer.Token] is an [*Error] or the caller's own context error; its Kind says
// what a caller can do about it. A [*ChainError] inside says why each entry of a list failed.
//
// # Sources
//
// MSI v2 as MSAL.NET implements it (getplatformmetadata, issuecredential, token request over mutual
// TLS); RFC 6749, RFC 7523, RFC 8705; the fallback of Microsoft.Identity.Web's credential lists, as
// far as docs/adr/0009 follows it.
package acquire
