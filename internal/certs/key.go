package certs

import (
	"crypto"
	"crypto/rsa"
	"fmt"
)

// MaxRSABits is the largest RSA modulus that is verified with, as in crypto/tls. Certificate
// authorities have up to 4096 bits.
const MaxRSABits = 8192

// CheckKey refuses a key that is too large to verify with. A certificate may hold an RSA key of any
// size, and the work of one verification grows with the square of it: evidence of 40 KB can keep a
// processor busy for seconds. Call it before verifying with a key that the operator has not chosen
// to trust, or read the certificate with [Parse].
//
// Not for the certificates of servers that crypto/tls connects to, which it bounds itself, nor for
// the public areas of TPM keys, which package attest takes in a few sizes only.
func CheckKey(key crypto.PublicKey) error {
	if k, ok := key.(*rsa.PublicKey); ok && k.N.BitLen() > MaxRSABits {
		return fmt.Errorf("its RSA key has %d bits; signatures are verified with keys of at most %d bits", k.N.BitLen(), MaxRSABits)
	}
	return nil
}
