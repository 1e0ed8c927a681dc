// Package entra is a client of Microsoft Entra's token endpoint: one POST, its
// answer checked strictly, its errors kept whole.
//
// It builds the form of each flow and knows nothing of TLS: the caller passes
// an *http.Client whose connections present the right certificate. MSAL for Go
// has no mutual-TLS flow, which is why this client exists.
//
// # Invariants
//
//   - A 200 answer without token, with another token type than the one asked
//     for, or without a lifetime is an error, never a token.
//   - No redirect is followed, no answer over 1 MiB is read.
//   - Errors carry Entra's codes and correlation id and never a token or an
//     assertion.
//
// # Errors
//
// [*Error] is a refusal by Entra; decide on its Codes, never on its text.
// [ErrUnreachable] wraps every failure to get an answer, [ErrBadAnswer] an
// answer that breaks the protocol.
//
// # Sources
//
// RFC 6749 (4.4 client credentials, 5.2 errors); the token request of MSI v2 as
// MSAL.NET 4.88 sends it (token_type=bearer over mutual TLS).
package entra
