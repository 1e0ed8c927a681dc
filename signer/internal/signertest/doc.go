// Package signertest has what the tests of signer and of the packages below it share: a TPM of
// another make, keys as other programs make them, and a certificate authority.
package signertest
