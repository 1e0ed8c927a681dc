package signer

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/tls"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// form is a signature scheme, by the TPM's name of it.
type form = tpm2.TPMAlgID

const (
	pkcs1 = tpm2.TPMAlgRSASSA // RSASSA-PKCS1-v1_5
	pss   = tpm2.TPMAlgRSAPSS // RSASSA-PSS with a salt of the hash's length
	ec    = tpm2.TPMAlgECDSA
)

// formsOf lists the schemes of a kind of key, the preferred one first.
func formsOf(public crypto.PublicKey) []form {
	switch public.(type) {
	case *rsa.PublicKey:
		return []form{pss, pkcs1}
	case *ecdsa.PublicKey:
		return []form{ec}
	}
	return nil
}

// offer is what a key can sign, as the self-test found it.
type offer struct {
	hashes map[form][]crypto.Hash
	salts  map[crypto.Hash]int // of PSS, measured, in bytes; missing: the TPM does not sign PSS with this hash
}

// salt returns the measured salt length with a hash, -1 if there is none.
func (o offer) salt(h crypto.Hash) int {
	if n, ok := o.salts[h]; ok {
		return n
	}
	return -1
}

// check refuses what the self-test did not find to work.
func (o offer) check(h crypto.Hash, f form) error {
	if slices.Contains(o.hashes[f], h) {
		return nil
	}
	if n := o.salt(h); f == pss && n >= 0 {
		return fmt.Errorf("%w: PSS with %v: this TPM salts it with %d bytes, not %d", ErrUnsupported, h, n, h.Size())
	}
	return fmt.Errorf("%w: %s with %s", ErrUnsupported, formName(f), hashName(h))
}

func formName(f form) string {
	switch f {
	case pkcs1:
		return "PKCS #1 v1.5"
	case pss:
		return "PSS"
	}
	return "ECDSA"
}

// hashName names a hash, also hash 0, which means "not hashed" in Go and which no TPM knows.
func hashName(h crypto.Hash) string {
	if h == 0 {
		return "data that is not a digest"
	}
	return h.String()
}

// SignatureSchemes lists what the key can sign in TLS, in order of preference, as the self-test
// found it, for tls.Certificate.SupportedSignatureAlgorithms. An RSA key without PSS cannot be used
// in TLS 1.3.
func (k *Key) SignatureSchemes() []tls.SignatureScheme {
	var schemes []tls.SignatureScheme
	for _, f := range formsOf(k.public) {
		for _, h := range k.offered.hashes[f] {
			if s, ok := tlsScheme(f, h, k.public); ok {
				schemes = append(schemes, s)
			}
		}
	}
	return schemes
}

// TLSVersions lists the versions of TLS in which the key can be used, the latest first.
func (k *Key) TLSVersions() []uint16 {
	schemes := k.SignatureSchemes()
	if len(schemes) == 0 {
		return nil
	}
	for _, s := range schemes {
		if s != tls.PKCS1WithSHA256 && s != tls.PKCS1WithSHA384 && s != tls.PKCS1WithSHA512 { // RFC 8446, 4.2.3
			return []uint16{tls.VersionTLS13, tls.VersionTLS12}
		}
	}
	return []uint16{tls.VersionTLS12}
}

// tlsScheme returns the name of a scheme and hash in TLS (RFC 8446, 4.2.3). TLS 1.3 ties each curve
// to one hash.
func tlsScheme(f form, h crypto.Hash, public crypto.PublicKey) (tls.SignatureScheme, bool) {
	if key, ok := public.(*ecdsa.PublicKey); ok {
		switch {
		case key.Curve == elliptic.P256() && h == crypto.SHA256:
			return tls.ECDSAWithP256AndSHA256, true
		case key.Curve == elliptic.P384() && h == crypto.SHA384:
			return tls.ECDSAWithP384AndSHA384, true
		}
		return 0, false
	}
	schemes := map[crypto.Hash][2]tls.SignatureScheme{
		crypto.SHA256: {tls.PSSWithSHA256, tls.PKCS1WithSHA256},
		crypto.SHA384: {tls.PSSWithSHA384, tls.PKCS1WithSHA384},
		crypto.SHA512: {tls.PSSWithSHA512, tls.PKCS1WithSHA512},
	}
	if f == pss {
		return schemes[h][0], true
	}
	return schemes[h][1], true
}
