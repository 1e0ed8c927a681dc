// Package entra is a client of Microsoft Entra's token endpoint: one POST, its
// answer checked strictly, its errors kept whole.
//
// It knows the form of each flow ([Request]), the hosts of each cloud ([Authority]),
// how to sign a client assertion and how to merge claims. It knows nothing of TLS: the
// caller passes an *http.Client whose connections present the right certificate, or
// none. MSAL for Go has no mutual-TLS flow, which is why this client exists.
//
// # Invariants
//
//   - A 200 answer without token, with another token type than the one requested, or without a
//     lifetime is an error, never a token.
//   - A mtls_pop token is a JWT that confirms the certificate of the connection
//     (cnf, x5t#S256), or an error. The resource checks the token's signature.
//   - No redirect is followed, no answer over 1 MiB is read, and no host is
//     discovered: hosts come from the table of clouds or from the configuration.
//   - Errors carry Entra's codes and correlation id and never a token or an
//     assertion.
//
// # Errors
//
// [*Error] is a refusal by Entra; decide on [ReactionTo], never on its text.
// [ErrUnreachable] wraps every failure to get an answer, [ErrBadAnswer] an
// answer that breaks the protocol.
//
// # Sources
//
// RFC 6749 (4.4 client credentials, 5.2 errors); RFC 7523 (client assertions), RFC
// 7515 and 7518 (JWS, PS256); RFC 8705 (certificate-bound tokens); the token requests
// of MSI v2 and of app certificates as MSAL.NET 4.88 sends them, but for the encodings
// of the assertion: numbers as numbers, x5c as an array, base64url without padding.
package entra
