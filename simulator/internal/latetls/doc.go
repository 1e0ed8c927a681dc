// Package latetls is a TLS 1.2 server that asks for the client's certificate once it has seen a
// request: by renegotiation, as Azure Key Vault does. The standard library's server cannot
// renegotiate.
//
// It is a test double. It has one suite (ECDHE with P-256, ECDSA, AES-128-GCM), is not hardened,
// and is not fast. What it does is strict all the same: a client whose handshake is not exactly
// right is disconnected.
//
//	raw connection ⇄ engine (records, handshakes) ⇄ pipe ⇄ Conn, for net/http
//
// # Invariants
//
//   - A handshake begins when the connection does, or because the server has asked for it: clients
//     do not renegotiate on their own.
//   - A renegotiation is bound to the connection that it is on (RFC 5746).
//   - A certificate counts once its key has signed the handshake and both sides have finished it.
//   - [Conn.Close] returns when nothing of the connection runs any more.
//
// # Sources
//
// RFC 5246 (5 PRF, 6.2 records, 7 handshake, 8.1 master secret), RFC 5288 (AES-GCM), RFC 8422
// (ECDHE and ECDSA), RFC 5746 (renegotiation).
package latetls
