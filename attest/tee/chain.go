package tee

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/kds"
	"github.com/google/go-sev-guest/verify/trust"

	"github.com/keyagent/keyagent/internal/certs"
)

// AMDRoot is AMD's certificate pair for one product line, as the verifier trusts it.
type AMDRoot struct {
	Product string // "Milan", "Genoa"
	ARK     *x509.Certificate
	ASK     *x509.Certificate
	CRL     *x509.RevocationList // signed by the ARK; nil: revocation is not checked
}

// DefaultAMDRoots returns AMD's published roots, which go-sev-guest embeds.
func DefaultAMDRoots() []AMDRoot {
	var roots []AMDRoot
	for _, product := range []string{"Milan", "Genoa"} {
		c, err := trust.GetDefaultRootCerts(product)
		if err != nil {
			continue
		}
		roots = append(roots, AMDRoot{Product: product, ARK: c.ProductCerts.Ark, ASK: c.ProductCerts.Ask})
	}
	return roots
}

// ParseAMDRoots reads ASK and ARK certificates from PEM, in any order and for any number of
// products. The product is taken from the names that AMD gives them: "ARK-Milan" and "SEV-Milan".
// Each must be there once, with the other beside it.
func ParseAMDRoots(data []byte) ([]AMDRoot, error) {
	authorities, err := certs.Authorities(data)
	if err != nil {
		return nil, err
	}
	asks, arks := map[string]*x509.Certificate{}, map[string]*x509.Certificate{}
	for _, cert := range authorities {
		if err := addAMDRoot(cert, asks, arks); err != nil {
			return nil, err
		}
	}
	var roots []AMDRoot
	for _, product := range slices.Sorted(maps.Keys(arks)) {
		ark, ask := arks[product], asks[product]
		if ask == nil {
			return nil, fmt.Errorf("AMD root certificates: no ASK (SEV-%s) beside ARK-%s", product, product)
		}
		roots = append(roots, AMDRoot{Product: product, ARK: ark, ASK: ask})
	}
	for product := range asks {
		if arks[product] == nil {
			return nil, fmt.Errorf("AMD root certificates: no ARK-%s beside the ASK (SEV-%s)", product, product)
		}
	}
	return roots, nil
}

// addAMDRoot puts a certificate where its name says it belongs.
func addAMDRoot(cert *x509.Certificate, asks, arks map[string]*x509.Certificate) error {
	name := cert.Subject.CommonName
	to, product := asks, strings.TrimPrefix(name, "SEV-")
	if product == name {
		to, product = arks, strings.TrimPrefix(name, "ARK-")
	}
	if product == name {
		return fmt.Errorf("AMD root certificates: %q is neither an ARK nor an ASK", name)
	}
	if other := to[product]; other != nil && !other.Equal(cert) {
		return fmt.Errorf("AMD root certificates: there are two of the name %q, with serial numbers %x and %x", name, other.SerialNumber, cert.SerialNumber)
	}
	to[product] = cert
	return nil
}

// VerifyVCEK checks that vcek was issued under one of roots, valid at t, and returns that root. The
// product line of the root must be the one that the certificate names.
func VerifyVCEK(vcek *x509.Certificate, roots []AMDRoot, t time.Time) (*AMDRoot, error) {
	key, ok := vcek.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P384() {
		return nil, errors.New("VCEK: key is not on curve P-384")
	}
	ext, err := extensions(vcek)
	if err != nil {
		return nil, err
	}
	line := kds.ProductLineOfProductName(ext.ProductName)
	failure := fmt.Errorf("VCEK: no trusted root for product %.20q", line)
	for i, root := range roots {
		if root.Product != line {
			continue
		}
		if err := issuedBy(vcek, root, t); err != nil {
			failure = fmt.Errorf("VCEK: %w", err)
			continue
		}
		return &roots[i], nil
	}
	return nil, failure
}

func issuedBy(vcek *x509.Certificate, root AMDRoot, t time.Time) error {
	for _, c := range []*x509.Certificate{vcek, root.ASK, root.ARK} {
		if c.SignatureAlgorithm != x509.SHA384WithRSAPSS {
			return fmt.Errorf("%s is signed with %s, want SHA384-RSAPSS", c.Subject.CommonName, certs.SignatureText(c))
		}
	}
	if t.IsZero() { // x509 would take the clock of this machine
		return errors.New("the verifier gave no time to verify the certificates at")
	}
	anchor, intermediate := x509.NewCertPool(), x509.NewCertPool()
	anchor.AddCert(root.ARK)
	intermediate.AddCert(root.ASK)
	_, err := vcek.Verify(x509.VerifyOptions{
		Roots:         anchor,
		Intermediates: intermediate,
		CurrentTime:   t,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	return err
}

// CheckIdentity checks that vcek was made for the chip and the firmware level of the report r, on
// the product line of root.
func CheckIdentity(r *SNPReport, vcek *x509.Certificate, root *AMDRoot) error {
	ext, err := extensions(vcek)
	if err != nil {
		return err
	}
	if bytes.Equal(r.ChipID, make([]byte, abi.ChipIDSize)) {
		return errors.New("the report's chip_id is masked (all zero)")
	}
	if !bytes.Equal(ext.HWID, r.ChipID) {
		return errors.New("VCEK belongs to another chip: its hwID is not the report's chip_id")
	}
	if TCB(ext.TCBVersion) != r.ReportedTCB {
		return fmt.Errorf("VCEK is for TCB %v, the report says %v", TCB(ext.TCBVersion), r.ReportedTCB)
	}
	if root != nil && r.ProductLine != "" && r.ProductLine != root.Product {
		return fmt.Errorf("report is from a %s CPU, the VCEK from %s", r.ProductLine, root.Product)
	}
	return nil
}

// CheckRevocation checks the ASK and vcek against the root's revocation list at t.
func CheckRevocation(vcek *x509.Certificate, root *AMDRoot, t time.Time) error {
	crl := root.CRL
	if err := crl.CheckSignatureFrom(root.ARK); err != nil {
		return fmt.Errorf("revocation list is not signed by the ARK: %w", err)
	}
	if t.Before(crl.ThisUpdate) || !t.Before(crl.NextUpdate) {
		return fmt.Errorf("revocation list is valid from %v to %v, not at %v", crl.ThisUpdate, crl.NextUpdate, t)
	}
	for _, entry := range crl.RevokedCertificateEntries {
		if entry.SerialNumber.Cmp(root.ASK.SerialNumber) == 0 {
			return fmt.Errorf("the ASK was revoked at %v", entry.RevocationTime)
		}
		// A VCEK's serial number is 0 in every certificate that AMD issues: an entry for it could
		// name no single chip.
		if vcek.SerialNumber.Sign() > 0 && entry.SerialNumber.Cmp(vcek.SerialNumber) == 0 {
			return fmt.Errorf("the VCEK was revoked at %v", entry.RevocationTime)
		}
	}
	return nil
}

func extensions(vcek *x509.Certificate) (*kds.Extensions, error) {
	ext, err := kds.VcekCertificateExtensions(vcek)
	if err != nil {
		return nil, fmt.Errorf("VCEK: %w", err)
	}
	return ext, nil
}
