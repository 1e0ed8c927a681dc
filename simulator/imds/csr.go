package imds

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Object identifiers in a certificate request.
var (
	oidCommonName      = asn1.ObjectIdentifier{2, 5, 4, 3}
	oidDomainComponent = asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 25}
	oidComputeUnit     = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 90, 2, 10}
)

const (
	tagIA5String = cbasn1.Tag(asn1.TagIA5String)

	maxCSRBytes = 4 << 10
	keyBits     = 2048
	saltBytes   = sha256.Size
)

// certificateRequest is a PKCS#10 request whose form is right and whose key has signed it.
type certificateRequest struct {
	tenantID    string // subject DC
	clientID    string // subject CN
	computeUnit string // attribute cuId
	key         *rsa.PublicKey
}

// parseCertificateRequest reads exactly one request (RFC 2986) and refuses every form but the one
// that the issuer takes.
func parseCertificateRequest(der []byte) (*certificateRequest, error) {
	if len(der) > maxCSRBytes {
		return nil, fmt.Errorf("%d bytes, want at most %d", len(der), maxCSRBytes)
	}
	input := cryptobyte.String(der)
	var outer, info, algorithm cryptobyte.String
	var signature []byte
	if !input.ReadASN1(&outer, cbasn1.SEQUENCE) || !input.Empty() ||
		!outer.ReadASN1Element(&info, cbasn1.SEQUENCE) || !outer.ReadASN1Element(&algorithm, cbasn1.SEQUENCE) ||
		!outer.ReadASN1BitStringAsBytes(&signature) || !outer.Empty() {
		return nil, errors.New("not a PKCS#10 request in DER")
	}
	request, err := parseRequestInfo(info)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(algorithm, pssAlgorithm()) {
		return nil, errors.New("signature algorithm is not RSASSA-PSS with SHA-256 (without parameters), MGF1 with SHA-256, salt length 32 and no trailer field")
	}
	digest := sha256.Sum256(info)
	if err := rsa.VerifyPSS(request.key, crypto.SHA256, digest[:], signature, &rsa.PSSOptions{SaltLength: saltBytes}); err != nil {
		return nil, errors.New("signature does not verify with the key in the request")
	}
	return request, nil
}

// parseRequestInfo reads a CertificationRequestInfo (RFC 2986, 4.1).
func parseRequestInfo(element cryptobyte.String) (*certificateRequest, error) {
	var info, subject, spki, attributes cryptobyte.String
	var version int64
	if !element.ReadASN1(&info, cbasn1.SEQUENCE) || !info.ReadASN1Integer(&version) || version != 0 {
		return nil, errors.New("version is not 0")
	}
	if !info.ReadASN1(&subject, cbasn1.SEQUENCE) || !info.ReadASN1Element(&spki, cbasn1.SEQUENCE) {
		return nil, errors.New("no subject or no public key")
	}
	if !info.ReadASN1(&attributes, cbasn1.Tag(0).ContextSpecific().Constructed()) || !info.Empty() {
		return nil, errors.New("no attributes, or bytes behind them")
	}
	request := &certificateRequest{}
	var err error
	if request.tenantID, request.clientID, err = parseSubject(subject); err != nil {
		return nil, err
	}
	if request.key, err = parsePublicKey(spki); err != nil {
		return nil, err
	}
	request.computeUnit, err = parseAttributes(attributes)
	return request, err
}

// parseSubject wants two relative distinguished names: DC as IA5String, then CN as UTF8String or
// PrintableString.
func parseSubject(subject cryptobyte.String) (tenantID, clientID string, err error) {
	if tenantID, err = readName(&subject, oidDomainComponent, "DC", tagIA5String); err != nil {
		return "", "", err
	}
	if clientID, err = readName(&subject, oidCommonName, "CN", cbasn1.UTF8String, cbasn1.PrintableString); err != nil {
		return "", "", err
	}
	if !subject.Empty() {
		return "", "", errors.New("subject has more than DC and CN")
	}
	return tenantID, clientID, nil
}

