// Package tlsbridge opens mutual-TLS connections whose client key never leaves
// the hardware, and, with the same settings, connections to servers that want no client
// certificate ([NewClient]).
//
// A [Bridge] belongs to one pair of certificate and key and has its own connection
// pool: a pooled connection of another pair could present another certificate.
// When a certificate is replaced, a new Bridge is made and the old one closed.
//
// # Invariants
//
//   - The certificate is always offered: the standard library's own choice by
//     the server's CA names can silently offer none.
//   - TLS 1.2 is the floor, the server's certificate is always verified, no
//     session is resumed (each connection proves possession of the key), no
//     redirect is followed, no proxy is taken from the environment.
//   - A handshake, its signature included, has a time limit of ten seconds, even if the
//     key's hardware hangs.
//   - A burst of requests on a new Bridge costs one handshake: until the first connection to a host
//     is established, one request is sent alone. With HTTP/2 all others share its connection;
//     without it there are at most four connections.
//   - Resources are called by bridges of their own ([NewForResource]): programs choose when
//     and how often, so few handshakes wait for the key at a time, and requests and answers
//     may be streams. One that asks for the certificate late is offered TLS 1.2 and HTTP/1.1
//     only, and may renegotiate once in a connection, with the same certificate.
//   - A proxy forwards the connection (CONNECT) and cannot read it: TLS ends at the
//     server behind it. The key never signs for a proxy.
//
// # Algorithms
//
// TLS 1.2 is offered with ECDHE and AES-GCM only, key agreement on P-256 and P-384 only:
// what FIPS 140-3 modules and SP 800-52 have in common, and every server of Microsoft's
// takes it. X25519 and its post-quantum hybrid are left out for the same reason. The
// suites of TLS 1.3 cannot be chosen in Go: its third, ChaCha20-Poly1305, goes when the
// process runs with GODEBUG=fips140=on.
//
// # Sources
//
// RFC 8446 (4.4.3 CertificateVerify, 6.2 alerts), RFC 8705 (2 mutual TLS client
// authentication), RFC 9110 (9.3.6 CONNECT), NIST SP 800-52 Rev. 2 (3.3.1 suites).
package tlsbridge
