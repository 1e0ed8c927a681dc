// Package certreq gets a key its certificate: it parses names ([ParseSubject],
// [ParseSubjectAltName]), makes requests ([NewCertificateRequest]) and self-signed certificates
// ([SelfSign]), and checks a certificate that is to be used with a key ([CheckCertificate]).
//
// It only computes: a key is a [crypto.Signer], a certificate file is bytes, and the time is an
// argument or a function. It knows no TPM and no files. Everything in it is safe for concurrent
// use.
//
// Every signature is verified before it leaves: package x509 does so with what a signer returns.
//
// # Errors
//
// [ErrUnsupported]: certificates cannot be signed with that key, or not with that algorithm.
// [CertificateError]: everything that keeps a certificate from being used with a key.
//
// # Sources
//
// RFC 2986 (PKCS #10), RFC 5280 (certificates), RFC 4514 (distinguished names), RFC 7468 (PEM), RFC
// 7093 (key identifiers).
package certreq
