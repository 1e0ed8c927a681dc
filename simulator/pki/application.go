package pki

import (
	"crypto/elliptic"
	"crypto/x509"
	"fmt"
	"time"
)

// ApplicationAuthorityName is the name under which applications' certificates are issued.
const ApplicationAuthorityName = "Simulated Application CA"

// ApplicationAuthority issues certificates to applications, as a company's own authority does, so
// that an app registration can trust them by subject and issuer.
type ApplicationAuthority struct {
	Certificate *x509.Certificate

	issuer *authority
}

// NewApplicationAuthority makes the authority, valid from now on.
func NewApplicationAuthority(now time.Time) (*ApplicationAuthority, error) {
	key, err := newECKey(elliptic.P256())
	if err != nil {
		return nil, fmt.Errorf("key of the application CA: %w", err)
	}
	issuer, err := newRoot(caTemplate(ApplicationAuthorityName, now, 10, 0), key)
	if err != nil {
		return nil, err
	}
	return &ApplicationAuthority{Certificate: issuer.certificate, issuer: issuer}, nil
}

// Issue makes a client certificate, valid for a year, of the subject, the public key and the DNS
// names that are asked for. Whether the request is signed by that key is not checked.
func (a *ApplicationAuthority) Issue(request *x509.CertificateRequest, now time.Time) (*x509.Certificate, error) {
	return a.issuer.issue(&x509.Certificate{
		RawSubject:            request.RawSubject,
		Subject:               request.Subject,
		NotBefore:             now.Add(-backdated),
		NotAfter:              now.AddDate(1, 0, 0),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		DNSNames:              request.DNSNames,
	}, request.PublicKey)
}
