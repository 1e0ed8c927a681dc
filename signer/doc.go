// Package signer is a [crypto.Signer] whose private key lives in a TPM and nowhere else. It signs
// TLS handshakes, certificate requests and assertions.
//
// [Open] loads the key file at a path, or makes a key and writes the file before the key is used
// for anything. Then it tests the key: with SHA-256, and for RSA with both paddings, it signs,
// verifies, and reads from the PSS signatures which salt the TPM took. TLS and JWT demand a salt as
// long as the hash; older TPMs take the longest that fits. Other hashes are tested when they are first
// wanted. What passed the test is what the key offers: [Key.ProvenSchemes]. Where the outcome is kept
// ([Config.Outcome]), later starts make one signature to see that it still holds.
//
// Named keys with their generations and certificates are in package keystore, requests and
// certificates in package certreq.
//
// [SoftwareKey] is for development without a TPM, and says so.
//
// What always holds:
//
//   - A key file is written once and never overwritten. A file that cannot be loaded is an error
//     with advice, not a reason to make another key: certificates belong to the old one.
//   - Every signature is verified with the public key before it leaves. A fault of the TPM, or an
//     interposer that changes its answer, causes an error instead of a wrong signature, which with
//     PKCS #1 could reveal the private key (Boneh, DeMillo, Lipton 1997).
//   - PSS signatures that leave have a salt of the hash's length.
//   - Signing with a context ([Key.WithContext]) ends with it. Without one it ends with [Key.Close]
//     or after 30 to 45 seconds.
//
// # Errors
//
// [ErrFault]: the TPM's signature was wrong. [ErrUnsupported]: a padding, hash or salt that the key
// does not offer. Errors of package tpm pass through: tpm.ErrForeignTPM, tpm.ErrUnavailable,
// tpm.ErrExportable.
//
// # Sources
//
// RFC 8017 (PKCS #1 2.2), 8.1, 8.2 and 9.1. RFC 3279, 2.2.3 (ECDSA signatures). RFC 8446 (TLS 1.3),
// 4.2.3: the salt is as long as the digest. TPM 2.0 Library, Part 1, annex B.7: RSAPSS.
package signer
