// Package publickey bounds the public keys of others that signatures are verified with.
//
// A certificate may hold an RSA key of any size, and the work of one verification grows with the square of it and with the exponent:
// evidence of 40 KB can so keep a processor busy for seconds. Whoever reads a certificate that came from elsewhere, and is not
// the operator's own choice of whom to trust, reads it with [ParseCertificate], or asks [Check] before the key is used.
//
// Not here: the certificates of TLS servers, which crypto/tls bounds in the same way, and the public areas of TPM keys, which package
// attest takes in a few sizes only.
package publickey

import (
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
)

// MaxRSABits is the largest RSA modulus that is verified with, as in crypto/tls. Certificate authorities have up to 4096 bits.
const MaxRSABits = 8192

// Check refuses a key that is too large to verify with.
func Check(key crypto.PublicKey) error {
	if k, ok := key.(*rsa.PublicKey); ok && k.N.BitLen() > MaxRSABits {
		return fmt.Errorf("its RSA key has %d bits; signatures are verified with keys of at most %d bits", k.N.BitLen(), MaxRSABits)
	}
	return nil
}

// ParseCertificate is [x509.ParseCertificate] for a certificate of somebody else's making: one with a key that Check refuses is an error.
func ParseCertificate(der []byte) (*x509.Certificate, error) {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	if err := Check(c.PublicKey); err != nil {
		return nil, err
	}
	return c, nil
}
