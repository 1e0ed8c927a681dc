package keyring

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/advice"
	"github.com/keyagent/keyagent/internal/statedir"
	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/signer/keystore"
	"github.com/keyagent/keyagent/tpm"
)

// BeginRotation makes the next generation of a key: like the current one, but for what req says.
func (k *Keyring) BeginRotation(ctx context.Context, name string, req KeyRequest) (KeyReport, error) {
	current, err := k.generation(name, false)
	if err != nil {
		return KeyReport{}, err
	}
	if _, err := k.store.Next(name); !errors.Is(err, keystore.ErrNoKey) {
		if err != nil {
			return KeyReport{}, err
		}
		return KeyReport{}, advice.To(fmt.Errorf("a rotation of key %q has begun already", name),
			"go on with it (%s), or undo it (%s)", advice.Run(advice.RotateKey, name, advice.Finish), advice.Run(advice.RotateKey, name, advice.Cancel))
	}
	options, err := k.rotationOptions(current, req)
	if err != nil {
		return KeyReport{}, err
	}
	if err := k.checkUse(name, options.Algorithm, len(options.AuthValue.Reveal()) > 0); err != nil {
		return KeyReport{}, advice.To(RequestError{err}, "a key for something else needs a name of its own: %s", advice.Run(advice.CreateKey, "NAME"))
	}
	t, err := k.on(ctx)
	if err != nil {
		return KeyReport{}, err
	}
	e, err := k.store.BeginRotation(ctx, t, name, options)
	if err != nil {
		return KeyReport{}, statedir.Explain(err, name)
	}
	return k.report(ctx, e, options.AuthValue), nil
}

// rotationOptions reads what the current key was made with. A protection is lost only on request:
// the successor of a key that needs an authorization value needs one, too.
func (k *Keyring) rotationOptions(current keystore.Entry, req KeyRequest) (keystore.KeyOptions, error) {
	file, err := k.store.ReadKeyFile(current)
	if err != nil {
		return keystore.KeyOptions{}, err
	}
	d, err := file.Describe()
	if err != nil {
		return keystore.KeyOptions{}, err
	}
	if d.AuthValue && !req.Auth.given() && !req.NoAuth {
		return keystore.KeyOptions{}, advice.To(requestf("key %q needs an authorization value, and its successor was given none", current.Name),
			"give one with %s or %s (it may be another), or say %s", advice.AuthFile, advice.AuthCredential, advice.NoAuth)
	}
	base := keystore.KeyOptions{Persistent: current.Persistent}
	base.Algorithm, base.PCRs = d.Algorithm, d.PCRs
	return req.options(base)
}

// FinishOptions say how the next generation has to prove that it works.
type FinishOptions struct {
	Connect string         // HOST:PORT of a server besides; empty: none
	RootCAs *x509.CertPool // authorities for it; nil: the system's
	Force   bool           // also if Entra is known to refuse the certificate
	Auth    AuthSource
}

// FinishRotation switches to the next generation after it has proved to work in TLS handshakes.
func (k *Keyring) FinishRotation(ctx context.Context, name string, req FinishOptions) (KeyReport, error) {
	next, err := k.generation(name, true)
	if err != nil {
		return KeyReport{}, err
	}
	if err := k.checkNextUse(next); err != nil {
		return KeyReport{}, err
	}
	auth, err := k.authValue(name, req.Auth) // once: it may come through a pipe
	if err != nil {
		return KeyReport{}, err
	}
	key, err := k.openWith(ctx, next, auth)
	if err != nil {
		return KeyReport{}, err
	}
	defer key.Close()
	prove := keystore.ProveHere(k.opts.Now)
	switch {
	case req.Connect != "":
		prove = prove.Then(keystore.ProveAt(req.Connect, keystore.ProveConfig{RootCAs: req.RootCAs, Now: k.opts.Now}))
	case !req.Force:
		prove = prove.Then(k.proveTrusted(name))
	}
	if err := k.store.FinishRotation(ctx, next, key, prove); err != nil {
		return KeyReport{}, explainProof(err, name)
	}
	return k.report(ctx, next, auth), nil
}

// NeedsIssuer reports whether the configuration uses a key for mutual TLS and nothing less. Then
// Entra takes certificates of an authority, which it trusts by subject name and issuer, and no
// self-signed one.
func (k *Keyring) NeedsIssuer(name string) bool { return k.mutualTLSUser(name) != "" }

// mutualTLSUser names an identity that logs in with a key over mutual TLS only; "" if there is
// none.
func (k *Keyring) mutualTLSUser(name string) string {
	for _, id := range k.cfg.Identities {
		if id.Application != nil && slices.ContainsFunc(id.Application.Credentials, func(c config.Credential) bool {
			return c.Source == config.SourceCertificate && c.Key == name && c.Bound == config.BoundRequire
		}) {
			return id.Name
		}
	}
	return ""
}

