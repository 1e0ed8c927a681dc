package signer

import (
	"crypto"
	"crypto/tls"
	"fmt"
	"slices"
)

// offer is what a key can do, as the self-test found it.
type offer struct {
	pkcs1 []crypto.Hash
	pss   []crypto.Hash       // with a salt of the hash's length
	salts map[crypto.Hash]int // measured, in bytes; missing: the TPM does not sign PSS with this hash
}

// salt returns the measured salt length with a hash, -1 if there is none.
func (o offer) salt(h crypto.Hash) int {
	if n, ok := o.salts[h]; ok {
		return n
	}
	return -1
}

// check refuses what the self-test did not see working.
func (o offer) check(h crypto.Hash, pss bool) error {
	if !pss && slices.Contains(o.pkcs1, h) || pss && slices.Contains(o.pss, h) {
		return nil
	}
	if !pss {
		return fmt.Errorf("%w: PKCS #1 v1.5 with %v", ErrUnsupported, hashName(h))
	}
	if n := o.salt(h); n >= 0 {
		return fmt.Errorf("%w: PSS with %v: this TPM salts it with %d bytes, not %d", ErrUnsupported, h, n, h.Size())
	}
	return fmt.Errorf("%w: PSS with %v", ErrUnsupported, hashName(h))
}

// hashName names a hash also if it is 0, which in Go means "not hashed" and in a TPM is impossible.
func hashName(h crypto.Hash) string {
	if h == 0 {
		return "data that is not a digest"
	}
	return h.String()
}

// SignatureSchemes lists what the key can sign in TLS, in order of preference, as the self-test found it. It belongs into
// tls.Certificate.SupportedSignatureAlgorithms. Without PSS there is no TLS 1.3 with this key.
func (k *Key) SignatureSchemes() []tls.SignatureScheme {
	var schemes []tls.SignatureScheme
	for _, h := range k.offered.pss {
		schemes = append(schemes, pssScheme(h))
	}
	for _, h := range k.offered.pkcs1 {
		schemes = append(schemes, pkcs1Scheme(h))
	}
	return schemes
}

func pssScheme(h crypto.Hash) tls.SignatureScheme {
	switch h {
	case crypto.SHA384:
		return tls.PSSWithSHA384
	case crypto.SHA512:
		return tls.PSSWithSHA512
	}
	return tls.PSSWithSHA256
}

func pkcs1Scheme(h crypto.Hash) tls.SignatureScheme {
	switch h {
	case crypto.SHA384:
		return tls.PKCS1WithSHA384
	case crypto.SHA512:
		return tls.PKCS1WithSHA512
	}
	return tls.PKCS1WithSHA256
}
