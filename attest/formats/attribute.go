package formats

import (
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/keyagent/keyagent/attest"
)

// The attribute and the statements in it. Of the last one the number is a UUID (X.667), and so
// needs no registration: an OCTET STRING with our bundle.
var (
	oidAttestation = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 59} // id-aa-attestation
	oidTPMCertify  = asn1.ObjectIdentifier{2, 23, 133, 20, 1}                  // tcg-attest-tpm-certify
	oidTPMQuote    = asn1.ObjectIdentifier{2, 23, 133, 20, 2}                  // tcg-attest-tpm-quote
)

// BundleStatement is the type of the statement with our bundle, in dotted form.
const BundleStatement = "2.25.166227096281657177712362453679514078807"

// Attribute makes the attribute of a certificate request (RFC 2986, 4.1: an Attribute, DER) in
// which a machine shows a certification authority where the key of the request is: the TPM's
// statements in the form of the TCG, the certificates of the attestation key, and the bundle. It is
// for a request that the key signs which the evidence is about.
func Attribute(e *attest.Evidence) ([]byte, error) {
	if e.KeyPublic == nil || e.Certify == nil || e.CertifySignature == nil {
		return nil, errors.New("attestation attribute: the evidence is about no key")
	}
	bundle, err := e.Encode()
	if err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oidAttestation)
		b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { addBundle(b, e, bundle) })
		})
	})
	der, err := b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("attestation attribute: %w", err)
	}
	return der, nil
}

// addBundle adds the parts of an AttestationBundle.
func addBundle(b *cryptobyte.Builder, e *attest.Evidence, bundle []byte) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		addTPMStatement(b, oidTPMCertify, e.Certify, e.CertifySignature, e.KeyPublic)
		if e.Quote != nil && e.QuoteSignature != nil {
			addTPMStatement(b, oidTPMQuote, e.Quote, e.QuoteSignature, nil)
		}
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddBytes(uuidOID())
			b.AddASN1OctetString(bundle)
		})
	})
	if e.AKCertificate == nil {
		return
	}
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(trimmed(e.AKCertificate))
		for _, issuer := range e.AKIntermediates {
			b.AddBytes(issuer)
		}
	})
}

// addTPMStatement adds a TcgAttestCertify or TcgAttestQuote. The values of the quoted registers are
// in the bundle: the draft does not say how they are encoded.
func addTPMStatement(b *cryptobyte.Builder, kind asn1.ObjectIdentifier, statement, signature, public []byte) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(kind)
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1OctetString(statement)
			b.AddASN1OctetString(tpmtSignature(signature))
			if public != nil {
				b.AddASN1OctetString(public)
			}
		})
	})
}

// signatureHeader begins a TPMT_SIGNATURE: RSASSA, SHA-256, 256 bytes.
const signatureHeader = "\x00\x14\x00\x0B\x01\x00"

// tpmtSignature puts the header before a bare signature.
func tpmtSignature(signature []byte) []byte {
	const bare = 256
	if len(signature) == bare {
		return append([]byte(signatureHeader), signature...)
	}
	return signature
}

// trimmed cuts the padding of the NV index that a certificate came from.
func trimmed(certificate []byte) []byte {
	in := cryptobyte.String(certificate)
	var der cryptobyte.String
	if !in.ReadASN1Element(&der, cbasn1.SEQUENCE) {
		return certificate
	}
	return der
}

// uuidOID is BundleStatement in DER: encoding/asn1 knows no arcs of more than 31 bits.
func uuidOID() []byte {
	const uuidArcs = 2*40 + 25
	const bits = 7 // in a byte; the top one says that another follows
	number, _ := new(big.Int).SetString(BundleStatement[len("2.25."):], 10)
	content := []byte{uuidArcs}
	for at := (number.BitLen() - 1) / bits * bits; at >= 0; at -= bits {
		var digit byte
		for i := bits - 1; i >= 0; i-- {
			digit = digit<<1 | byte(number.Bit(at+i)) //nolint:gosec // one bit
		}
		if at > 0 {
			digit |= 0x80
		}
		content = append(content, digit)
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.OBJECT_IDENTIFIER, func(b *cryptobyte.Builder) { b.AddBytes(content) })
	return b.BytesOrPanic() // two dozen bytes
}