// proveTrusted refuses a self-signed certificate for a key that the configuration uses for mutual
// TLS. A handshake in this process cannot find that out.
func (k *Keyring) proveTrusted(name string) keystore.Prove {
	return func(_ context.Context, _ *signer.Key, chain []*x509.Certificate) error {
		user := k.mutualTLSUser(name)
		if user == "" || len(chain) == 0 || !isSelfIssued(chain[0]) {
			return nil
		}
		err := fmt.Errorf("its certificate is self-signed, identity %q logs in with it over mutual TLS (bound: require), and Entra takes certificates there "+
			"that the app registration trusts by subject name and issuer (AADSTS392189)", user)
		return advice.To(err, "get it one from an authority: %s, then %s; or, if the app is enabled for self-signed ones, prove it at a server with %s, or say %s",
			advice.Run(advice.RequestCertificate, name, advice.Next, advice.Subject.Is("CN="+name), advice.Out.Is("request.pem")),
			advice.Run(advice.ImportCertificate, name, advice.Next, advice.File.Is("chain.pem")), advice.Connect, advice.Force)
	}
}

// GoBack switches to the generation that was in use before the last rotation, after it has proved
// to work in TLS handshakes. The one that was in use becomes the next one.
func (k *Keyring) GoBack(ctx context.Context, name string, source AuthSource) (KeyReport, error) {
	if _, err := k.generation(name, false); err != nil {
		return KeyReport{}, err
	}
	previous, err := k.store.Previous(name)
	if errors.Is(err, keystore.ErrNoKey) {
		return KeyReport{}, advice.To(fmt.Errorf("key %q has no generation to go back to: the old one is kept until the next rotation begins", name),
			"%s shows the generations that there are", advice.Run(advice.ShowKey, name))
	}
	if err != nil {
		return KeyReport{}, err
	}
	if err := k.checkDescribed(previous); err != nil {
		return KeyReport{}, err
	}
	auth, err := k.authValue(name, source) // once: it may come through a pipe
	if err != nil {
		return KeyReport{}, err
	}
	key, err := k.openWith(ctx, previous, auth)
	if err != nil {
		return KeyReport{}, err
	}
	defer key.Close()
	if err := k.store.GoBack(ctx, previous, key, keystore.ProveHere(k.opts.Now)); err != nil {
		return KeyReport{}, advice.To(statedir.Explain(err, name), "%s shows the generations and their certificates", advice.Run(advice.ShowKey, name))
	}
	return k.report(ctx, previous, auth), nil
}

// checkUse refuses a key that the agent could not use for the application that the configuration
// uses it for.
func (k *Keyring) checkUse(name string, algorithm tpm.Algorithm, authValue bool) error {
	for _, id := range k.cfg.Identities {
		if id.Application == nil || !slices.ContainsFunc(id.Application.Credentials, func(c config.Credential) bool { return c.Key == name }) {
			continue
		}
		switch {
		case algorithm != "" && !ForEntra(algorithm):
			return fmt.Errorf("identity %q logs in with key %q, and Entra takes RSA keys only, not %s", id.Name, name, algorithm)
		case authValue:
			return fmt.Errorf("identity %q logs in with key %q, and the agent has an authorization value only for its own key", id.Name, name)
		}
	}
	return nil
}

// ForEntra reports whether Entra takes keys of this kind.
func ForEntra(a tpm.Algorithm) bool { return strings.HasPrefix(string(a), "rsa-") }

// checkNextUse is checkUse for a generation that was begun, perhaps before the configuration named
// the key.
func (k *Keyring) checkNextUse(next keystore.Entry) error {
	return advice.To(k.checkDescribed(next), "undo it and begin with another: %s", advice.Run(advice.RotateKey, next.Name, advice.Cancel))
}

// checkDescribed is checkUse for a generation that is there.
func (k *Keyring) checkDescribed(e keystore.Entry) error {
	file, err := k.store.ReadKeyFile(e)
	if err != nil {
		return err
	}
	d, err := file.Describe()
	if err != nil {
		return err
	}
	return k.checkUse(e.Name, d.Algorithm, d.AuthValue)
}

func explainProof(err error, name string) error {
	switch {
	case errors.Is(err, keystore.ErrNoCertificate):
		return noCertificate(err, name, true)
	case errors.Is(err, keystore.ErrNotAsked):
		return advice.To(err, "name a server that demands client certificates, or leave %s out", advice.Connect)
	}
	return advice.To(statedir.Explain(err, name), "%s shows its certificate; %s gives the rotation up",
		advice.Run(advice.ShowCertificate, name, advice.Next), advice.Run(advice.RotateKey, name, advice.Cancel))
}

// CancelRotation removes the next generation.
func (k *Keyring) CancelRotation(ctx context.Context, name string) error {
	if _, err := k.generation(name, true); err != nil {
		return err
	}
	return statedir.Explain(k.store.CancelRotation(ctx, k.on, name), name)
}
