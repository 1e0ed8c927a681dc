// Package tlsbridge opens mutual-TLS connections whose client key never leaves
// the hardware.
//
// A [Bridge] belongs to one (certificate, key) pair and has its own connection
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
//   - A handshake, and so its signature, has ten seconds, even if the key's
//     hardware hangs.
//
// # Sources
//
// RFC 8446 (4.4.3 CertificateVerify), RFC 8705 (2 mutual TLS client authentication).
package tlsbridge
