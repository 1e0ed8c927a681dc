// Package entra is the simulated mutual-TLS token endpoint of Microsoft Entra, for managed identities.
//
// # What it refuses
//
// A token is issued only over a TLS connection whose client certificate the managed identity issuer has issued, to the client that asks,
// within notAfter and within token_not_after, and not revoked. Possession of the key is what the handshake proves; sessions are not
// resumed, so that every connection proves it again. TLS itself accepts any certificate or none: whoever is refused is to
// learn why, as an OAuth error with an AADSTS code, and not as an alert.
//
// The form must be exactly that of a managed identity's Bearer request over mutual TLS. Fields that belong to other flows are refused, as they show that a
// client mixes flows up.
//
// # Assumptions
//
// Which code Entra gives for a certificate of another issuer, or of another client, is not documented. The simulator answers with codes
// whose documented reaction is the same (invalid_client: mint again). Access tokens imitate version 1.0 tokens with the simulator's
// own issuer and keys; /{tenant}/discovery/v2.0/keys has the keys.
//
// # Sources
//
// RFC 6749 (4.4, 5.1, 5.2), RFC 8705 (2); MSAL.NET 4.88 (managed identity with WithRequestOverMtls); Microsoft's published AADSTS codes.
package entra
