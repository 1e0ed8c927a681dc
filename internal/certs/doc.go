// Package certs does with certificates what crypto/x509 does not: it reads them from the files in
// which people get them, compares names as RFC 5280, section 7.1, says, and names the algorithm
// that a certificate is signed with. And it bounds the keys that signatures are verified with.
//
// What always holds:
//   - A file is used as a whole or refused as a whole. The error says which block it is, in which
//     line, and whose certificate.
//   - A file of authorities to trust is read more strictly than a certificate to import: PEM only,
//     no certificate whose subject may not issue any, no trust settings that would be passed
//     over, no private key beside it.
//   - Two names that are not equal are never printed as the same text.
//   - Nothing here verifies a signature.
//
// Sources: RFC 5280 (certificates; 7.1 names), RFC 4518 (preparing strings), RFC 7468 (labels), RFC
// 4055 (RSASSA-PSS), RFC 2315 (PKCS #7).
package certs
