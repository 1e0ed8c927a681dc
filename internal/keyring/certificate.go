package keyring

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/internal/advice"
	"github.com/keyagent/keyagent/internal/certs"
	"github.com/keyagent/keyagent/internal/statedir"
	"github.com/keyagent/keyagent/signer/certreq"
	"github.com/keyagent/keyagent/signer/keystore"
)

// CertificateReport describes a certificate of a key.
type CertificateReport struct {
	File           string    `json:"file,omitempty"` // empty if it was put nowhere
	Subject        string    `json:"subject"`
	Issuer         string    `json:"issuer"`
	Serial         string    `json:"serial"` // hexadecimal
	AltNames       []string  `json:"alt_names,omitempty"`
	NotBefore      time.Time `json:"not_before"`
	NotAfter       time.Time `json:"not_after"`
	ExpiresSoon    bool      `json:"expires_soon"`
	SelfSigned     bool      `json:"self_signed"`
	ForEntra       bool      `json:"for_entra"`       // Entra takes certificates over RSA keys only
	ThumbprintSHA1 string    `json:"thumbprint_sha1"` // upper-case hexadecimal, as Entra's portal shows it
	X5tS256        string    `json:"x5t#S256"`        // base64url (RFC 7515, 4.1.8)
	Chain          []string  `json:"chain,omitempty"` // subjects of the issuers that come with it
	Problem        string    `json:"problem,omitempty"`
	PEM            string    `json:"pem,omitempty"` // the whole chain
	Warnings       []string  `json:"warnings,omitempty"`

	// Replaced is the certificate in whose place this one was put.
	Replaced *ReplacedReport `json:"replaced,omitempty"`
	// NeedsReplace says that it was put nowhere, and that its import will have to be told to
	// replace the one in use.
	NeedsReplace bool `json:"-"`
}

// certificate describes a chain that was checked against a key.
func (k *Keyring) certificate(chain []*x509.Certificate, public crypto.PublicKey, e keystore.Entry) CertificateReport {
	leaf := chain[0]
	digest := sha256.Sum256(leaf.Raw)
	r := CertificateReport{
		File:    e.CertFile,
		Subject: leaf.Subject.String(), Issuer: leaf.Issuer.String(), Serial: leaf.SerialNumber.Text(16),
		AltNames:  altNames(leaf),
		NotBefore: leaf.NotBefore.UTC(), NotAfter: leaf.NotAfter.UTC(), ExpiresSoon: certreq.ExpiresSoon(leaf, k.opts.Now()),
		SelfSigned:     isSelfIssued(leaf),
		ThumbprintSHA1: acquire.PortalThumbprint(leaf),
		X5tS256:        base64.RawURLEncoding.EncodeToString(digest[:]),
		PEM:            string(certreq.EncodeCertificates(chain)),
	}
	_, r.ForEntra = leaf.PublicKey.(*rsa.PublicKey)
	for _, c := range chain {
		if outdated(c.SignatureAlgorithm) && !isSelfIssued(c) { // a root's own signature is verified by no server
			r.Warnings = append(r.Warnings, fmt.Sprintf("certificate %s is signed with %v, which most servers do not accept any more", c.Subject, c.SignatureAlgorithm))
		}
	}
	for _, c := range chain[1:] {
		r.Chain = append(r.Chain, c.Subject.String())
	}
	if err := certreq.CheckCertificate(chain, public, k.opts.Now()); err != nil {
		r.Problem = err.Error()
	}
	return r
}

func isSelfIssued(c *x509.Certificate) bool { return certs.Equal(c.RawSubject, c.RawIssuer) }

// outdated reports whether collisions are known for the hash of a signature algorithm.
func outdated(a x509.SignatureAlgorithm) bool {
	return slices.Contains([]x509.SignatureAlgorithm{x509.MD2WithRSA, x509.MD5WithRSA, x509.SHA1WithRSA, x509.DSAWithSHA1, x509.ECDSAWithSHA1}, a)
}

func altNames(c *x509.Certificate) []string {
	var names []string
	for _, n := range c.DNSNames {
		names = append(names, "DNS:"+n)
	}
	for _, u := range c.URIs {
		names = append(names, "URI:"+u.String())
	}
	for _, ip := range c.IPAddresses {
		names = append(names, "IP:"+ip.String())
	}
	for _, m := range c.EmailAddresses {
		names = append(names, "email:"+m)
	}
	return names
}

func isElliptic(public crypto.PublicKey) bool {
	_, ok := public.(*ecdsa.PublicKey)
	return ok
}

// Certificate describes the certificate beside a key.
func (k *Keyring) Certificate(name string, next bool) (CertificateReport, error) {
	e, err := k.generation(name, next)
	if err != nil {
		return CertificateReport{}, err
	}
	chain, err := k.store.Certificates(e)
	if errors.Is(err, fs.ErrNotExist) && name == statedir.BindingKeyName {
		return CertificateReport{}, advice.To(fmt.Errorf("the certificates of key %q are obtained from the platform, one for each identity", name), "see %s", advice.Run(advice.ShowStatus, ""))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return CertificateReport{}, noCertificate(fmt.Errorf("key %q has no certificate", name), name, next)
	}
	if err != nil {
		return CertificateReport{}, err
	}
	half, err := k.publicHalf(e)
	if err != nil {
		return CertificateReport{}, err
	}
	return k.certificate(chain, half.key, e), nil
}

// noCertificate adds how a key gets a certificate.
func noCertificate(err error, name string, next bool) error {
	var generation []advice.Flag
	if next {
		generation = []advice.Flag{advice.Next}
	}
	subject := advice.Subject.Is("CN=" + name)
	return advice.To(err, "%s for an issuer, and then %s; or, where signed assertions are enough (bound: never), %s",
		advice.Run(advice.RequestCertificate, name, slices.Concat(generation, []advice.Flag{subject, advice.Out.Is("request.pem")})...),
		advice.Run(advice.ImportCertificate, name, slices.Concat(generation, []advice.Flag{advice.File.Is("chain.pem")})...),
		advice.Run(advice.SelfSign, name, slices.Concat(generation, []advice.Flag{subject})...))
}
