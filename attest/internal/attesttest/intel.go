package attesttest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"testing"

	"github.com/keyagent/keyagent/attest/tee"
)

// What the made platform is: its FMSPC as in Intel's documents, and its versions.
const (
	FMSPC       = "90C06F000000"
	pceSVN      = 13
	component   = 5 // of every SGX component
	moduleMinor = 7
	moduleMajor = 1
	qeSVN       = 6
)

// Intel is a platform with its certificates, and the services that vouch for it.
type Intel struct {
	root, platformCA, tcbSigning, pck Issuer
	attestation                       *ecdsa.PrivateKey
}

// Issuer is a certificate with its key.
type Issuer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewIntel makes a platform.
func NewIntel(t testing.TB) *Intel {
	t.Helper()
	i := &Intel{attestation: newKey(t)}
	i.root = i.issue(t, nil, "Intel SGX Root CA", 1, nil)
	i.platformCA = i.issue(t, &i.root, "Intel SGX PCK Platform CA", 2, nil)
	i.tcbSigning = i.issue(t, &i.root, "Intel SGX TCB Signing", 3, nil)
	i.pck = i.NewPCK(t, nil)
	return i
}

// NewPCK makes a PCK certificate of the platform. change, if not nil, alters the template.
func (i *Intel) NewPCK(t testing.TB, change func(*x509.Certificate)) Issuer {
	t.Helper()
	return i.issue(t, &i.platformCA, "Intel SGX PCK Certificate", 4, func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: sgxOID(), Value: SGXExtension(t, nil)}}
		if change != nil {
			change(c)
		}
	})
}

// SetPCK gives the platform another PCK certificate.
func (i *Intel) SetPCK(pck Issuer) *Intel {
	other := *i
	other.pck = pck
	return &other
}

// SetCA gives the platform a PCK certificate by another CA of the same root. change alters the CA.
func (i *Intel) SetCA(t testing.TB, change func(*x509.Certificate)) *Intel {
	t.Helper()
	other := *i
	other.platformCA = i.issue(t, &i.root, "Intel SGX PCK Platform CA", 2, change)
	other.pck = other.NewPCK(t, nil)
	return &other
}

// Root is the trust anchor of the platform.
func (i *Intel) Root() *x509.Certificate { return i.root.cert }

// PCKChain is the chain in quotes: PCK certificate, CA, root.
func (i *Intel) PCKChain() []byte { return chainPEM(i.pck, i.platformCA, i.root) }

// SigningChain is the chain of Intel's statements.
func (i *Intel) SigningChain() []byte { return chainPEM(i.tcbSigning, i.root) }

// CAChain is the chain of the revocation list of PCK certificates.
func (i *Intel) CAChain() []byte { return chainPEM(i.platformCA, i.root) }

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue makes a certificate, self-signed without parent. An authority is whatever is called CA.
func (i *Intel) issue(t testing.TB, parent *Issuer, name string, serial int64, change func(*x509.Certificate)) Issuer {
	t.Helper()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name, Organization: []string{"Intel Corporation"}},
		NotBefore: Epoch().AddDate(-1, 0, 0), NotAfter: Epoch().AddDate(7, 0, 0),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if name[len(name)-2:] == "CA" {
		tmpl.IsCA, tmpl.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	}
	if change != nil {
		change(tmpl)
	}
	key := newKey(t)
	by := &Issuer{tmpl, key}
	if parent != nil {
		by = parent
	}
	return Issuer{create(t, tmpl, by.cert, &key.PublicKey, by.key), key}
}

func chainPEM(chain ...Issuer) []byte {
	var text []byte
	for _, c := range chain {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw})...)
	}
	return text
}

func sgxOID(below ...int) asn1.ObjectIdentifier {
	return append(asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}, below...)
}

// Pair is a member of Intel's extension.
type Pair struct {
	ID    asn1.ObjectIdentifier
	Value any
}

// SGXExtension encodes what a PCK certificate says about the platform. change, if not nil, alters
// the members: PPID, TCB (a []Pair), PCE id, FMSPC, type.
func SGXExtension(t testing.TB, change func([]Pair) []Pair) []byte {
	t.Helper()
	var tcb []Pair
	for n := range tee.Components {
		tcb = append(tcb, Pair{sgxOID(2, n+1), component})
	}
	tcb = append(tcb, Pair{sgxOID(2, 17), pceSVN}, Pair{sgxOID(2, 18), make([]byte, 16)})
	members := []Pair{
		{sgxOID(1), make([]byte, 16)}, {sgxOID(2), tcb}, {sgxOID(3), []byte{0, 0}},
		{sgxOID(4), []byte{0x90, 0xC0, 0x6F, 0, 0, 0}}, {sgxOID(5), asn1.Enumerated(1)},
	}
	if change != nil {
		members = change(members)
	}
	der, err := asn1.Marshal(members)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// CRL makes a revocation list by the root or, with pck, by the CA of PCK certificates.
func (i *Intel) CRL(t testing.TB, pck bool, change func(*x509.RevocationList), revoked ...*big.Int) []byte {
	t.Helper()
	by := i.root
	if pck {
		by = i.platformCA
	}
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: Epoch().AddDate(0, 0, -1), NextUpdate: Epoch().AddDate(0, 0, 29)}
	for _, serial := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: serial, RevocationTime: Epoch().AddDate(0, 0, -2)})
	}
	if change != nil {
		change(list)
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, by.cert, by.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}
