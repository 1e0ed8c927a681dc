package tee

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	_ "embed" // the root
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/keyagent/keyagent/internal/certs"
)

//go:embed roots/intel-sgx-root-ca.pem
var intelSGXRootCA []byte

// Names that Intel gives its certificates. Under one root they tell what a key may sign.
const (
	namePCK        = "Intel SGX PCK Certificate"
	namePlatformCA = "Intel SGX PCK Platform CA"
	nameTCBSigning = "Intel SGX TCB Signing"
)

// maxChainPEM and maxChain bound a chain of Intel's: PCK certificate, its CA, the root.
const (
	maxChainPEM = 8 << 10
	maxChain    = 3
)

// DefaultIntelRoots returns Intel's SGX Root CA, under which all PCK certificates and all
// statements about TCB levels are issued, those of TDX too.
func DefaultIntelRoots() []*x509.Certificate {
	roots, err := certs.Authorities(intelSGXRootCA)
	if err != nil {
		panic("tee: built-in root: " + err.Error()) // impossible: a test parses the embedded file
	}
	return roots
}

// ParseChain reads certificates in PEM, the signer's first and the root last. Unlike the files of
// operators, evidence is read strictly: nothing but PEM as encoding/pem writes it, the last line
// break aside.
func ParseChain(text []byte) ([]*x509.Certificate, error) {
	if len(text) > maxChainPEM {
		return nil, fmt.Errorf("certificate chain of %d bytes, want at most %d", len(text), maxChainPEM)
	}
	var chain []*x509.Certificate
	for rest := unixLines(text); len(rest) > 0; {
		block, after := pem.Decode(rest)
		if block == nil || block.Type != "CERTIFICATE" || len(block.Headers) > 0 {
			return nil, errors.New("certificate chain is not certificates in PEM")
		}
		if !isPEMOf(rest[:len(rest)-len(after)], block) {
			return nil, errors.New("certificate chain: there is something beside the certificates")
		}
		cert, err := certs.Parse(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate chain: %w", err)
		}
		if chain, rest = append(chain, cert), after; len(chain) > maxChain {
			return nil, fmt.Errorf("certificate chain of more than %d certificates", maxChain)
		}
	}
	if len(chain) == 0 {
		return nil, errors.New("no certificate in the chain")
	}
	return chain, nil
}

func unixLines(text []byte) []byte { return bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")) }

// isChainOf says whether text is these certificates, and nothing else.
func isChainOf(text []byte, chain []*x509.Certificate) bool {
	var want []byte
	for _, c := range chain {
		want = append(want, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return bytes.Equal(bytes.TrimSuffix(unixLines(text), []byte("\n")), bytes.TrimSuffix(want, []byte("\n")))
}

// isPEMOf says whether text is the block and nothing else.
func isPEMOf(text []byte, block *pem.Block) bool {
	return bytes.Equal(bytes.TrimSuffix(text, []byte("\n")), bytes.TrimSuffix(pem.EncodeToMemory(block), []byte("\n")))
}

// VerifyPCKChain checks the chain of a quote at the time t: PCK certificate, Platform CA, root. The
// root must be one of roots, byte for byte.
func VerifyPCKChain(chain, roots []*x509.Certificate, t time.Time) error {
	return verifyChain(chain, []string{namePCK, namePlatformCA}, roots, t)
}

// verifyChain checks certificates with these names, and the root that follows them.
func verifyChain(chain []*x509.Certificate, names []string, roots []*x509.Certificate, t time.Time) error {
	if len(chain) != len(names)+1 {
		return fmt.Errorf("chain of %d certificates, want %d", len(chain), len(names)+1)
	}
	for i, name := range names {
		if chain[i].Subject.CommonName != name {
			return fmt.Errorf("certificate %d is that of %.60q, want %q", i+1, chain[i].Subject.CommonName, name)
		}
	}
	for _, c := range chain {
		if key, ok := c.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() || c.SignatureAlgorithm != x509.ECDSAWithSHA256 {
			return fmt.Errorf("certificate of %.60q: key or signature is not ECDSA on the curve P-256 with SHA-256", c.Subject.CommonName)
		}
	}
	root := pinned(chain[len(names)], roots)
	if root == nil {
		return fmt.Errorf("the root %.60q is not one that the verifier trusts", chain[len(names)].Subject.CommonName)
	}
	if t.IsZero() { // x509 would take the clock of this machine
		return errors.New("the verifier gave no time to verify the certificates at")
	}
	anchor, intermediates := x509.NewCertPool(), x509.NewCertPool()
	anchor.AddCert(root)
	for _, c := range chain[1:len(names)] {
		intermediates.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: anchor, Intermediates: intermediates, CurrentTime: t,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return fmt.Errorf("certificate of %.60q: %w", chain[0].Subject.CommonName, err)
	}
	if chain[0].IsCA || chain[0].KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return fmt.Errorf("certificate of %.60q is not one for signing", chain[0].Subject.CommonName)
	}
	return nil
}

func pinned(cert *x509.Certificate, roots []*x509.Certificate) *x509.Certificate {
	for _, root := range roots {
		if root.Equal(cert) {
			return root
		}
	}
	return nil
}

// revocation is a revocation list (RFC 5280, 5) with what issued it.
type revocation struct {
	name string
	list *x509.RevocationList
}

func parseCRL(name string, der []byte) (*revocation, error) {
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(list.Raw) != len(der) {
		return nil, fmt.Errorf("%s: bytes after the list", name)
	}
	return &revocation{name, list}, nil
}

// verify checks that issuer signed the list, that it is valid at t, and that it is a whole one.
func (r *revocation) verify(issuer *x509.Certificate, t time.Time) error {
	if !bytes.Equal(r.list.RawIssuer, issuer.RawSubject) {
		return fmt.Errorf("%s: it is not by %.60q", r.name, issuer.Subject.CommonName)
	}
	if err := r.list.CheckSignatureFrom(issuer); err != nil {
		return fmt.Errorf("%s: %w", r.name, err)
	}
	if t.Before(r.list.ThisUpdate) || !t.Before(r.list.NextUpdate) {
		return fmt.Errorf("%s is valid from %v to %v, not at %v", r.name, r.list.ThisUpdate, r.list.NextUpdate, t)
	}
	return checkCritical(r.list, r.name)
}

// checkCritical refuses what this package does not understand and must: a list of some certificates
// only, or of another issuer's (RFC 5280, 5.2.4 and 5.2.5).
func checkCritical(list *x509.RevocationList, name string) error {
	for _, e := range list.Extensions {
		if e.Critical {
			return fmt.Errorf("%s: extension %v is not supported", name, e.Id)
		}
	}
	for _, entry := range list.RevokedCertificateEntries {
		for _, e := range entry.Extensions {
			if e.Critical {
				return fmt.Errorf("%s: extension %v of an entry is not supported", name, e.Id)
			}
		}
	}
	return nil
}

// covers checks that the list does not name the certificate.
func (r *revocation) covers(cert *x509.Certificate) error {
	for _, entry := range r.list.RevokedCertificateEntries {
		if entry.SerialNumber.Cmp(cert.SerialNumber) == 0 {
			return fmt.Errorf("the certificate of %.60q with serial number %x was revoked at %v",
				cert.Subject.CommonName, cert.SerialNumber, entry.RevocationTime)
		}
	}
	return nil
}
