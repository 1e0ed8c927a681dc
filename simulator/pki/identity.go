package pki

import (
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"time"
)

// IdentityIssuerName is the name under which managed identities' binding certificates are issued.
const IdentityIssuerName = "managedidentitysnissuer.login.microsoft.com"

// Lives of a binding certificate: TLS accepts it for the first, the token endpoint for the second.
const (
	DefaultBindingLife = 14 * 24 * time.Hour
	DefaultTokenLife   = 7 * 24 * time.Hour
)

// OIDTokenNotAfter identifies the extension that says until when a binding certificate gets tokens,
// a GeneralizedTime.
func OIDTokenNotAfter() asn1.ObjectIdentifier {
	return asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 90, 2, 1}
}

// IdentityIssuer issues binding certificates.
type IdentityIssuer struct {
	Certificate *x509.Certificate

	issuer *authority
}

// NewIdentityIssuer makes the issuer, valid from now on.
func NewIdentityIssuer(now time.Time) (*IdentityIssuer, error) {
	return Keys(nil).NewIdentityIssuer(now)
}

// NewIdentityIssuer is [NewIdentityIssuer] with these keys.
func (k Keys) NewIdentityIssuer(now time.Time) (*IdentityIssuer, error) {
	key, err := k.Next()
	if err != nil {
		return nil, fmt.Errorf("key of the managed identity issuer: %w", err)
	}
	issuer, err := newRoot(caTemplate(IdentityIssuerName, now, 10, 0), key)
	if err != nil {
		return nil, err
	}
	return &IdentityIssuer{Certificate: issuer.certificate, issuer: issuer}, nil
}

// BindingCertificate says what to issue.
type BindingCertificate struct {
	ClientID string // subject CN
	Key      crypto.PublicKey
	Now      time.Time
	Life     time.Duration // until notAfter; 0 means DefaultBindingLife

	// TokenLife is the time until token_not_after; 0 means DefaultTokenLife, less than 0 leaves the
	// extension out.
	TokenLife time.Duration
}

// Issue makes a binding certificate.
func (i *IdentityIssuer) Issue(b BindingCertificate) (*x509.Certificate, error) {
	if b.Life == 0 {
		b.Life = DefaultBindingLife
	}
	if b.TokenLife == 0 {
		b.TokenLife = DefaultTokenLife
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: b.ClientID},
		NotBefore:             b.Now.Add(-backdated),
		NotAfter:              b.Now.Add(b.Life),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if b.TokenLife > 0 {
		value, err := asn1.MarshalWithParams(b.Now.Add(b.TokenLife).UTC().Truncate(time.Second), "generalized")
		if err != nil {
			return nil, fmt.Errorf("token_not_after: %w", err)
		}
		template.ExtraExtensions = []pkix.Extension{{Id: OIDTokenNotAfter(), Value: value}}
	}
	return i.issuer.issue(template, b.Key)
}
