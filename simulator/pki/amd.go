package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/kds"
)

// Product is an AMD product line.
type Product struct {
	Line string // "Milan" or "Genoa", as in the names of AMD's roots
	Name string // with stepping, as the VCEK's productName extension says it

	family, model, stepping byte // of CPUID, as the report says them
}

// Milan is the third generation of EPYC.
func Milan() Product {
	return Product{Line: "Milan", Name: "Milan-B1", family: 0x19, model: 0x01, stepping: 0x01}
}

// Genoa is the fourth generation of EPYC.
func Genoa() Product {
	return Product{Line: "Genoa", Name: "Genoa-B1", family: 0x19, model: 0x11, stepping: 0x01}
}

// TCB returns the firmware levels of every report and VCEK made here: boot loader 4, SNP firmware
// 0x18, microcode 0xdb, which Azure ran in 2025.
func TCB() uint64 { return 0xdb18000000000004 }

// Processor is one AMD chip with the chain that vouches for it. It is immutable.
type Processor struct {
	Product Product
	ChipID  [abi.ChipIDSize]byte
	ARK     *x509.Certificate // AMD root key
	ASK     *x509.Certificate // AMD SEV key
	VCEK    *x509.Certificate // versioned chip endorsement key, for TCB()

	vcek *ecdsa.PrivateKey
}

// NewProcessor makes a chip of product p under a root of its own, valid from now on.
func NewProcessor(p Product, now time.Time) (*Processor, error) {
	return Keys(nil).NewProcessor(p, now)
}

// NewProcessor is [NewProcessor] with these keys for its authorities.
func (k Keys) NewProcessor(p Product, now time.Time) (*Processor, error) {
	ark, ask, err := amdAuthorities(p, now, k)
	if err != nil {
		return nil, err
	}
	c := &Processor{Product: p, ARK: ark.certificate, ASK: ask.certificate}
	if _, err := rand.Read(c.ChipID[:]); err != nil {
		return nil, fmt.Errorf("chip id: %w", err)
	}
	if c.vcek, err = newECKey(elliptic.P384()); err != nil {
		return nil, fmt.Errorf("VCEK: %w", err)
	}
	extensions, err := vcekExtensions(p, kds.DecomposeTCBVersion(kds.TCBVersion(TCB())), c.ChipID[:])
	if err != nil {
		return nil, fmt.Errorf("VCEK: %w", err)
	}
	c.VCEK, err = ask.issue(&x509.Certificate{
		Subject:            amdName("SEV-VCEK"),
		SerialNumber:       new(big.Int), // AMD gives every VCEK the serial number 0
		NotBefore:          now.Add(-backdated),
		NotAfter:           now.AddDate(7, 0, 0),
		SignatureAlgorithm: x509.SHA384WithRSAPSS,
		ExtraExtensions:    extensions,
	}, c.vcek.Public())
	if err != nil {
		return nil, err
	}
	return c, nil
}

// amdAuthorities makes the root and the intermediate of a product line (AMD 57230, "ARK and ASK
// certificates").
func amdAuthorities(p Product, now time.Time, keys Keys) (ark, ask *authority, err error) {
	authority := func(name string, pathLen int, parent *authority) (*authority, error) {
		key, err := keys.Next()
		if err != nil {
			return nil, fmt.Errorf("key of %s: %w", name, err)
		}
		t := caTemplate(name, now, 25, pathLen)
		t.Subject = amdName(name)
		t.SignatureAlgorithm = x509.SHA384WithRSAPSS
		t.CRLDistributionPoints = []string{kds.CrlLinkByKey(p.Line, abi.VcekReportSigner)}
		if parent == nil {
			return newRoot(t, key)
		}
		return certify(t, key, parent)
	}
	if ark, err = authority("ARK-"+p.Line, 1, nil); err != nil {
		return nil, nil, err
	}
	ask, err = authority("SEV-"+p.Line, 0, ark)
	return ark, ask, err
}

// RootsPEM returns ASK and ARK in the order in which AMD publishes them.
func (c *Processor) RootsPEM() []byte { return EncodePEM(c.ASK, c.ARK) }

// VCEKPEM returns the chip's certificate alone.
func (c *Processor) VCEKPEM() []byte { return EncodePEM(c.VCEK) }

func amdName(commonName string) pkix.Name {
	return pkix.Name{
		Country:            []string{"US"},
		Locality:           []string{"Santa Clara"},
		Province:           []string{"CA"},
		Organization:       []string{"Advanced Micro Devices"},
		OrganizationalUnit: []string{"Engineering"},
		CommonName:         commonName,
	}
}

// vcekExtensions are AMD's own (AMD 57230, "VCEK certificate definition"). The hardware id goes in
// bare, without an OCTET STRING of its own, as the real service writes it.
func vcekExtensions(p Product, tcb kds.TCBParts, chipID []byte) ([]pkix.Extension, error) {
	productName, err := asn1.MarshalWithParams(p.Name, "ia5")
	if err != nil {
		return nil, err
	}
	extensions := []pkix.Extension{
		{Id: kds.OidProductName1, Value: productName},
		{Id: kds.OidHwid, Value: chipID},
	}
	for _, number := range []struct {
		id    asn1.ObjectIdentifier
		value uint8
	}{
		{kds.OidStructVersion, 0},
		{kds.OidBlSpl, tcb.BlSpl}, {kds.OidTeeSpl, tcb.TeeSpl}, {kds.OidSnpSpl, tcb.SnpSpl},
		{kds.OidSpl4, tcb.Spl4}, {kds.OidSpl5, tcb.Spl5}, {kds.OidSpl6, tcb.Spl6}, {kds.OidSpl7, tcb.Spl7},
		{kds.OidUcodeSpl, tcb.UcodeSpl},
	} {
		value, err := asn1.Marshal(int(number.value))
		if err != nil {
			return nil, err
		}
		extensions = append(extensions, pkix.Extension{Id: number.id, Value: value})
	}
	return extensions, nil
}

// EncodePEM writes certificates one after another.
func EncodePEM(certs ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}
