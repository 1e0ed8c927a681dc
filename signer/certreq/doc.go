// Package certreq is what lies between a key and its certificate: names ([ParseSubject], [ParseSubjectAltName]), requests
// ([NewCertificateRequest]), self-signed certificates ([SelfSign]), and the checks of a certificate that is to be used with a key
// ([CheckCertificate]).
//
// It computes only: keys come as a [crypto.Signer], certificates as bytes, and time as a value. It knows no TPM and no files.
//
// Every signature is verified before it leaves: package x509 does so with what a signer returns.
//
// # Errors
//
// [ErrUnsupported]: certificates cannot be signed with that key, or not with that algorithm. [CertificateError]: everything
// that keeps a certificate from being used with a key.
//
// # Sources
//
// RFC 2986 (PKCS #10), RFC 5280 (certificates), RFC 4514 (distinguished names), RFC 7468 (PEM), RFC 7093 (key identifiers).
package certreq
