package daemon

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/internal/advice"
	"github.com/keyagent/keyagent/internal/engine"
	"github.com/keyagent/keyagent/internal/statedir"
	"github.com/keyagent/keyagent/internal/waiting"
	"github.com/keyagent/keyagent/signer/certreq"
)

// expiryTick is how often the certificates of applications are looked at, and the keys that no
// identity uses any more. It is longer than any request for a token.
const expiryTick = 10 * time.Minute

// applicationCertificate returns the chain of a named key, the certificate first, and why the agent
// could not use it now. It reads files only: TPM and network are not asked.
func (d *Daemon) applicationCertificate(key string) ([]*x509.Certificate, error) {
	store, err := statedir.OpenStore(d.cfg, d.opts.dir())
	if err != nil {
		return nil, err
	}
	entry, err := store.Current(key)
	if err != nil {
		return nil, err
	}
	chain, err := store.Certificates(entry)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("key %q has no certificate yet", key)
	}
	if err != nil {
		return nil, err
	}
	file, err := store.ReadKeyFile(entry)
	if err != nil {
		return chain, err
	}
	described, err := file.Describe()
	if err != nil {
		return chain, err
	}
	if err := certreq.CheckCertificate(chain, described.PublicKey, d.opts.Now()); err != nil {
		return chain, fmt.Errorf("certificate of key %q: %w", key, err)
	}
	return chain, nil
}

// endsFirst returns the certificate of a chain that expires first; the chain is of no use after it.
func endsFirst(chain []*x509.Certificate) *x509.Certificate {
	return slices.MinFunc(chain, func(a, b *x509.Certificate) int { return a.NotAfter.Compare(b.NotAfter) })
}

// applicationCertificateStatus describes a certificate that the agent does not renew.
func applicationCertificateStatus(chain []*x509.Certificate, now time.Time) *wire.CertificateStatus {
	leaf, first := chain[0], endsFirst(chain)
	return &wire.CertificateStatus{
		Subject:         leaf.Subject.String(),
		Issuer:          leaf.Issuer.String(),
		Thumbprint:      acquire.Thumbprint(leaf),
		ThumbprintSHA1:  acquire.PortalThumbprint(leaf),
		Serial:          leaf.SerialNumber.Text(16),
		NotBefore:       leaf.NotBefore,
		NotAfter:        leaf.NotAfter,
		EffectiveExpiry: first.NotAfter,
		DaysLeft:        certreq.DaysLeft(first.NotAfter, now),
		ExpiresSoon:     certreq.ExpiresSoon(first, now),
	}
}

// lacks says why a credential cannot be used, as far as files show it; "" if they show nothing.
// What depends on another identity or a service only a request for a token shows.
func (d *Daemon) lacks(c acquire.Credential) (chain []*x509.Certificate, problem string) {
	var err error
	switch c.Source {
	case acquire.SourceCertificate:
		chain, err = d.applicationCertificate(c.Key)
	case acquire.SourceAssertionFile:
		_, err = os.Stat(c.Path)
	}
	if err != nil {
		problem = err.Error()
	}
	return chain, problem
}

// watchExpiry warns in the log of certificates of applications that expire soon or have expired,
// more urgently each time, until ctx ends. It returns nil.
func (d *Daemon) watchExpiry(ctx context.Context) error {
	wait := d.opts.Wait
	if wait == nil {
		wait = waiting.Sleep
	}
	told := map[string]string{}
	for {
		d.tellExpiry(ctx, told)
		d.engine.UnloadUnusedKeys(ctx, d.inForce.Load().plan.Plan)
		if err := wait(ctx, expiryTick); err != nil {
			return nil //nolint:nilerr // the agent ends
		}
	}
}

// tellExpiry logs certificates whose expiry has become more urgent since the last look, and expired
// ones again every day.
func (d *Daemon) tellExpiry(ctx context.Context, told map[string]string) {
	users := map[string][]string{}
	for _, id := range d.inForce.Load().plan.Identities {
		for _, c := range engine.CertificateCredentials(id) {
			users[c.Key] = append(users[c.Key], id.Name)
		}
	}
	for key, identities := range users {
		chain, _ := d.applicationCertificate(key)
		if chain == nil {
			delete(told, key) // status and the next token report the fault
			continue
		}
		first, now := endsFirst(chain), d.opts.Now()
		urgency, left := certreq.Urgency(first, now), certreq.DaysLeft(first.NotAfter, now)
		state := fmt.Sprintf("%s %d", acquire.PortalThumbprint(chain[0]), urgency)
		if now.After(first.NotAfter) {
			state += fmt.Sprintf(" %d", left)
		}
		if told[key] == state {
			continue
		}
		told[key] = state
		record := []any{"identities", identities, "key", key, "subject", chain[0].Subject.String(), "thumbprint", acquire.PortalThumbprint(chain[0]),
			"expires", first.NotAfter.UTC().Format(time.RFC3339), "days_left", left, "urgency", urgency,
			"advice", advice.New("%s begins its replacement; docs/keys.md has the steps", advice.Run(advice.RotateKey, key)).Text(d.opts.Words)}
		switch {
		case urgency == 0:
		case now.After(first.NotAfter):
			d.opts.Logger.ErrorContext(ctx, "the certificate of an application has expired: it gives no tokens any more", record...)
		default:
			d.opts.Logger.WarnContext(ctx, "the certificate of an application expires soon", record...)
		}
	}
}
