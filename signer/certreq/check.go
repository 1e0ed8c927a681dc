package certreq

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keyagent/keyagent/internal/certs"
)

// The fields of a certificate in which [CheckCertificate] finds problems.
const (
	FieldPublicKey        = "public key"
	FieldValidity         = "validity"
	FieldKeyUsage         = "key usage"
	FieldExtKeyUsage      = "extended key usage"
	FieldBasicConstraints = "basic constraints"
	FieldIssuer           = "issuer"    // it is not the subject of the next certificate
	FieldSignature        = "signature" // it is not by the next certificate, which has the right name, or that may not issue certificates
)

// CertificateProblem is one reason why a certificate cannot be used.
type CertificateProblem struct {
	Certificate int    // its place in the chain, from 0, the leaf
	Field       string // one of the constants
	Got         string // what the certificate has
	Want        string // a clause that says what it should have: "TPM key is RSA-2048 sha256:..."
}

// String returns one line: "public key: certificate has ..., TPM key is ...". The issuers are
// numbered from 2.
func (p CertificateProblem) String() string {
	number := ""
	if p.Certificate > 0 {
		number = fmt.Sprintf(" %d", p.Certificate+1)
	}
	return fmt.Sprintf("%s: certificate%s has %s, %s", p.Field, number, p.Got, p.Want)
}

// CertificateError has all the reasons why a certificate cannot be used with a key.
type CertificateError struct {
	Problems []CertificateProblem // at least one, in the order of the chain
}

// Error returns a line for what happened and one for each problem.
func (e *CertificateError) Error() string {
	var b strings.Builder
	b.WriteString("the certificate cannot be used with this TPM key:")
	for _, p := range e.Problems {
		b.WriteString("\n  " + p.String())
	}
	return b.String()
}

// CheckCertificate checks that a chain, leaf first, can be the client certificate of the key with
// this public half. The error is a *[CertificateError] with everything that is wrong; only for an
// empty chain it is another one. It demands:
//
//   - The leaf is over this key, permits digitalSignature if it has a key usage, permits clientAuth
//     if it has an extended key usage, and is not that of a certificate authority.
//   - Every certificate is valid now, notBefore and notAfter included.
//   - Every certificate is issued and signed by the next one. A leaf that is alone and names itself
//     as issuer is signed by its own key. The last certificate need not be a root.
//
// A leaf without extended key usage passes: its use is not restricted (RFC 5280, 4.2.1.12),
// "openssl req -x509" makes such certificates, and TLS servers accept them. One that has only
// anyExtendedKeyUsage does not pass: OpenSSL refuses it for clients.
//
// It does not check whether Entra knows the certificate or trusts its issuer, nor revocation, nor
// the constraints of issuers on names, path lengths and purposes.
func CheckCertificate(chain []*x509.Certificate, public crypto.PublicKey, now time.Time) error {
	if len(chain) == 0 {
		return errors.New("there is no certificate to check")
	}
	problems := checkLeaf(chain[0], public)
	for i, c := range chain {
		problems = append(problems, checkValidity(i, c, now)...)
	}
	for i := range chain {
		problems = append(problems, checkIssuer(chain, i)...)
	}
	if len(problems) == 0 {
		return nil
	}
	slices.SortStableFunc(problems, func(a, b CertificateProblem) int { return a.Certificate - b.Certificate })
	return &CertificateError{problems}
}

func checkLeaf(leaf *x509.Certificate, public crypto.PublicKey) []CertificateProblem {
	var problems []CertificateProblem
	add := func(field, got, want string) { problems = append(problems, CertificateProblem{0, field, got, want}) }
	if own, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !own.Equal(public) {
		add(FieldPublicKey, publicKeyText(leaf.PublicKey), "TPM key is "+publicKeyText(public))
	}
	if hasExtension(leaf, oidKeyUsage) && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		add(FieldKeyUsage, keyUsageText(leaf.KeyUsage), "digitalSignature is needed: the key signs TLS handshakes")
	}
	if hasExtension(leaf, oidExtKeyUsage) && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth) {
		add(FieldExtKeyUsage, extKeyUsageText(leaf), "clientAuth is needed")
	}
	if leaf.IsCA {
		add(FieldBasicConstraints, "CA:TRUE", "CA:FALSE is needed: it is to be a client's, not an issuer's")
	}
	return problems
}

