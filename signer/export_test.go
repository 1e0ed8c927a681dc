package signer

import (
	"crypto"
	"crypto/rsa"
)

// PSSSaltLength is pssSaltLength.
func PSSSaltLength(public *rsa.PublicKey, h crypto.Hash, signature []byte) (int, error) {
	return pssSaltLength(public, h, signature)
}
