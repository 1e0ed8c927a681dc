package keyring

import (
	"context"
	"crypto/x509"
	"encoding/pem"

	"github.com/keyagent/keyagent/internal/advice"
	"github.com/keyagent/keyagent/internal/statedir"
	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/signer/certreq"
	"github.com/keyagent/keyagent/signer/keystore"
)

// NameRequest is the subject of a certificate and its alternative names, as text: "CN=app",
// "DNS:app.example".
type NameRequest struct {
	Subject  string
	AltNames []string
}

func (r NameRequest) names() (certreq.Names, error) {
	var names certreq.Names
	if r.Subject != "" {
		subject, err := certreq.ParseSubject(r.Subject)
		if err != nil {
			return names, RequestError{err}
		}
		names.Subject = subject
	}
	for _, text := range r.AltNames {
		n, err := certreq.ParseSubjectAltName(text)
		if err != nil {
			return names, RequestError{err}
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

	// Attributes are further ones: each an Attribute (RFC 2986, 4.1) in DER.
	Attributes [][]byte
}

// Request makes a certificate request, PEM.
func (k *Keyring) Request(ctx context.Context, name string, req RequestOptions) ([]byte, error) {
	names, err := req.names()
	if err != nil {
		return nil, err
	}
	if names.Subject.Empty() && len(names.AltNames) == 0 {
		return nil, requestf("a subject or an alternative name is needed")
	}
	if err := checkOwnCertificate(name); err != nil {
		return nil, err
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
	options := certreq.RequestOptions{Names: names, Attributes: req.Attributes}
	if req.PSS {
		if isElliptic(key.Public()) {
			return nil, requestf("PSS is for RSA keys; key %q is %s", name, key.Info().Algorithm)
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
		return requestf("a subject is needed")
	case o.Days < 0:
		return requestf("a certificate of %d days would have expired already", o.Days)
	case o.Days > maxUsualDays && !o.LongLived:
		return advice.To(requestf("%d days are more than two years, and nobody can revoke a self-signed certificate", o.Days), "if that is meant, say %s", advice.LongLived)
	}
	return nil
}

// SelfSign makes a certificate that the key signs itself, and puts it beside the key. It replaces a
// working certificate of the key in use only if asked to: the app registration does not know the
// new one yet.
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

// checkOwnCertificate refuses certificates for the agent's own key: the agent obtains them itself.
func checkOwnCertificate(name string) error {
	if name != statedir.BindingKeyName {
		return nil
	}
	return advice.To(requestf("key %q is the agent's own: it obtains certificates for it itself", name),
		"%s shows them; for an app registration make a key of another name: %s", advice.Run(advice.ShowStatus, ""), advice.Run(advice.CreateKey, "app"))
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
