package keyring

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"

	"github.com/keyagent/keyagent/internal/advice"
	"github.com/keyagent/keyagent/internal/inputfile"
	"github.com/keyagent/keyagent/internal/pemfile"
	"github.com/keyagent/keyagent/internal/statedir"
	"github.com/keyagent/keyagent/signer/certreq"
	"github.com/keyagent/keyagent/signer/keystore"
	"github.com/keyagent/keyagent/tpm"
)

// ImportOptions say which certificate is put beside a key.
type ImportOptions struct {
	File    string // with the chain
	Restore bool   // in place of File: the certificate that was replaced last
	Next    bool   // beside the next generation
	Replace bool   // though the key in use has a certificate that works
}

func (o ImportOptions) check() error {
	if (o.File == "") == !o.Restore {
		return requestf("a file is needed, or the certificate that was replaced last, and not both")
	}
	return nil
}

// Import puts a chain beside a key, if nothing is wrong with it. It replaces a working one of the
// key in use only if asked to, as SelfSign does.
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
			err = advice.To(err, "%s puts a certificate beside the key", importing(e, advice.File))
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

// publicHalf is a key without its private half.
type publicHalf struct{ key crypto.PublicKey }

func (h publicHalf) Public() crypto.PublicKey { return h.key }

// loadedHalf is the public half of a key that this TPM has loaded, which it does only if both
// halves in the file are those of one key of its own (TPM 2.0 Part 3, 12.2).
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

// explainImport adds which key the certificate is over, if it is another one of this keyring.
func (k *Keyring) explainImport(err error, e keystore.Entry, leaf *x509.Certificate) error {
	wrong, ok := errors.AsType[*certreq.CertificateError](err)
	if !ok {
		return err // it is explained already
	}
	if wrong.Problems[0].Field == certreq.FieldIssuer {
		return advice.To(err, "nothing was imported; the file needs the certificate itself and each issuer that follows it, none left out; without any issuers it is taken, too")
	}
	if wrong.Problems[0].Field != certreq.FieldPublicKey {
		return advice.To(err, "nothing was imported; %s makes a request for a certificate that fits", advice.Run(advice.RequestCertificate, e.Name))
	}
	other, found := k.owner(leaf)
	if found {
		return advice.To(err, "it is over another key of yours: %s", importing(other, advice.File))
	}
	return advice.To(err, "nothing was imported; %s makes the request for a certificate over this key", advice.Run(advice.RequestCertificate, e.Name))
}

// owner finds the key that a certificate is over, among the current and next generations.
func (k *Keyring) owner(leaf *x509.Certificate) (e keystore.Entry, found bool) {
	names, err := k.store.Names()
	if err != nil {
		return e, false
	}
	for _, n := range names {
		for _, next := range []bool{false, true} {
			e, err := k.generation(n, next)
			if err != nil {
				continue
			}
			half, err := k.publicHalf(e)
			own, ok := half.key.(interface{ Equal(crypto.PublicKey) bool })
			if err == nil && ok && own.Equal(leaf.PublicKey) {
				return e, true
			}
		}
	}
	return e, false
}
