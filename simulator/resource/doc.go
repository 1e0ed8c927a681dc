// Package resource is a simulated web API that takes access tokens: it checks each one as an API
// should, and answers with the caller.
//
// It is what a demo or a test calls with the token in hand, to see that the token is good for what
// it was asked for and for nothing else. A token that is bound to a certificate (claim cnf) is good
// only over a TLS connection by that certificate, whatever the scheme of the Authorization header
// is; the scheme mtls_pop takes no others. It refuses with the codes of Azure Key Vault, and under
// /v1.0/ with those of Microsoft Graph.
//
// [Server.KeyVault] serves it as Key Vault does: in TLS 1.2, with a certificate that is asked for
// by renegotiation where the request says that its token is bound. As [TLSConfig] has it, it is
// asked for in the handshake, as Graph does.
//
// A claims challenge makes it refuse every token that does not carry the claims that are asked for,
// as continuous access evaluation does.
//
// # Sources
//
// RFC 6750, RFC 8705 (3); MSAL Go, pull request 662, for the codes; Microsoft identity platform,
// "Claims challenges, claims requests and client capabilities".
package resource
