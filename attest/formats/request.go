package formats

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/keyagent/keyagent/attest"
)

// maxRequestSize is the largest request that is read, in bytes: room for a bundle and for its parts
// once more.
const maxRequestSize = 2 * attest.MaxEvidenceSize

// ErrNoEvidence means that a request has no evidence of this project in it.
var ErrNoEvidence = errors.New("the certificate request has no keyagent evidence in it")

// ParseRequest reads a PKCS #10 request (DER) with the attribute that [Attribute] makes. The
// request's signature is verified, and its key is the one that the evidence is about: so a verifier
// of the evidence, with [attest.VerifyForKey] and the request's key, knows where the certificate's
// key is.
//
// The statements of the TCG in it must be those of the bundle: a reader who knows only them must
// not be shown another key.
func ParseRequest(der []byte) (*x509.CertificateRequest, *attest.Evidence, error) {
	if len(der) > maxRequestSize {
		return nil, nil, fmt.Errorf("certificate request of %d bytes, want at most %d", len(der), maxRequestSize)
	}
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, nil, err
	}
	if err := request.CheckSignature(); err != nil {
		return nil, nil, fmt.Errorf("certificate request: %w", err)
	}
	value, err := attestationOf(request.RawTBSCertificateRequest)
	if err != nil {
		return nil, nil, err
	}
	e, err := readBundle(value)
	if err != nil {
		return nil, nil, fmt.Errorf("certificate request: %w", err)
	}
	key, err := attest.ParseKey(e.KeyPublic)
	if err != nil {
		return nil, nil, fmt.Errorf("certificate request: %w", err)
	}
	if public, ok := request.PublicKey.(*rsa.PublicKey); !ok || !public.Equal(key) {
		return nil, nil, errors.New("certificate request: the evidence is about another key")
	}
	return request, e, nil
}

// attestationOf finds the value of the attribute in a CertificationRequestInfo. It must be there
// once, with one value.
func attestationOf(info []byte) (cryptobyte.String, error) {
	malformed := errors.New("certificate request: attributes cannot be read")
	in := cryptobyte.String(info)
	var body, attributes cryptobyte.String
	var has bool
	if !in.ReadASN1(&body, cbasn1.SEQUENCE) || !body.SkipASN1(cbasn1.INTEGER) || !body.SkipASN1(cbasn1.SEQUENCE) ||
		!body.SkipASN1(cbasn1.SEQUENCE) || !body.ReadOptionalASN1(&attributes, &has, cbasn1.Tag(0).ContextSpecific().Constructed()) {
		return nil, malformed
	}
	var found cryptobyte.String
	for !attributes.Empty() {
		var attribute, values cryptobyte.String
		var kind asn1.ObjectIdentifier
		if !attributes.ReadASN1(&attribute, cbasn1.SEQUENCE) || !attribute.ReadASN1ObjectIdentifier(&kind) || !attribute.ReadASN1(&values, cbasn1.SET) {
			return nil, malformed
		}
		if !kind.Equal(oidAttestation) {
			continue
		}
		if found != nil || !values.ReadASN1(&found, cbasn1.SEQUENCE) || !values.Empty() || !attribute.Empty() {
			return nil, errors.New("certificate request: more than one attestation")
		}
	}
	if found == nil {
		return nil, ErrNoEvidence
	}
	return found, nil
}

// readBundle reads the content of an AttestationBundle. Statements of types that are not known are
// skipped.
func readBundle(value cryptobyte.String) (*attest.Evidence, error) {
	var statements cryptobyte.String
	if !value.ReadASN1(&statements, cbasn1.SEQUENCE) {
		return nil, errors.New("attestation cannot be read")
	}
	found := map[string]cryptobyte.String{}
	for !statements.Empty() {
		var statement, kind, content cryptobyte.String
		if !statements.ReadASN1(&statement, cbasn1.SEQUENCE) || !statement.ReadASN1Element(&kind, cbasn1.OBJECT_IDENTIFIER) ||
			!statement.ReadAnyASN1Element(&content, new(cbasn1.Tag)) || !statement.Empty() {
			return nil, errors.New("attestation statement cannot be read")
		}
		if _, twice := found[string(kind)]; twice {
			return nil, errors.New("two attestation statements of one type")
		}
		found[string(kind)] = content
	}
	ours, ok := found[string(uuidOID())]
	if !ok {
		return nil, ErrNoEvidence
	}
	var bundle cryptobyte.String
	if !ours.ReadASN1(&bundle, cbasn1.OCTET_STRING) || !ours.Empty() {
		return nil, errors.New("statement with the bundle cannot be read")
	}
	e, err := attest.Parse(bundle)
	if err != nil {
		return nil, err
	}
	return e, sameStatements(found, e)
}

// sameStatements compares the TCG's statements with the bundle.
func sameStatements(found map[string]cryptobyte.String, e *attest.Evidence) error {
	for _, s := range []struct {
		kind  asn1.ObjectIdentifier
		parts [][]byte
	}{
		{oidTPMCertify, [][]byte{e.Certify, tpmtSignature(e.CertifySignature), e.KeyPublic}},
		{oidTPMQuote, [][]byte{e.Quote, tpmtSignature(e.QuoteSignature)}},
	} {
		kind, err := asn1.Marshal(s.kind)
		if err != nil {
			return err
		}
		content, ok := found[string(kind)]
		if !ok {
			continue
		}
		if !equalParts(content, s.parts) {
			return fmt.Errorf("statement %v is not the one in the bundle", s.kind)
		}
	}
	return nil
}

func equalParts(content cryptobyte.String, parts [][]byte) bool {
	var body cryptobyte.String
	if !content.ReadASN1(&body, cbasn1.SEQUENCE) || !content.Empty() {
		return false
	}
	for _, want := range parts {
		var got cryptobyte.String
		if !body.ReadASN1(&got, cbasn1.OCTET_STRING) || !bytes.Equal(got, want) {
			return false
		}
	}
	return body.Empty()
}
