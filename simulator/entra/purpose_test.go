package entra_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"math/big"
	"testing"
	"time"

	"github.com/keyagent/keyagent/simulator/pki"
)

// Certificates that the issuer's key has signed, but for another purpose or under another name.
func TestCertificatesForOtherPurposesAreRefused(t *testing.T) {
	issuerKey := rsaKey(t)
	issuer := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: epoch().Add(-time.Hour), NotAfter: epoch().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	issuer.Subject.CommonName = pki.IdentityIssuerName
	issuer = signed(t, issuer, issuer, issuerKey, issuerKey)
	w := newWorldUnder(t, issuer)
	for name, c := range map[string]struct {
		change func(certificate, parent *x509.Certificate)
		status int
	}{
		"for client authentication":      {func(*x509.Certificate, *x509.Certificate) {}, 200},
		"for server authentication":      {func(c, _ *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, 401},
		"for no stated purpose":          {func(c, _ *x509.Certificate) { c.ExtKeyUsage = nil }, 401},
		"for encryption":                 {func(c, _ *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }, 401},
		"of an authority":                {func(c, _ *x509.Certificate) { c.IsCA = true }, 401},
		"under another name of the same": {func(_, parent *x509.Certificate) { parent.RawSubject, parent.Subject.CommonName = nil, "other" }, 401},
	} {
		t.Run(name, func(t *testing.T) {
			template := &x509.Certificate{
				SerialNumber: big.NewInt(2), NotBefore: epoch(), NotAfter: epoch().Add(time.Hour), BasicConstraintsValid: true,
				KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
			}
			template.Subject.CommonName = clientID
			parent := *issuer
			c.change(template, &parent)
			a, err := w.post(t, w.client(t, signed(t, template, &parent, w.key, issuerKey), w.key), tokenPath, goodForm())
			if err != nil {
				t.Fatal(err)
			}
			if c.status == 200 && a.status == 200 {
				return
			}
			checkRefusal(t, a, c.status, "invalid_client", 7000277)
		})
	}
}

func signed(t *testing.T, template, parent *x509.Certificate, key, parentKey *rsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}