// readName reads an RDN of one attribute.
func readName(s *cryptobyte.String, want asn1.ObjectIdentifier, name string, tags ...cbasn1.Tag) (string, error) {
	var set, attribute, value cryptobyte.String
	var oid asn1.ObjectIdentifier
	var tag cbasn1.Tag
	if !s.ReadASN1(&set, cbasn1.SET) || !set.ReadASN1(&attribute, cbasn1.SEQUENCE) || !set.Empty() ||
		!attribute.ReadASN1ObjectIdentifier(&oid) || !oid.Equal(want) {
		return "", fmt.Errorf("subject: no %s where one is expected; the order is DC, then CN", name)
	}
	if !attribute.ReadAnyASN1(&value, &tag) || !attribute.Empty() {
		return "", fmt.Errorf("subject: %s is malformed", name)
	}
	if !slices.Contains(tags, tag) {
		return "", fmt.Errorf("subject: %s is of string type %d, want %v", name, tag, tags)
	}
	return string(value), nil
}

// parsePublicKey wants an RSA-2048 key with exponent 65537 as plain rsaEncryption with NULL
// parameters (RFC 8017, A.1).
func parsePublicKey(spki []byte) (*rsa.PublicKey, error) {
	parsed, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	key, ok := parsed.(*rsa.PublicKey)
	if !ok || key.N.BitLen() != keyBits || key.E != 65537 {
		return nil, errors.New("public key is not RSA with 2048 bits and exponent 65537")
	}
	again, err := x509.MarshalPKIXPublicKey(key)
	if err != nil || !bytes.Equal(again, spki) {
		return nil, errors.New("public key is not rsaEncryption with NULL parameters in DER")
	}
	return key, nil
}

// parseAttributes wants one attribute, cuId, with one value, a UTF8String.
func parseAttributes(attributes cryptobyte.String) (string, error) {
	var attribute, values, value cryptobyte.String
	var oid asn1.ObjectIdentifier
	if !attributes.ReadASN1(&attribute, cbasn1.SEQUENCE) || !attribute.ReadASN1ObjectIdentifier(&oid) ||
		!attribute.ReadASN1(&values, cbasn1.SET) || !attribute.Empty() {
		return "", errors.New("attribute is malformed")
	}
	if !oid.Equal(oidComputeUnit) {
		return "", fmt.Errorf("attribute %v, want %v", oid, oidComputeUnit)
	}
	if !values.ReadASN1(&value, cbasn1.UTF8String) || !values.Empty() || !utf8.Valid(value) {
		return "", errors.New("attribute cuId is not one UTF8String")
	}
	if !attributes.Empty() {
		return "", errors.New("more attributes than cuId")
	}
	return string(value), nil
}

// pssAlgorithm is the AlgorithmIdentifier that the issuer takes (RFC 4055, 3.1, but without the
// NULL behind the hash identifiers; the trailer field is left out, being the default).
func pssAlgorithm() []byte {
	oid := func(arcs ...int) func(*cryptobyte.Builder) {
		return func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(arcs) }
	}
	sha256OID := oid(2, 16, 840, 1, 101, 3, 4, 2, 1)
	explicit := func(n uint8) cbasn1.Tag { return cbasn1.Tag(n).ContextSpecific().Constructed() }
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		oid(1, 2, 840, 113549, 1, 1, 10)(b) // id-RSASSA-PSS
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(explicit(0), func(b *cryptobyte.Builder) { b.AddASN1(cbasn1.SEQUENCE, sha256OID) })
			b.AddASN1(explicit(1), func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					oid(1, 2, 840, 113549, 1, 1, 8)(b) // id-mgf1
					b.AddASN1(cbasn1.SEQUENCE, sha256OID)
				})
			})
			b.AddASN1(explicit(2), func(b *cryptobyte.Builder) { b.AddASN1Int64(saltBytes) })
		})
	})
	return b.BytesOrPanic()
}
