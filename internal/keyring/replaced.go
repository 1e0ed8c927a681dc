package keyring

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/keyagent/keyagent/internal/advice"
	"github.com/keyagent/keyagent/signer/keystore"
)

// ReplacedReport describes a certificate in whose place another one was put.
type ReplacedReport struct {
	Subject        string    `json:"subject"`
	NotBefore      time.Time `json:"not_before"`
	NotAfter       time.Time `json:"not_after"`
	ThumbprintSHA1 string    `json:"thumbprint_sha1"`
	X5tS256        string    `json:"x5t#S256"`
	File           string    `json:"file"` // that has it now
	// EntraSince is when the agent first obtained a token from Entra with it. Null: it is not known
	// that it ever did.
	EntraSince *time.Time `json:"entra_since"`
	Restore    string     `json:"restore"` // the command that puts it back
}

// Entra says whether Entra has seen the certificate work, as far as that is known.
func (r ReplacedReport) Entra() string {
	if r.EntraSince == nil {
		return "not known to accept it: this agent has noted no token that it obtained with it"
	}
	return "has given tokens for it since " + r.EntraSince.UTC().Format(time.RFC3339)
}

// put puts a chain beside a key and says what it replaced.
func (k *Keyring) put(ctx context.Context, e keystore.Entry, key interface{ Public() crypto.PublicKey }, chain []*x509.Certificate, replace bool) (CertificateReport, error) {
	replaced, err := k.store.Import(ctx, e, key, chain, replace)
	if inUse, ok := errors.AsType[*keystore.InUseError](err); ok {
		return CertificateReport{}, k.explainInUse(inUse, e)
	}
	if err != nil {
		return CertificateReport{}, err
	}
	if there, err := k.store.Certificates(e); err == nil {
		chain = there // which may have issuers that the new file lacks
	}
	report := k.certificate(chain, key.Public(), e)
	if replaced != nil {
		old := k.replaced(e, replaced.Chain, key.Public())
		old.File = replaced.File
		report.Replaced = &old
	}
	return report, nil
}

// inUse returns the error that tells of a certificate that works and is in use, or nil.
func (k *Keyring) inUse(e keystore.Entry) (*keystore.InUseError, error) {
	half, err := k.publicHalf(e)
	if err != nil {
		return nil, err
	}
	err = k.store.CheckReplace(e, half)
	if inUse, ok := errors.AsType[*keystore.InUseError](err); ok {
		return inUse, nil
	}
	return nil, err
}

// explainInUse says which certificate would be replaced, whether Entra has seen it work, and what
// to do.
func (k *Keyring) explainInUse(err *keystore.InUseError, e keystore.Entry) error {
	old := k.replaced(e, err.Chain, err.Chain[0].PublicKey)
	return advice.To(fmt.Errorf("%w; it was left in its place (subject %q, thumbprint %s; Entra: %s)", err, old.Subject, old.ThumbprintSHA1, old.Entra()),
		"register the new certificate with the application first (%s makes one for that), then give the command again with %s; the present one is kept then, and %s puts it back",
		advice.Run(advice.SelfSign, "", advice.NoImport), advice.Replace, importing(e, advice.Restore))
}

func (k *Keyring) replaced(e keystore.Entry, chain []*x509.Certificate, public crypto.PublicKey) ReplacedReport {
	c := k.certificate(chain, public, e)
	r := ReplacedReport{
		Subject: c.Subject, NotBefore: c.NotBefore, NotAfter: c.NotAfter, ThumbprintSHA1: c.ThumbprintSHA1, X5tS256: c.X5tS256,
		Restore: k.opts.Say("%s", importing(e, advice.Restore)),
	}
	since, err := k.store.Accepted(e, chain[0])
	switch {
	case err != nil:
		k.opts.Logger.Warn("the agent's note on Entra and this certificate cannot be read", "key", e.Name, "cause", err)
	case !since.IsZero():
		r.EntraSince = &since
	}
	return r
}

// importing is the command that puts a certificate beside this generation of a key.
func importing(e keystore.Entry, what advice.Flag) advice.Command {
	if e.Current {
		return advice.Run(advice.ImportCertificate, e.Name, what)
	}
	return advice.Run(advice.ImportCertificate, e.Name, advice.Next, what)
}
