// Package attesttest makes evidence for tests: a processor with a certificate chain of its own, a
// CA for attestation keys, and a machine whose TPM statements are signed by a software key.
// Everything about such a machine can be made wrong, one thing at a time, which a real TPM and a
// real processor rightly do not allow.
//
// The keys of the certificate chain are published with go-sev-guest; nothing but tests may trust
// them.
package attesttest
