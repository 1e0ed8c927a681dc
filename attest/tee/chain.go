package tee

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"embed" // AMD's roots
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/keyagent/keyagent/internal/certs"
)

// AMDRoot is AMD's certificates for one product line, as the verifier trusts them.
type AMDRoot struct {
	Product string // "Milan", "Genoa", "Turin"
	ARK     *x509.Certificate
	ASK     *x509.Certificate    // issues VCEKs
	ASVK    *x509.Certificate    // issues VLEKs; nil: no VLEK is accepted
	CRL     *x509.RevocationList // signed by the ARK; nil: revocation is not checked

	// issued are the pairs of an issuer and the ARK that signed it, as chainID knows them. They are
	// verified when the roots are read, and do not change.
	issued   [][sha256.Size]byte
	verified *memo // see Remembering
}

//go:embed roots/amd-milan.pem roots/amd-genoa.pem roots/amd-turin.pem
var published embed.FS

// DefaultAMDRoots returns AMD's published roots for Milan, Genoa and Turin.
func DefaultAMDRoots() []AMDRoot {
	var roots []AMDRoot
	for _, name := range []string{"milan", "genoa", "turin"} {
		data, err := published.ReadFile("roots/amd-" + name + ".pem")
		if err != nil {
			panic("tee: built-in root: " + err.Error()) // impossible: it is embedded
		}
		root, err := ParseAMDRoots(data)
		if err != nil {
			panic("tee: built-in root: " + err.Error()) // impossible: a test reads them
		}
		roots = append(roots, root...)
	}
	return roots
}

// ParseAMDRoots reads ARK, ASK and ASVK certificates from PEM, in any order and for any number of
// products. The product is taken from the names that AMD gives them: "ARK-Milan", "SEV-Milan" and
// "SEV-VLEK-Milan". ARK and ASK must be there for each product, an ASVK may be.
func ParseAMDRoots(data []byte) ([]AMDRoot, error) {
	authorities, err := certs.Authorities(data)
	if err != nil {
		return nil, err
	}
	products := map[string]*AMDRoot{}
	for _, cert := range authorities {
		if err := addAMDRoot(cert, products); err != nil {
			return nil, err
		}
	}
	var roots []AMDRoot
	for _, product := range slices.Sorted(maps.Keys(products)) {
		root := products[product]
		if root.ARK == nil {
			return nil, fmt.Errorf("AMD root certificates: no ARK-%s beside the certificate that it issued", product)
		}
		if root.ASK == nil {
			return nil, fmt.Errorf("AMD root certificates: no ASK (SEV-%s) beside ARK-%s", product, product)
		}
		root.remember()
		roots = append(roots, *root)
	}
	return roots, nil
}

// remember verifies, once for all reports, that the ARK issued the certificates below it. If it did
// not, nothing is remembered, and each report fails by that.
func (root *AMDRoot) remember() {
	anchor := x509.NewCertPool()
	anchor.AddCert(root.ARK)
	for _, issuer := range []*x509.Certificate{root.ASK, root.ASVK} {
		if issuer == nil || root.ARK.MaxPathLenZero {
			continue
		}
		_, err := issuer.Verify(x509.VerifyOptions{
			Roots: anchor, CurrentTime: issuer.NotBefore, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
		})
		if err == nil {
			root.issued = append(root.issued, chainID([]*x509.Certificate{issuer, root.ARK}))
		}
	}
}

// addAMDRoot puts a certificate where its name says it belongs.
func addAMDRoot(cert *x509.Certificate, products map[string]*AMDRoot) error {
	name := cert.Subject.CommonName
	kind, product := "", ""
	for _, prefix := range []string{"SEV-VLEK-", "SEV-", "ARK-"} {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			kind, product = prefix, rest
			break
		}
	}
	if kind == "" {
		return fmt.Errorf("AMD root certificates: %q is neither an ARK nor an ASK", name)
	}
	root := products[product]
	if root == nil {
		root = &AMDRoot{Product: product}
		products[product] = root
	}
	place := map[string]**x509.Certificate{"SEV-VLEK-": &root.ASVK, "SEV-": &root.ASK, "ARK-": &root.ARK}[kind]
	if other := *place; other != nil && !other.Equal(cert) {
		return fmt.Errorf("AMD root certificates: there are two of the name %q, with serial numbers %x and %x", name, other.SerialNumber, cert.SerialNumber)
	}
	*place = cert
	return nil
}

// VerifySigner checks that the certificate of a report-signing key, a VCEK or VLEK, was issued
// under one of roots, valid at t, and returns that root. The product line of the root must be the
// one that the certificate names: if it is not, the root is returned with the error.
func VerifySigner(signer *x509.Certificate, roots []AMDRoot, t time.Time) (*AMDRoot, error) {
	key, ok := signer.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P384() {
		return nil, errors.New("VCEK: key is not on curve P-384")
	}
	endorsement, err := endorsementOf(signer)
	if err != nil {
		return nil, err
	}
	line := endorsement.Line()
	failure := fmt.Errorf("VCEK: no trusted root for product %.20q", line)
	var other *AMDRoot
	for i := range roots {
		err := issuedBy(signer, endorsement.SigningKey(), &roots[i], t)
		switch {
		case err == nil && roots[i].Product == line:
			return &roots[i], nil
		case err == nil && other == nil:
			other = &roots[i]
		case err != nil && roots[i].Product == line:
			failure = fmt.Errorf("%v: %w", endorsement.SigningKey(), err)
		}
	}
	if other != nil {
		failure = fmt.Errorf("%v of product %.20q was issued under the root of %s", endorsement.SigningKey(), line, other.Product)
	}
	return other, failure
}

