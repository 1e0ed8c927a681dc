package keyring

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/internal/advice"
	"github.com/keyagent/keyagent/internal/certs"
	"github.com/keyagent/keyagent/internal/inputfile"
	"github.com/keyagent/keyagent/internal/pemfile"
	"github.com/keyagent/keyagent/internal/statedir"
	"github.com/keyagent/keyagent/internal/statefile"
	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/signer/certreq"
	"github.com/keyagent/keyagent/signer/keystore"
	"github.com/keyagent/keyagent/tpm"
)

// CertificateReport is what there is to say of a key's certificate.
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
	// NeedsReplace says that it was put nowhere, and that its import will have to be told to replace the one in use.
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
		if outdated(c.SignatureAlgorithm) && !isSelfIssued(c) { // nobody verifies a root's
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

// outdated reports whether collisions of the hash have been made.
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

// NameRequest says whom a certificate is for, in the words of the command line.
type NameRequest struct {
	Subject  string
	AltNames []string
}

func (r NameRequest) names() (certreq.Names, error) {
	var names certreq.Names
	if r.Subject != "" {
		subject, err := certreq.ParseSubject(r.Subject)
		if err != nil {
			return names, advice.UsageError{Err: err}
		}
		names.Subject = subject
	}
	for _, text := range r.AltNames {
		n, err := certreq.ParseSubjectAltName(text)
		if err != nil {
			return names, advice.UsageError{Err: err}
		}
		names.AltNames = append(names.AltNames, n)
	}
	return names, nil
}

// RequestOptions say which certificate request to make.
type RequestOptions struct {
	NameRequest
	Next bool // for the next generation
	PSS  bool // sign it with PSS
	Auth AuthSource
}

// Request makes a certificate request, PEM.
func (k *Keyring) Request(ctx context.Context, name string, req RequestOptions) ([]byte, error) {
	names, err := req.names()
	if err != nil {
		return nil, err
	}
	if names.Subject.Empty() && len(names.AltNames) == 0 {
		return nil, advice.Usagef("--subject or --san is needed, as in --subject CN=app")
	}
	e, err := k.generation(name, req.Next)
	if err != nil {
		return nil, err
	}
	key, err := k.open(ctx, e, req.Auth)
	if err != nil {
		return nil, err
	}
	defer key.Close()
	options := certreq.RequestOptions{Names: names}
	if req.PSS {
		if isElliptic(key.Public()) {
			return nil, advice.Usagef("--pss is for RSA keys; key %q is %s", name, key.Info().Algorithm)
		}
		options.SignatureAlgorithm = x509.SHA256WithRSAPSS
	}
	der, err := certreq.NewCertificateRequest(key.WithContext(ctx), options)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// SelfSignOptions say which certificate to make.
type SelfSignOptions struct {
	NameRequest
	Days      int  // 0: one year
	LongLived bool // more than two years are meant
	Next      bool
	NoImport  bool // it is not put beside the key
	Replace   bool // though the key in use has a certificate that works
	Auth      AuthSource
}

// maxUsualDays is what a certificate may live without LongLived.
const maxUsualDays = 2 * 365

func (o SelfSignOptions) check() error {
	switch {
	case o.Subject == "":
		return advice.Usagef("--subject is needed, as in --subject CN=app")
	case o.Days < 0:
		return advice.Usagef("--days %d would have expired already", o.Days)
	case o.Days > maxUsualDays && !o.LongLived:
		return advice.Hint(advice.Usagef("--days %d is more than two years, and nobody can revoke a self-signed certificate", o.Days), "if that is meant, say --long-lived")
	}
	return nil
}

// SelfSign makes a certificate that the key signs itself, and puts it beside the key. It replaces a working one of the key in use only
// if asked to: who has to accept the certificate does not know the new one yet.
func (k *Keyring) SelfSign(ctx context.Context, name string, req SelfSignOptions) (CertificateReport, error) {
	if err := req.check(); err != nil {
		return CertificateReport{}, err
	}
	names, err := req.names()
	if err != nil {
		return CertificateReport{}, err
	}
	if err := checkOwnCertificate(name); err != nil {
		return CertificateReport{}, err
	}
	e, err := k.generation(name, req.Next)
	if err != nil {
		return CertificateReport{}, err
	}
	inUse, err := k.inUse(e)
	if err != nil {
		return CertificateReport{}, err
	}
	if inUse != nil && !req.NoImport && !req.Replace {
		return CertificateReport{}, k.explainInUse(inUse, e) // before the TPM is asked
	}
	key, err := k.open(ctx, e, req.Auth)
	if err != nil {
		return CertificateReport{}, err
	}
	defer key.Close()
	options := certreq.SelfSignOptions{Names: names, Now: k.opts.Now, LongLived: req.LongLived}
	if req.Days != 0 {
		options.NotAfter = k.opts.Now().AddDate(0, 0, req.Days)
	}
	der, err := certreq.SelfSign(key.WithContext(ctx), options)
	if err != nil {
		return CertificateReport{}, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return CertificateReport{}, err
	}
	chain := []*x509.Certificate{leaf}
	report, err := k.selfSigned(ctx, e, key, chain, req)
	if err != nil {
		return CertificateReport{}, err
	}
	if !report.ForEntra {
		report.Warnings = append(report.Warnings, "Entra takes certificates over RSA keys only; this one is for others")
	}
	return report, nil
}

// checkOwnCertificate keeps certificates of people's making away from the agent's key, which has others.
func checkOwnCertificate(name string) error {
	if name != statedir.BindingKeyName {
		return nil
	}
	return advice.Hint(advice.Usagef("key %q is the agent's own: it obtains certificates for it itself", name),
		"keyagent status shows them; for an app registration make a key of another name: keyagent key create app")
}

// selfSigned puts a new certificate beside its key, or nowhere.
func (k *Keyring) selfSigned(ctx context.Context, e keystore.Entry, key *signer.Key, chain []*x509.Certificate, req SelfSignOptions) (CertificateReport, error) {
	if !req.NoImport {
		return k.put(ctx, e, key, chain, req.Replace)
	}
	inUse, err := k.inUse(e)
	if err != nil {
		return CertificateReport{}, err
	}
	e.CertFile = ""
	report := k.certificate(chain, key.Public(), e)
	report.NeedsReplace = inUse != nil
	return report, nil
}

// ImportOptions say which certificate is put beside a key.
type ImportOptions struct {
	File    string // with the chain
	Restore bool   // in place of File: the certificate that was replaced last
	Next    bool   // beside the next generation
	Replace bool   // though the key in use has a certificate that works
}

func (o ImportOptions) check() error {
	if (o.File == "") == !o.Restore {
		return advice.Usagef("--file or --restore is needed, and not both")
	}
	return nil
}

// Import puts a chain beside a key, if nothing is wrong with it. It replaces a working one of the key in use only if asked to, as
// SelfSign does.
func (k *Keyring) Import(ctx context.Context, name string, req ImportOptions) (CertificateReport, error) {
	if err := req.check(); err != nil {
		return CertificateReport{}, err
	}
	if err := checkOwnCertificate(name); err != nil {
		return CertificateReport{}, err
	}
	e, err := k.generation(name, req.Next)
	if err != nil {
		return CertificateReport{}, err
	}
	chain, err := k.importable(e, req)
	if err != nil {
		return CertificateReport{}, err
	}
	half, err := k.loadedHalf(ctx, e)
	if err != nil {
		return CertificateReport{}, err
	}
	chain = certreq.Arrange(chain, half.Public())
	report, err := k.put(ctx, e, half, chain, req.Replace || req.Restore)
	if err != nil {
		return CertificateReport{}, k.explainImport(err, e, chain[0])
	}
	return report, ctx.Err()
}

// importable reads the chain that is to be imported.
func (k *Keyring) importable(e keystore.Entry, req ImportOptions) ([]*x509.Certificate, error) {
	if req.Restore {
		chain, err := k.store.Replaced(e)
		if errors.Is(err, keystore.ErrNoneReplaced) {
			err = advice.Hint(err, "keyagent cert import %s%s --file FILE puts a certificate beside the key", e.Name, nextFlag(e))
		}
		return chain, err
	}
	text, err := inputfile.Read(req.File, maxForeignBytes)
	if err != nil {
		return nil, err
	}
	chain, err := certreq.ParseCertificates(text)
	if err != nil {
		return nil, pemfile.Named(req.File, err)
	}
	return chain, nil
}

// publicHalf is a key that is not there to sign.
type publicHalf struct{ key crypto.PublicKey }

func (h publicHalf) Public() crypto.PublicKey { return h.key }

// loadedHalf is the public half of a key that this TPM has loaded, which it does only if both halves in the file are those of one key
// of its own (TPM 2.0 Part 3, 12.2).
func (k *Keyring) loadedHalf(ctx context.Context, e keystore.Entry) (publicHalf, error) {
	file, err := k.store.ReadKeyFile(e)
	if err != nil {
		return publicHalf{}, err
	}
	t, err := k.on(ctx)
	if err != nil {
		return publicHalf{}, err
	}
	key, err := t.LoadKey(ctx, file, tpm.LoadOptions{})
	if err != nil {
		return publicHalf{}, statedir.Explain(err, e.Name)
	}
	half, err := halfOf(file)
	return half, errors.Join(err, key.Close())
}

// publicHalf is what the key file says.
func (k *Keyring) publicHalf(e keystore.Entry) (publicHalf, error) {
	file, err := k.store.ReadKeyFile(e)
	if err != nil {
		return publicHalf{}, err
	}
	return halfOf(file)
}

func halfOf(file *tpm.KeyFile) (publicHalf, error) {
	d, err := file.Describe()
	return publicHalf{d.PublicKey}, err
}

// explainImport finds out whose certificate it is.
func (k *Keyring) explainImport(err error, e keystore.Entry, leaf *x509.Certificate) error {
	wrong, ok := errors.AsType[*certreq.CertificateError](err)
	if !ok {
		return err // it is explained already
	}
	if wrong.Problems[0].Field == certreq.FieldIssuer {
		return advice.Hint(err, "nothing was imported; the file needs the certificate itself and each issuer that follows it, none left out; without any issuers it is taken, too")
	}
	if wrong.Problems[0].Field != certreq.FieldPublicKey {
		return advice.Hint(err, "nothing was imported; keyagent key csr %s makes a request for a certificate that fits", e.Name)
	}
	other, flag, found := k.owner(leaf)
	if found {
		return advice.Hint(err, "it is over another key of yours: keyagent cert import %s --file FILE%s", other, flag)
	}
	return advice.Hint(err, "nothing was imported; keyagent key csr %s makes the request for a certificate over this key", e.Name)
}

// owner finds the key that a certificate is over, among the current and next generations.
func (k *Keyring) owner(leaf *x509.Certificate) (name, flag string, found bool) {
	names, err := k.store.Names()
	if err != nil {
		return "", "", false
	}
	for _, n := range names {
		for _, flag := range []string{"", " --next"} {
			e, err := k.generation(n, flag != "")
			if err != nil {
				continue
			}
			half, err := k.publicHalf(e)
			own, ok := half.key.(interface{ Equal(crypto.PublicKey) bool })
			if err == nil && ok && own.Equal(leaf.PublicKey) {
				return n, flag, true
			}
		}
	}
	return "", "", false
}

// Certificate describes the certificate beside a key.
func (k *Keyring) Certificate(name string, next bool) (CertificateReport, error) {
	e, err := k.generation(name, next)
	if err != nil {
		return CertificateReport{}, err
	}
	chain, err := k.store.Certificates(e)
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

// noCertificate tells the ways to a certificate.
func noCertificate(err error, name string, next bool) error {
	flag := ""
	if next {
		flag = " --next"
	}
	return advice.Hint(err, "keyagent key csr %[1]s%[2]s --subject CN=%[1]s --out request.pem for an issuer, and then keyagent cert import %[1]s%[2]s --file chain.pem; "+
		"or, where signed assertions are enough (bound: never), keyagent key self-sign %[1]s%[2]s --subject CN=%[1]s", name, flag)
}

// WriteFile writes what a command made for others to see, replacing an older one in one step; see [statefile.Export]. A key file is no
// older one: there is no copy of it.
func WriteFile(path string, text []byte) error {
	if holdsKey(path) {
		return advice.Usagef("%s holds a key, or what this command cannot have made, and is not overwritten: choose another file", path)
	}
	return statefile.Export(path, text)
}

// WriteCertificate writes a copy of a certificate that was made, or its only one if it was put nowhere else.
func WriteCertificate(path string, r CertificateReport) error {
	err := WriteFile(path, []byte(r.PEM))
	switch {
	case err == nil:
		return nil
	case r.File == "":
		return fmt.Errorf("the certificate was put nowhere: %w", err)
	}
	return advice.Hint(fmt.Errorf("the key has its certificate, only the copy was not written: %w", err), "do not make another: copy %s", r.File)
}

// holdsKey looks into regular files only: of a pipe or a terminal, which may be written to, nothing must be read. A file that cannot be
// read, or is larger than what these commands write, may hold one.
func holdsKey(path string) bool {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return false
	}
	text, err := inputfile.Read(path, maxForeignBytes)
	return err != nil || bytes.Contains(text, []byte("PRIVATE KEY-----"))
}
