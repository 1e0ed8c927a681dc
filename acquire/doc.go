// Package acquire turns configured identities into tokens.
//
// An [Acquirer] knows the identities of one configuration. For a request it
// looks into its token cache; on a miss one flight per cache key, however many
// callers wait, walks the identity's list of credentials. Each is one road to
// Microsoft Entra:
//
//	managed identity, bound     binding certificate (binding) → token over mTLS (tlsbridge, entra)
//	managed identity, unbound   token of IMDS (imds)
//	certificate, bound          certificate of a key in the TPM and signed assertion → token over mTLS
//	certificate, unbound        signed assertion → token
//	federated, bound            bound assertion of somebody else → exchange over mTLS with the same certificate
//	federated, unbound          assertion of somebody else → exchange
//
// What comes back is an ordinary Bearer token, or one of type mtls_pop. Read
// request.go for a request's way, chain.go for the list, verdict.go for what an
// error means, and one file for each road.
//
// # Invariants
//
//   - An access token lives in memory only, inside a [secret.String] that no
//     printing, logging or encoding reveals.
//   - A failed refresh never touches a good token. A token is served until it
//     really expires, and not one second longer; one that is bound to a
//     certificate goes with it.
//   - The cancellation of one caller never cancels the flight that others wait for,
//     and what one caller asks for besides never becomes what others get.
//   - What is reported about a token ([Strength], [Binding], fallback) is what
//     happened when it was obtained, never what was configured.
//   - A credential goes unbound, or gives way to an unbound one, by configuration
//     and by a definite no of the other side only: never because somebody was not
//     reached.
//   - Each flight is charged to the [Account] of the request that caused it, and a refresh ahead of need to the one that
//     asked, or had the token fetched before. Who has asked for too much is told before anybody beyond this process is asked.
//   - An assertion and the certificate that it is bound to are one value.
//   - A binding certificate is replaced once in a flight, and by the word of its own
//     identity's request only.
//
// # Errors
//
// Every error of [Acquirer.Token] is an [*Error] (or the caller's own context
// error); its Kind says what a caller can do about it. A [*ChainError] inside says
// why each entry of a list failed.
//
// # Sources
//
// Wire: MSI v2 as MSAL.NET speaks it (getplatformmetadata, issuecredential,
// token request over mutual TLS), RFC 6749, RFC 7523, RFC 8705; the fallback of
// Microsoft.Identity.Web's credential lists, as far as docs/adr/0009 follows it.
package acquire
