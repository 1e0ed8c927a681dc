// Package certverify tells what a TLS client signs to prove that it has the key of its certificate
// (the message CertificateVerify) from everything else that a key could be made to sign.
//
// It is for a signer that works for others: given the message and not its digest, it can see that
// its signature will be worth nothing but in this one handshake, and hashes the message itself.
//
//	message → Parse → CheckClient, VerifyServer → Digest → signature
//
// # What is accepted
//
// TLS 1.3: 64 spaces, "TLS 1.3, client CertificateVerify", a zero byte, and a hash of 32 or 48
// bytes, and nothing before or after them. The hash is that of the handshake, so the message does
// not say who the server is. TLS over QUIC and DTLS 1.3 sign the same.
//
// TLS 1.2: the handshake from ClientHello to ClientKeyExchange, which is read: each message framed
// as it must be, in the order of RFC 5246 (7.3), with a key agreement that the server has signed
// (ECDHE). It says who the server is. A renegotiation is a handshake like any other.
//
// Whatever begins otherwise is refused: assertions (JWT), certificate requests, certificates, CMS,
// messages of DTLS 1.2, of earlier versions of TLS and of servers.
//
// # What a server's name is worth
//
// A signature of TLS 1.2 is of use only to a server that has sent, and was sent, exactly the
// messages that are in it. So a caller that makes messages up, or puts the certificate of a server
// into a handshake with another one, gets a signature that no honest server takes.
// [Message.VerifyServer] asks for more: that a trusted authority has certified the server for the
// name in ClientHello, and that the server's key has signed the key agreement of this very
// handshake. It cannot say that the connection has not been broken off since, nor whether the
// server's certificate is revoked.
//
// # Invariants
//
//   - The package is pure: bytes in, values out.
//   - Of what it accepts, every byte is accounted for, and no byte can be added or left out.
//   - The zero [Message] verifies nothing and has no digest.
//   - TLS 1.2 is accepted with suites of authenticated encryption and signatures with SHA-2 only.
//
// # Sources
//
// RFC 8446 (4.4.3), RFC 5246 (7.3, 7.4), RFC 6066 (3 server_name, 8 CertificateStatus), RFC 8422
// (5.4 ServerKeyExchange), RFC 5746 (renegotiation), RFC 5288, 5289 and 7905 (suites).
package certverify
