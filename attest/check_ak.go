package attest

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/keyagent/keyagent/internal/certs"
)

// oidAIKCertificate is tcg-kp-AIKCertificate: the certificate is for an attestation key.
func oidAIKCertificate() asn1.ObjectIdentifier { return asn1.ObjectIdentifier{2, 23, 133, 8, 3} }

// oidConfidentialVM is the certificate policy under which Azure certifies the attestation key of a
// Confidential VM; that of a Trusted Launch VM, which no TEE protects, has its parent.
func oidConfidentialVM() asn1.ObjectIdentifier {
	return asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 108, 200, 2}
}

// akPublic decides which key is the attestation key. If there are claims, it is the key in them:
// the hardware vouches for it, and a public area that is sent along must be the same. Without
// claims, a public area that is sent along is used to check the statements, but cannot make
// evidence verified.
func (v *verifier) akPublic() error {
	if v.claims == nil {
		return v.unvouchedAK()
	}
	area := AKPublicArea(v.claims.AK.N.FillBytes(make([]byte, v.claims.AK.Size())))
	p, err := parsePublic(area)
	if err != nil {
		return err
	}
	v.ak = newAK(p)
	v.result.AK = v.ak
	if key := v.expected.AKKey; key != nil && !key.Equal(p.key) {
		return errors.New("the attestation key is not the one in the claims: another key was put in its place")
	}
	if err := v.listedAK(); err != nil {
		return err
	}
	if v.e.AKPublic == nil {
		return absent("not sent; rebuilt from the claims")
	}
	if !bytes.Equal(v.e.AKPublic, area) {
		return errors.New("the attestation key is not the one in the claims: another key was put in its place")
	}
	return nil
}

// unvouchedAK takes the attestation key from where nothing of the hardware vouches for it.
func (v *verifier) unvouchedAK() error {
	if v.e.HCLReport != nil || v.e.RuntimeClaims != nil {
		return absent("the claims, which name the attestation key, could not be read")
	}
	if v.e.AKPublic == nil {
		return v.bareAK()
	}
	ak, err := ParseAK(v.e.AKPublic)
	if err != nil {
		return err
	}
	if key := v.expected.AKKey; key != nil && !key.Equal(ak.Public) {
		return errors.New("the public area is of another key than the one named as attestation key")
	}
	v.ak, v.result.AK = ak, ak
	if v.kind() == KindTPM && v.policy.accepts(KindTPM) && len(v.policy.AKNames) == 0 {
		return absent("the policy lists no attestation keys, so nothing vouches for this one")
	}
	return v.listedAK()
}

// bareAK takes a key of which nothing is known but its numbers.
func (v *verifier) bareAK() error {
	if v.expected.AKKey == nil {
		return absent("no attestation key")
	}
	if key := v.expected.AKKey; key.N.BitLen() != 8*rsaSignatureLen || key.E != defaultExponent {
		return errors.New("the attestation key is not an RSA key of 2048 bits with the exponent 65537")
	}
	v.ak = &AK{Public: v.expected.AKKey}
	v.result.AK = v.ak
	return absent("only the key itself is known, not its attributes")
}

// listedAK holds the attestation key to the policy's list, if there is one.
func (v *verifier) listedAK() error {
	if len(v.policy.AKNames) > 0 && !contains(v.policy.AKNames, v.ak.Name) {
		return fmt.Errorf("attestation key with the Name %x is not on the policy's list", v.ak.Name)
	}
	return nil
}

func (v *verifier) akCertificate() error {
	if v.e.AKCertificate == nil {
		return absent("no AK certificate")
	}
	cert, err := ParseAKCertificate(v.e.AKCertificate)
	if err != nil {
		return err
	}
	if err := v.akCertificateChain(cert); err != nil {
		return err
	}
	if cert.IsCA || cert.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return errors.New("AK certificate: not an end-entity certificate for signing")
	}
	if !hasOID(cert.UnknownExtKeyUsage, oidAIKCertificate()) {
		return errors.New("AK certificate: extended key usage 2.23.133.8.3 (attestation key) is missing")
	}
	confidential := v.e.HCLReport != nil || v.e.unwrapped() != nil
	if confidential && !hasOID(cert.PolicyIdentifiers, oidConfidentialVM()) {
		return errors.New("AK certificate: not issued for a Confidential VM")
	}
	if v.ak == nil {
		return absent("no attestation key to compare with")
	}
	if key, ok := cert.PublicKey.(*rsa.PublicKey); !ok || !key.Equal(v.ak.Public) {
		return errors.New("AK certificate: it is for another key than the attestation key")
	}
	return nil
}

func (v *verifier) akCertificateChain(cert *x509.Certificate) error {
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range v.anchors.VTPM {
		roots.AddCert(c)
	}
	for _, c := range v.anchors.VTPMIntermediates {
		intermediates.AddCert(c)
	}
	for i, der := range v.e.AKIntermediates {
		c, err := certs.Parse(der)
		if err != nil {
			return fmt.Errorf("AK intermediate %d: %w", i+1, err)
		}
		intermediates.AddCert(c)
	}
	if v.now.IsZero() { // x509 would take the clock of this machine
		return errors.New("the verifier gave no time to verify the certificate at")
	}
	chains, err := cert.Verify(x509.VerifyOptions{
		Roots:         roots,
		Intermediates: intermediates,
		CurrentTime:   v.now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, // ours is not in package x509; see below
	})
	if err != nil {
		return fmt.Errorf("AK certificate issued by %.60q: %w", cert.Issuer.CommonName, err)
	}
	v.result.addChain(CheckAKCertificate, chains[0]...)
	return nil
}

// ParseAKCertificate reads the content of NV index 0x01C101D0: one DER certificate and zero bytes
// up to the index's size.
func ParseAKCertificate(nv []byte) (*x509.Certificate, error) {
	der, err := TrimCertificate(nv)
	if err != nil {
		return nil, err
	}
	cert, err := certs.Parse(der)
	if err != nil {
		return nil, fmt.Errorf("AK certificate: %w", err)
	}
	return cert, nil
}

// TrimCertificate cuts the zero padding of an NV index off a DER certificate. Anything but zeros
// after it is refused.
func TrimCertificate(nv []byte) ([]byte, error) {
	s := cryptobyte.String(nv)
	var der cryptobyte.String
	if !s.ReadASN1Element(&der, cbasn1.SEQUENCE) {
		return nil, errors.New("AK certificate: not a DER certificate")
	}
	if slices.ContainsFunc(s, func(b byte) bool { return b != 0 }) {
		return nil, errors.New("AK certificate: bytes after the certificate that are not zero")
	}
	return der, nil
}

func hasOID(list []asn1.ObjectIdentifier, want asn1.ObjectIdentifier) bool {
	return slices.ContainsFunc(list, want.Equal)
}
