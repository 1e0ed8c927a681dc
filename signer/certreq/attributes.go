package certreq

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// withAttributes makes a request with attributes that crypto/x509 cannot write: their values are
// not names.
func withAttributes(key crypto.Signer, algorithm x509.SignatureAlgorithm, opts RequestOptions, extensions []pkix.Extension) ([]byte, error) {
	info, err := requestInfo(key.Public(), opts, extensions)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	scheme, err := schemeOf(algorithm)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	signature, err := crypto.SignMessage(key, rand.Reader, info, scheme.opts)
	if err != nil {
		return nil, fmt.Errorf("signing the certificate request: %w", err)
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(info)
		b.AddBytes(scheme.identifier)
		b.AddASN1BitString(signature)
	})
	der, err := b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	return der, checkRequest(der)
}

// checkRequest reads the request as its receiver will.
func checkRequest(der []byte) error {
	request, err := x509.ParseCertificateRequest(der)
	if err == nil {
		err = request.CheckSignature()
	}
	if err != nil {
		return fmt.Errorf("certificate request: as it was signed, it would be refused: %w", err)
	}
	return nil
}

// oidExtensionRequest is id-pkcs9-extensionRequest (RFC 2985, 5.4.2).
var oidExtensionRequest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 14}

// requestInfo is a CertificationRequestInfo (RFC 2986, 4.1).
func requestInfo(public crypto.PublicKey, opts RequestOptions, extensions []pkix.Extension) ([]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	requested, err := asn1.Marshal(extensions)
	if err != nil {
		return nil, err
	}
	var wanted cryptobyte.Builder
	wanted.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oidExtensionRequest)
		b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) { b.AddBytes(requested) })
	})
	first, err := wanted.Bytes()
	if err != nil {
		return nil, err
	}
	attributes := append([][]byte{first}, opts.Attributes...)
	for _, a := range opts.Attributes {
		if in := cryptobyte.String(a); !in.SkipASN1(cbasn1.SEQUENCE) || !in.Empty() {
			return nil, errors.New("an attribute is not DER")
		}
	}
	slices.SortFunc(attributes, compareDER)
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(0)
		b.AddBytes(opts.Subject.DER())
		b.AddBytes(spki)
		b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			for _, a := range attributes {
				b.AddBytes(a)
			}
		})
	})
	return b.Bytes()
}

// compareDER is the order of a SET OF (X.690, 11.6). No element is the beginning of another.
func compareDER(a, b []byte) int { return slices.Compare(a, b) }

// scheme is how an algorithm signs and what it is called.
type scheme struct {
	opts       crypto.SignerOpts
	identifier []byte // AlgorithmIdentifier
}

func schemeOf(algorithm x509.SignatureAlgorithm) (scheme, error) {
	rsaOID := func(n int) asn1.ObjectIdentifier { return asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, n} }
	ecdsaOID := func(n int) asn1.ObjectIdentifier { return asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, n} }
	switch algorithm {
	case x509.SHA256WithRSA:
		return newScheme(crypto.SHA256, rsaOID(11), asn1.NullRawValue)
	case x509.SHA384WithRSA:
		return newScheme(crypto.SHA384, rsaOID(12), asn1.NullRawValue)
	case x509.SHA512WithRSA:
		return newScheme(crypto.SHA512, rsaOID(13), asn1.NullRawValue)
	case x509.ECDSAWithSHA256:
		return newScheme(crypto.SHA256, ecdsaOID(2), asn1.RawValue{})
	case x509.ECDSAWithSHA384:
		return newScheme(crypto.SHA384, ecdsaOID(3), asn1.RawValue{})
	case x509.SHA256WithRSAPSS:
		return newPSS(crypto.SHA256, 1)
	case x509.SHA384WithRSAPSS:
		return newPSS(crypto.SHA384, 2)
	case x509.SHA512WithRSAPSS:
		return newPSS(crypto.SHA512, 3)
	}
	return scheme{}, fmt.Errorf("%w: %v", ErrUnsupported, algorithm)
}

func newScheme(hash crypto.Hash, oid asn1.ObjectIdentifier, parameters asn1.RawValue) (scheme, error) {
	der, err := asn1.Marshal(pkix.AlgorithmIdentifier{Algorithm: oid, Parameters: parameters})
	return scheme{hash, der}, err
}

// pssParameters are RSASSA-PSS-params without trailerField, which has its default (RFC 4055, 3.1).
type pssParameters struct {
	Hash pkix.AlgorithmIdentifier `asn1:"explicit,tag:0"`
	MGF  pkix.AlgorithmIdentifier `asn1:"explicit,tag:1"`
	Salt int                      `asn1:"explicit,tag:2"`
}

// newPSS has a salt as long as the hash, which is the one of MGF1, too. hashArc is the hash's last
// arc under NIST's.
func newPSS(hash crypto.Hash, hashArc int) (scheme, error) {
	sha := pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, hashArc}, Parameters: asn1.NullRawValue}
	mgf, err := asn1.Marshal(sha)
	if err != nil {
		return scheme{}, err
	}
	parameters, err := asn1.Marshal(pssParameters{
		Hash: sha, Salt: hash.Size(),
		MGF: pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 8}, Parameters: asn1.RawValue{FullBytes: mgf}},
	})
	if err != nil {
		return scheme{}, err
	}
	der, err := asn1.Marshal(pkix.AlgorithmIdentifier{
		Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 10}, Parameters: asn1.RawValue{FullBytes: parameters},
	})
	return scheme{&rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: hash}, der}, err
}
