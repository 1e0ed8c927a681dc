package certverify

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	_ "crypto/sha256" // for crypto.Hash.New
	_ "crypto/sha512" // likewise
	"crypto/tls"
	"errors"
)

// signatureScheme is how a scheme of TLS signs (RFC 8446, 4.2.3).
type signatureScheme struct {
	name   string // in TLS
	hash   crypto.Hash
	pss    bool
	curve  elliptic.Curve // nil: RSA
	only12 bool
}

var schemes = map[tls.SignatureScheme]signatureScheme{
	tls.PSSWithSHA256: {name: "rsa_pss_rsae_sha256", hash: crypto.SHA256, pss: true},
	tls.PSSWithSHA384: {name: "rsa_pss_rsae_sha384", hash: crypto.SHA384, pss: true},
	tls.PSSWithSHA512: {name: "rsa_pss_rsae_sha512", hash: crypto.SHA512, pss: true},

	tls.ECDSAWithP256AndSHA256: {name: "ecdsa_secp256r1_sha256", hash: crypto.SHA256, curve: elliptic.P256()},
	tls.ECDSAWithP384AndSHA384: {name: "ecdsa_secp384r1_sha384", hash: crypto.SHA384, curve: elliptic.P384()},
	tls.ECDSAWithP521AndSHA512: {name: "ecdsa_secp521r1_sha512", hash: crypto.SHA512, curve: elliptic.P521()},

	tls.PKCS1WithSHA256: {name: "rsa_pkcs1_sha256", hash: crypto.SHA256, only12: true},
	tls.PKCS1WithSHA384: {name: "rsa_pkcs1_sha384", hash: crypto.SHA384, only12: true},
	tls.PKCS1WithSHA512: {name: "rsa_pkcs1_sha512", hash: crypto.SHA512, only12: true},
}

// SchemeName returns the name of a scheme in TLS, as in "rsa_pss_rsae_sha256".
func SchemeName(scheme tls.SignatureScheme) string {
	if known, ok := schemes[scheme]; ok {
		return known.name
	}
	return scheme.String()
}

// SchemeNamed returns the scheme that [SchemeName] calls so, of those that are used here.
func SchemeNamed(name string) (scheme tls.SignatureScheme, ok bool) {
	for scheme, known := range schemes {
		if known.name == name {
			return scheme, true
		}
	}
	return 0, false
}

// fits reports whether a key can sign by the scheme. TLS 1.2 does not tie curves to hashes; nobody
// needs that.
func (s signatureScheme) fits(key crypto.PublicKey) bool {
	switch key := key.(type) {
	case *rsa.PublicKey:
		return s.curve == nil
	case *ecdsa.PublicKey:
		return s.curve != nil && key.Curve == s.curve
	}
	return false
}

func (s signatureScheme) options() crypto.SignerOpts {
	if s.pss {
		return &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: s.hash}
	}
	return s.hash
}

// verify checks a server's signature. In TLS 1.2, the curve of a server's key need not be that of
// the scheme (RFC 8422, 5.10).
func (s signatureScheme) verify(key crypto.PublicKey, signed, signature []byte) error {
	h := s.hash.New()
	h.Write(signed)
	digest := h.Sum(nil)
	switch key := key.(type) {
	case *rsa.PublicKey:
		if s.curve != nil {
			break
		}
		if s.pss {
			return rsa.VerifyPSS(key, s.hash, digest, signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		}
		return rsa.VerifyPKCS1v15(key, s.hash, digest, signature)
	case *ecdsa.PublicKey:
		if s.curve != nil && ecdsa.VerifyASN1(key, digest, signature) {
			return nil
		}
	}
	return errors.New("the signature does not verify")
}
