package certreq

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
)

// ErrUnsupported means that the key, or the algorithm with it, cannot sign requests and
// certificates.
var ErrUnsupported = errors.New("signature not supported for certificates")

// Names are the names of the holder of a certificate. At least one is needed.
type Names struct {
	Subject  Subject
	AltNames []SubjectAltName // encoded in this order
}

// RequestOptions say what a certificate request asks for, and how it is signed.
type RequestOptions struct {
	Names

	// SignatureAlgorithm is that of the request; the issuer chooses that of the certificate. Zero
	// means SHA256-RSA for RSA, and the curve's hash for ECDSA. PSS, with a salt as long as the
	// hash, is used only if it is named here: some issuers cannot verify it.
	SignatureAlgorithm x509.SignatureAlgorithm

	// Attributes are further ones, besides the extensions: each an Attribute (RFC 2986, 4.1) in
	// DER.
	Attributes [][]byte
}

// The extensions that a request asks for, and their values.
var (
	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}              // RFC 5280, 4.2.1.3
	oidExtKeyUsage      = asn1.ObjectIdentifier{2, 5, 29, 37}              // RFC 5280, 4.2.1.12
	oidClientAuth       = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 2} // RFC 5280, 4.2.1.12
	digitalSignatureBit = asn1.BitString{Bytes: []byte{0x80}, BitLength: 1}
)

// NewCertificateRequest returns a PKCS #10 request (DER; RFC 2986) signed by key, which is RSA of
// at least 2048 bits, or ECDSA on P-256 or P-384. The request asks for the key usage
// digitalSignature and the extended key usage clientAuth, which [CheckCertificate] looks for in the
// certificate; issuers may ignore that.
//
// The signature was verified. The error is [ErrUnsupported] if the key or the algorithm cannot be
// used.
func NewCertificateRequest(key crypto.Signer, opts RequestOptions) ([]byte, error) {
	algorithm, err := signatureAlgorithm(key.Public(), opts.SignatureAlgorithm)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	extensions, err := requestedExtensions(opts.Names)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	if len(opts.Attributes) > 0 {
		return withAttributes(key, algorithm, opts, extensions)
	}
	// x509 verifies the signature before it returns.
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		RawSubject:         opts.Subject.DER(),
		SignatureAlgorithm: algorithm,
		ExtraExtensions:    extensions,
	}, key)
	if err != nil {
		return nil, fmt.Errorf("signing the certificate request: %w", err)
	}
	return der, nil
}

func requestedExtensions(names Names) ([]pkix.Extension, error) {
	extensions, err := names.extensions()
	if err != nil {
		return nil, err
	}
	usage, err := asn1.Marshal(digitalSignatureBit)
	if err != nil {
		return nil, err
	}
	purposes, err := asn1.Marshal([]asn1.ObjectIdentifier{oidClientAuth})
	if err != nil {
		return nil, err
	}
	return append(extensions,
		pkix.Extension{Id: oidKeyUsage, Critical: true, Value: usage},
		pkix.Extension{Id: oidExtKeyUsage, Value: purposes}), nil
}

// extensions returns the extension with the subject alternative names, if any. It is critical if
// there is no subject (RFC 5280, 4.2.1.6).
func (n Names) extensions() ([]pkix.Extension, error) {
	switch {
	case slices.Contains(n.AltNames, SubjectAltName{}):
		return nil, errors.New("an empty subject alternative name")
	case len(n.AltNames) > 0:
		value, err := altNamesDER(n.AltNames)
		return []pkix.Extension{{Id: oidSubjectAltName, Critical: n.Subject.Empty(), Value: value}}, err
	case n.Subject.Empty():
		return nil, errors.New("neither a subject nor a subject alternative name; give at least one, such as CN=app")
	}
	return nil, nil
}

// signatureAlgorithm returns the algorithm that was asked for, if it goes with the key, or the
// usual one.
func signatureAlgorithm(public crypto.PublicKey, asked x509.SignatureAlgorithm) (x509.SignatureAlgorithm, error) {
	possible := signatureAlgorithms(public)
	switch {
	case len(possible) == 0:
		return 0, fmt.Errorf("%w: it is %s; RSA of 2048 bits or more, ECDSA P-256 and ECDSA P-384 are possible",
			ErrUnsupported, publicKeyKind(public))
	case asked == x509.UnknownSignatureAlgorithm:
		return possible[0], nil
	case !slices.Contains(possible, asked):
		return 0, fmt.Errorf("%w: %v with %s; possible are %v", ErrUnsupported, asked, publicKeyKind(public), possible)
	}
	return asked, nil
}

// signatureAlgorithms returns the algorithms with which a key can sign certificates, the usual one
// first.
func signatureAlgorithms(public crypto.PublicKey) []x509.SignatureAlgorithm {
	switch k := public.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 {
			return nil
		}
		return []x509.SignatureAlgorithm{x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA,
			x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS}
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return []x509.SignatureAlgorithm{x509.ECDSAWithSHA256}
		case elliptic.P384():
			return []x509.SignatureAlgorithm{x509.ECDSAWithSHA384}
		}
	}
	return nil
}

// publicKeyKind returns type and size: "RSA-2048", "ECDSA P-256".
func publicKeyKind(public crypto.PublicKey) string {
	switch k := public.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA-%d", k.N.BitLen())
	case *ecdsa.PublicKey:
		return "ECDSA " + k.Params().Name
	case nil:
		return "a key of unknown type"
	}
	return fmt.Sprintf("%T", public)
}
