package pki

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"time"
)

// VTPMAuthority certifies attestation keys of virtual TPMs, as Azure's does: a root, and one
// intermediate that hosts do not send along.
type VTPMAuthority struct {
	Root         *x509.Certificate
	Intermediate *x509.Certificate

	issuer *authority
}

// NewVTPMAuthority makes both authorities, valid from now on.
func NewVTPMAuthority(now time.Time) (*VTPMAuthority, error) { return Keys(nil).NewVTPMAuthority(now) }

// NewVTPMAuthority is [NewVTPMAuthority] with these keys.
func (k Keys) NewVTPMAuthority(now time.Time) (*VTPMAuthority, error) {
	rootKey, err := k.Next()
	if err != nil {
		return nil, fmt.Errorf("key of the vTPM root: %w", err)
	}
	root, err := newRoot(caTemplate("Simulated Virtual TPM Root Certificate Authority", now, 25, 1), rootKey)
	if err != nil {
		return nil, err
	}
	key, err := k.Next()
	if err != nil {
		return nil, fmt.Errorf("key of the vTPM CA: %w", err)
	}
	issuer, err := certify(caTemplate("Simulated Global Virtual TPM CA - 01", now, 2, 0), key, root)
	if err != nil {
		return nil, err
	}
	return &VTPMAuthority{Root: root.certificate, Intermediate: issuer.certificate, issuer: issuer}, nil
}

// CertifyAK issues the certificate of a Confidential VM's attestation key.
func (a *VTPMAuthority) CertifyAK(ak crypto.PublicKey, now time.Time) (*x509.Certificate, error) {
	var host [6]byte
	if _, err := rand.Read(host[:]); err != nil {
		return nil, fmt.Errorf("name of the AK certificate: %w", err)
	}
	policy, err := x509.OIDFromInts([]uint64{1, 3, 6, 1, 4, 1, 311, 108, 200, 2}) // Confidential VM
	if err != nil {
		return nil, fmt.Errorf("policy of the AK certificate: %w", err)
	}
	return a.issuer.issue(&x509.Certificate{
		Subject:               pkix.Name{CommonName: hex.EncodeToString(host[:]) + ".ConfidentialVM.Azure.windows.net"},
		NotBefore:             now.Add(-backdated),
		NotAfter:              now.AddDate(1, 0, 0),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		Policies:              []x509.OID{policy},
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{
			{1, 3, 6, 1, 4, 1, 311, 10, 3, 12}, // Microsoft: document signing; Azure puts it first
			{2, 23, 133, 8, 3},                 // TCG: tcg-kp-AIKCertificate
		},
	}, ak)
}
