package signertest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Now is when the tests of certificates take place.
func Now() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 500, time.UTC) }

// ECKey makes a key in software.
func ECKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// Issuer is a certificate authority.
type Issuer struct {
	Certificate *x509.Certificate
	Key         *ecdsa.PrivateKey
}

// Template is a certificate to be, valid for 100 days around [Now].
func Template(commonName string, edit ...func(*x509.Certificate)) *x509.Certificate {
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: commonName},
		NotBefore:    Now().Truncate(time.Second).AddDate(0, 0, -50),
		NotAfter:     Now().Truncate(time.Second).AddDate(0, 0, 50),
	}
	for _, e := range edit {
		e(c)
	}
	return c
}

// Authority makes it one of an authority.
func Authority(c *x509.Certificate) {
	c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
}

// Client is what a certificate needs to pass.
func Client(c *x509.Certificate) {
	c.BasicConstraintsValid, c.KeyUsage, c.ExtKeyUsage = true, x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
}

// NewIssuer makes an authority below another, or a root below nil.
func NewIssuer(t testing.TB, above *Issuer, commonName string, edit ...func(*x509.Certificate)) *Issuer {
	t.Helper()
	i := &Issuer{Key: ECKey(t, elliptic.P256())}
	template := Template(commonName, append([]func(*x509.Certificate){Authority}, edit...)...)
	if above == nil {
		above = &Issuer{template, i.Key}
	}
	i.Certificate = above.Issue(t, i.Key.Public(), template)
	return i
}

// Issue signs a certificate over a public key.
func (i *Issuer) Issue(t testing.TB, public crypto.PublicKey, template *x509.Certificate) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, i.Certificate, public, i.Key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Current makes a certificate valid now, on the clock that other programs go by.
func Current(c *x509.Certificate) {
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
}

// EncodePEM is the file of a chain.
func EncodePEM(certificates ...*x509.Certificate) []byte {
	var text []byte
	for _, c := range certificates {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return text
}

// WriteFile writes into a folder of the test's own and returns the path.
func WriteFile(t testing.TB, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// PEM is one block.
func PEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