// IssuerOf returns the certificate that issued a signer which [VerifySigner] accepted under this
// root.
func (root *AMDRoot) IssuerOf(signer *x509.Certificate) *x509.Certificate {
	endorsement, err := endorsementOf(signer)
	if err != nil {
		return nil
	}
	return root.issuer(endorsement.SigningKey())
}

// issuer is the certificate of root that issues for keys of this kind.
func (root *AMDRoot) issuer(kind SigningKey) *x509.Certificate {
	if kind == SigningKeyVLEK {
		return root.ASVK
	}
	return root.ASK
}

func issuedBy(signer *x509.Certificate, kind SigningKey, root *AMDRoot, t time.Time) error {
	issuer := root.issuer(kind)
	if issuer == nil {
		return fmt.Errorf("no issuer of VLEKs (ASVK) is trusted for %s", root.Product)
	}
	for _, c := range []*x509.Certificate{signer, issuer, root.ARK} {
		if c.SignatureAlgorithm != x509.SHA384WithRSAPSS {
			return fmt.Errorf("%s is signed with %s, want SHA384-RSAPSS", c.Subject.CommonName, certs.SignatureText(c))
		}
	}
	if t.IsZero() { // x509 would take the clock of this machine
		return errors.New("the verifier gave no time to verify the certificates at")
	}
	if root.verified.holds(t, signer, issuer, root.ARK) {
		return nil
	}
	anchor, intermediate := x509.NewCertPool(), x509.NewCertPool()
	if validAt(t, issuer, root.ARK) && slices.Contains(root.issued, chainID([]*x509.Certificate{issuer, root.ARK})) {
		anchor.AddCert(issuer)
	} else {
		anchor.AddCert(root.ARK)
		intermediate.AddCert(issuer)
	}
	_, err := signer.Verify(x509.VerifyOptions{
		Roots:         anchor,
		Intermediates: intermediate,
		CurrentTime:   t,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err == nil {
		root.verified.add(signer, issuer, root.ARK)
	}
	return err
}

// CheckIdentity checks that signer was issued for the report r: for its chip, or for one of the
// cloud providers whose VLEK the verifier accepts, for its firmware level, and on the product line
// of root. Without providers only a VCEK passes.
func CheckIdentity(r *SNPReport, signer *x509.Certificate, root *AMDRoot, providers ...string) error {
	e, err := endorsementOf(signer)
	if err != nil {
		return err
	}
	if e.SigningKey() != r.SigningKey {
		return fmt.Errorf("the report is signed by a %v, the certificate is for a %v", r.SigningKey, e.SigningKey())
	}
	if err := checkSubject(r, e, providers); err != nil {
		return err
	}
	if e.TCB != r.ReportedTCB {
		return fmt.Errorf("%v is for TCB %v, the report says %v", e.SigningKey(), e.TCB, r.ReportedTCB)
	}
	if r.ProductLine != "" && r.ProductLine != e.Line() {
		return fmt.Errorf("report is from a %s CPU (family %#x, model %#x), the %v from %.20s",
			r.ProductLine, r.CPUID[0], r.CPUID[1], e.SigningKey(), e.Line())
	}
	if root != nil && root.Product != e.Line() {
		return fmt.Errorf("%v is for %.20s, its root for %s", e.SigningKey(), e.Line(), root.Product)
	}
	return nil
}

// checkSubject checks whose key it is.
func checkSubject(r *SNPReport, e *Endorsement, providers []string) error {
	if e.SigningKey() == SigningKeyVLEK {
		if !slices.Contains(providers, e.CSP) {
			return fmt.Errorf("a VLEK of provider %.50q, which the policy does not accept: it vouches for no single chip", e.CSP)
		}
		return nil
	}
	if zero(r.ChipID) {
		return errors.New("the report's chip_id is masked (all zero)")
	}
	if !bytes.Equal(e.HWID, r.ChipID[:len(e.HWID)]) || !zero(r.ChipID[len(e.HWID):]) {
		return errors.New("VCEK belongs to another chip: its hwID is not the report's chip_id")
	}
	return nil
}

// CheckRevocation checks signer and its issuer against the root's revocation list at t.
func CheckRevocation(signer *x509.Certificate, root *AMDRoot, t time.Time) error {
	crl := root.CRL
	if err := crl.CheckSignatureFrom(root.ARK); err != nil {
		return fmt.Errorf("revocation list is not signed by the ARK: %w", err)
	}
	if t.Before(crl.ThisUpdate) || !t.Before(crl.NextUpdate) {
		return fmt.Errorf("revocation list is valid from %v to %v, not at %v", crl.ThisUpdate, crl.NextUpdate, t)
	}
	if err := checkCritical(crl, "revocation list"); err != nil {
		return err
	}
	e, err := endorsementOf(signer)
	if err != nil {
		return err
	}
	issuer := root.issuer(e.SigningKey())
	for _, entry := range crl.RevokedCertificateEntries {
		if issuer != nil && entry.SerialNumber.Cmp(issuer.SerialNumber) == 0 {
			return fmt.Errorf("%s was revoked at %v", issuer.Subject.CommonName, entry.RevocationTime)
		}
		// A VCEK's serial number is 0 in every certificate that AMD issues: an entry for it could
		// name no single chip.
		if signer.SerialNumber.Sign() > 0 && entry.SerialNumber.Cmp(signer.SerialNumber) == 0 {
			return fmt.Errorf("the %v was revoked at %v", e.SigningKey(), entry.RevocationTime)
		}
	}
	return nil
}

// endorsementOf is ParseEndorsement with the name of what it is about.
func endorsementOf(signer *x509.Certificate) (*Endorsement, error) {
	e, err := ParseEndorsement(signer)
	if err != nil {
		return nil, fmt.Errorf("VCEK: %w", err)
	}
	return e, nil
}
