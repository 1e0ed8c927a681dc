package attesttest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"testing"
)

// CA certifies attestation keys, as Azure's virtual TPM CA does.
type CA struct {
	Root *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewCA makes a CA.
func NewCA(t testing.TB) *CA {
	t.Helper()
	return NewNamedCA(t, "Test Virtual TPM Root")
}

// NewNamedCA makes a CA with a name.
func NewNamedCA(t testing.TB, name string) *CA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: Epoch().AddDate(-1, 0, 0), NotAfter: Epoch().AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	return &CA{Root: create(t, tmpl, tmpl, &key.PublicKey, key), key: key}
}

// Issue makes the AK certificate of a Confidential VM. change, if not nil, alters the template.
func (c *CA) Issue(t testing.TB, ak *rsa.PublicKey, change func(*x509.Certificate)) []byte {
	t.Helper()
	policy, err := x509.OIDFromInts([]uint64{1, 3, 6, 1, 4, 1, 311, 108, 200, 2})
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "0123456789ab.ConfidentialVM.Azure.windows.net"},
		NotBefore: Epoch().AddDate(0, -1, 0), NotAfter: Epoch().AddDate(0, 6, 0),
		KeyUsage:           x509.KeyUsageDigitalSignature,
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{{1, 3, 6, 1, 4, 1, 311, 10, 3, 12}, {2, 23, 133, 8, 3}},
		Policies:           []x509.OID{policy},
	}
	if change != nil {
		change(tmpl)
	}
	return create(t, tmpl, c.Root, ak, c.key).Raw
}

func create(t testing.TB, tmpl, parent *x509.Certificate, public any, signer *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, public, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}