func checkValidity(i int, c *x509.Certificate, now time.Time) []CertificateProblem {
	verdict := ""
	switch {
	case now.Before(c.NotBefore):
		verdict = "not yet valid; is this machine's clock right?"
	case now.After(c.NotAfter):
		verdict = "expired; it must be renewed"
	default:
		return nil
	}
	return []CertificateProblem{{i, FieldValidity, timeText(c.NotBefore) + " to " + timeText(c.NotAfter),
		"now is " + timeText(now) + ": " + verdict}}
}

// checkIssuer checks that certificate i was issued by the next one. The last one is checked only if
// it is a leaf that issued itself; the signature of a root over itself proves nothing.
func checkIssuer(chain []*x509.Certificate, i int) []CertificateProblem {
	c := chain[i]
	if i == len(chain)-1 {
		if i > 0 || !certs.Equal(c.RawIssuer, c.RawSubject) {
			return nil
		}
		return checkSignature(i, c, c, "it is not by its own key, though it names itself as issuer")
	}
	next := chain[i+1]
	if bytes.Equal(c.Raw, next.Raw) {
		return []CertificateProblem{{i, FieldIssuer, fmt.Sprintf("%q", certs.NameText(c.RawIssuer)),
			fmt.Sprintf("certificate %d is the same once more", i+2)}}
	}
	if !certs.Equal(c.RawIssuer, next.RawSubject) {
		issuer, subject := certs.TellApart(c.RawIssuer, next.RawSubject)
		return []CertificateProblem{{i, FieldIssuer, issuer, fmt.Sprintf("certificate %d is %s; each must be followed by its issuer", i+2, subject)}}
	}
	return checkSignature(i, c, next, fmt.Sprintf("certificate %d did not sign it, or may not sign certificates", i+2))
}

func checkSignature(i int, c, by *x509.Certificate, want string) []CertificateProblem {
	err := verifySignature(c, by)
	if err == nil {
		return nil
	}
	if c.SignatureAlgorithm == x509.UnknownSignatureAlgorithm {
		return []CertificateProblem{{i, FieldSignature, "a signature " + certs.SignatureText(c), "which cannot be verified; " +
			"have it issued again, with RSA or ECDSA and SHA-256, and a salt of PSS as long as the hash (openssl: -sigopt rsa_pss_saltlen:digest)"}}
	}
	got := fmt.Sprintf("a signature %v that does not verify (%v)", c.SignatureAlgorithm, err)
	return []CertificateProblem{{i, FieldSignature, got, want}}
}

// verifySignature verifies c with the key of by, which must be an authority unless it is c itself.
// The size of the key is bounded: a file could contain one with which a verification takes seconds.
func verifySignature(c, by *x509.Certificate) error {
	if err := certs.CheckKey(by.PublicKey); err != nil {
		return err
	}
	if c == by {
		return c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature)
	}
	return c.CheckSignatureFrom(by)
}

func hasExtension(c *x509.Certificate, oid []int) bool {
	for _, e := range c.Extensions {
		if slices.Equal(e.Id, oid) {
			return true
		}
	}
	return false
}

// publicKeyText returns type, size and the beginning of SHA-256 over the SubjectPublicKeyInfo,
// enough to tell keys apart by eye.
func publicKeyText(public crypto.PublicKey) string {
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return publicKeyKind(public)
	}
	sum := sha256.Sum256(spki)
	return publicKeyKind(public) + " sha256:" + hex.EncodeToString(sum[:8]) + ".."
}

func keyUsageText(usage x509.KeyUsage) string {
	var names []string
	for bit := x509.KeyUsageDigitalSignature; bit <= x509.KeyUsageDecipherOnly; bit <<= 1 {
		if usage&bit != 0 {
			names = append(names, bit.String())
		}
	}
	return listText(names)
}

func extKeyUsageText(c *x509.Certificate) string {
	var names []string
	for _, u := range c.ExtKeyUsage {
		names = append(names, u.String())
	}
	for _, oid := range c.UnknownExtKeyUsage {
		names = append(names, oid.String())
	}
	return listText(names)
}

func listText(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return clip(strings.Join(names, ", "))
}
