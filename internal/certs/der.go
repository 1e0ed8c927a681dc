package certs

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"math/big"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// kind is what a piece of DER is, as far as a better error needs to know.
type kind int

const (
	kindUnknown kind = iota
	kindCertificate
	kindRequest
	kindPrivateKey
	kindPKCS7
	kindPKCS12
)

// signedData is the OID 1.2.840.113549.1.7.2, with tag and length.
const signedData = "\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02"

func kindOf(der []byte) kind {
	if len(der) == 0 {
		return kindUnknown
	}
	head := der[:min(len(der), 32)]
	if bytes.Contains(head, []byte(signedData)) { // in BER, too, which Microsoft's tools write and cryptobyte does not read
		return kindPKCS7
	}
	if isPKCS12(der) {
		return kindPKCS12
	}
	if _, err := x509.ParseCertificateRequest(der); err == nil {
		return kindRequest
	}
	if isPrivateKey(der) {
		return kindPrivateKey
	}
	if _, ok := tbs(der); ok {
		return kindCertificate
	}
	return kindUnknown
}

// isPKCS12 looks for version 3 and what follows it (RFC 7292, 4).
func isPKCS12(der []byte) bool {
	var version int
	in := cryptobyte.String(der)
	var pfx, content cryptobyte.String
	return in.ReadASN1(&pfx, asn1.SEQUENCE) && pfx.ReadASN1Integer(&version) && version == 3 &&
		pfx.ReadASN1(&content, asn1.SEQUENCE) && content.PeekASN1Tag(asn1.OBJECT_IDENTIFIER)
}

// isPrivateKey goes by the shape of PKCS #8, also encrypted (RFC 5958, 2 and 3), PKCS #1 (RFC 8017,
// A.1.2) and SEC 1 (RFC 5915, 3). The key itself is not read: a large one could be made so that
// checking it takes long.
func isPrivateKey(der []byte) bool {
	var version int
	var key, algorithm cryptobyte.String
	in := cryptobyte.String(der)
	if !in.ReadASN1(&key, asn1.SEQUENCE) {
		return false
	}
	if !key.PeekASN1Tag(asn1.INTEGER) {
		return key.ReadASN1(&algorithm, asn1.SEQUENCE) && algorithm.PeekASN1Tag(asn1.OBJECT_IDENTIFIER) && key.PeekASN1Tag(asn1.OCTET_STRING)
	}
	if !key.ReadASN1Integer(&version) || version > 1 {
		return false
	}
	return key.PeekASN1Tag(asn1.INTEGER) || key.PeekASN1Tag(asn1.OCTET_STRING) ||
		key.ReadASN1(&algorithm, asn1.SEQUENCE) && algorithm.PeekASN1Tag(asn1.OBJECT_IDENTIFIER) && key.PeekASN1Tag(asn1.OCTET_STRING)
}

// element returns the first DER element of several, or everything if there is none.
func element(der []byte) []byte {
	in := cryptobyte.String(der)
	var first cryptobyte.String
	if !in.ReadASN1Element(&first, asn1.SEQUENCE) {
		return der
	}
	return first
}

// tbs returns the inside of a TBSCertificate (RFC 5280, 4.1), behind the version.
func tbs(der []byte) (cryptobyte.String, bool) {
	in := cryptobyte.String(der)
	var certificate, inside cryptobyte.String
	ok := in.ReadASN1(&certificate, asn1.SEQUENCE) && certificate.ReadASN1(&inside, asn1.SEQUENCE) &&
		inside.SkipOptionalASN1(asn1.Tag(0).ContextSpecific().Constructed()) && inside.PeekASN1Tag(asn1.INTEGER)
	return inside, ok
}

// unreadable names the subject of a certificate that crypto/x509 refuses, and says why.
func unreadable(der []byte, err error) string {
	return whose(der) + " cannot be read: " + because(der, err)
}

// whose returns the subject of a certificate that crypto/x509 refuses, or nothing.
func whose(der []byte) string {
	inside, ok := tbs(der)
	var subject cryptobyte.String
	ok = ok && inside.SkipASN1(asn1.INTEGER) && inside.SkipASN1(asn1.SEQUENCE) && inside.SkipASN1(asn1.SEQUENCE) &&
		inside.SkipASN1(asn1.SEQUENCE) && inside.ReadASN1Element(&subject, asn1.SEQUENCE)
	if !ok {
		return ""
	}
	return ", " + quote(subject) + ","
}

// because words the errors of crypto/x509 that occur in practice.
func because(der []byte, err error) string {
	inside, ok := tbs(der)
	var serial big.Int
	if ok && inside.ReadASN1Integer(&serial) && serial.Sign() < 0 {
		return fmt.Sprintf("its serial number, %.50s, is negative, which RFC 5280, 4.1.2.2 forbids: have it issued again", serial.String())
	}
	return err.Error()
}
