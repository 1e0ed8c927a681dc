package binding

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/keyagent/keyagent/acquire/imds"
)

// Object identifiers of the certificate request.
var (
	oidCommonName      = asn1.ObjectIdentifier{2, 5, 4, 3}
	oidDomainComponent = asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 25}
	oidComputeUnitID   = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 90, 2, 10}
	oidSHA256          = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	oidMGF1            = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 8}
	oidRSASSAPSS       = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 10}
)

// tagIA5String is the type that the issuer demands for the domain component.
const tagIA5String = cbasn1.Tag(asn1.TagIA5String)

const saltLengthBytes = sha256.Size

// newCertificateRequest returns the PKCS#10 (DER) that the issuer of binding
// certificates accepts, signed by key with RSASSA-PSS, SHA-256, salt 32.
//
// crypto/x509 cannot write it: the attribute is no extension request, and the
// issuer refuses the NULL parameters that x509 puts behind the hash identifiers.
func newCertificateRequest(key crypto.Signer, meta *imds.PlatformMetadata) ([]byte, error) {
	info, err := requestInfo(key.Public(), meta)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(info)
	signature, err := key.Sign(rand.Reader, digest[:], &rsa.PSSOptions{SaltLength: saltLengthBytes, Hash: crypto.SHA256})
	if err != nil {
		return nil, fmt.Errorf("signing the certificate request: %w", err)
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(info)
		addPSSAlgorithm(b)
		b.AddASN1BitString(signature)
	})
	return b.Bytes()
}

// requestInfo builds the CertificationRequestInfo (RFC 2986, 4.1).
func requestInfo(public crypto.PublicKey, meta *imds.PlatformMetadata) ([]byte, error) {
	rsaKey, ok := public.(*rsa.PublicKey)
	if !ok || rsaKey.N.BitLen() != 2048 || rsaKey.E != 65537 {
		return nil, errors.New("the issuer of binding certificates takes RSA-2048 keys with exponent 65537 only")
	}
	spki, err := x509.MarshalPKIXPublicKey(rsaKey)
	if err != nil {
		return nil, fmt.Errorf("encoding the public key: %w", err)
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(0) // version
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			addRDN(b, oidDomainComponent, tagIA5String, meta.TenantID)
			addRDN(b, oidCommonName, cbasn1.UTF8String, meta.ClientID)
		})
		b.AddBytes(spki)
		b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			addAttribute(b, oidComputeUnitID, meta.ComputeUnitID)
		})
	})
	return b.Bytes()
}

// addRDN adds a relative distinguished name of one attribute.
func addRDN(b *cryptobyte.Builder, oid asn1.ObjectIdentifier, tag cbasn1.Tag, value string) {
	b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oid)
			b.AddASN1(tag, func(b *cryptobyte.Builder) { b.AddBytes([]byte(value)) })
		})
	})
}

func addAttribute(b *cryptobyte.Builder, oid asn1.ObjectIdentifier, value string) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oid)
		b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes([]byte(value)) })
		})
	})
}

// addPSSAlgorithm adds the AlgorithmIdentifier of RSASSA-PSS (RFC 4055, 3.1): the
// hash identifiers without parameters, the trailer field left to its default.
func addPSSAlgorithm(b *cryptobyte.Builder) {
	sha256Identifier := func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oidSHA256) })
	}
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oidRSASSAPSS)
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), sha256Identifier)
			b.AddASN1(cbasn1.Tag(1).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1ObjectIdentifier(oidMGF1)
					sha256Identifier(b)
				})
			})
			b.AddASN1(cbasn1.Tag(2).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
				b.AddASN1Int64(saltLengthBytes)
			})
		})
	})
}
