// Package acquire turns configured identities into tokens.
//
// An [Acquirer] knows the identities of one configuration. For a request it
// looks into its token cache; on a miss one flight per cache key, however many
// callers wait, walks the road to Microsoft Entra:
//
//	metadata (imds) → binding certificate (binding) → token over mTLS (tlsbridge, entra)
//
// The binding certificate belongs to a key in the TPM; the TPM signs the TLS
// handshake. What comes back is an ordinary Bearer token.
//
// # Invariants
//
//   - An access token lives in memory only, inside a [secret.String] that no
//     printing, logging or encoding reveals.
//   - A failed refresh never touches a good token. A token is served until it
//     really expires, and not one second longer.
//   - The cancellation of one caller never cancels the flight that others wait for.
//   - What is reported about a token ([Strength], [Binding]) is what happened
//     when it was obtained, never what was configured.
//
// # Errors
//
// Every error of [Acquirer.Token] is an [*Error] (or the caller's own context
// error); its Kind says what a caller can do about it.
//
// # Sources
//
// Wire: MSI v2 as MSAL.NET speaks it (getplatformmetadata, issuecredential,
// token request over mutual TLS), RFC 6749, RFC 8705.
package acquire
