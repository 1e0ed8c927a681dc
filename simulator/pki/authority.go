package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"time"
)

// backdated is how far in the past certificates begin to be valid, so that the clocks of simulator
// and agent need not agree to the second.
const backdated = 10 * time.Minute

// serialBits is the size of a random serial number, as CAs use them (RFC 5280, 4.1.2.2).
const serialBits = 120

// authority is a certificate with the key that signs under it.
type authority struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

// newRoot makes a self-signed authority from template.
func newRoot(template *x509.Certificate, key crypto.Signer) (*authority, error) {
	return certify(template, key, &authority{certificate: template, key: key})
}

// certify makes an authority whose certificate parent signs.
func certify(template *x509.Certificate, key crypto.Signer, parent *authority) (*authority, error) {
	cert, err := parent.issue(template, key.Public())
	if err != nil {
		return nil, err
	}
	return &authority{certificate: cert, key: key}, nil
}

// issue signs template for the key public.
func (a *authority) issue(template *x509.Certificate, public crypto.PublicKey) (*x509.Certificate, error) {
	if template.SerialNumber == nil {
		serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), serialBits))
		if err != nil {
			return nil, fmt.Errorf("serial number of %q: %w", template.Subject.CommonName, err)
		}
		template.SerialNumber = serial
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, public, a.key)
	if err != nil {
		return nil, fmt.Errorf("certificate of %q: %w", template.Subject.CommonName, err)
	}
	return x509.ParseCertificate(der)
}

// caTemplate describes an authority called name. pathLen is how many more authorities may follow.
func caTemplate(name string, now time.Time, years, pathLen int) *x509.Certificate {
	return &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-backdated),
		NotAfter:              now.AddDate(years, 0, 0),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLen:            pathLen,
		MaxPathLenZero:        pathLen == 0,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
}

func newECKey(curve elliptic.Curve) (*ecdsa.PrivateKey, error) {
	return ecdsa.GenerateKey(curve, rand.Reader)
}
