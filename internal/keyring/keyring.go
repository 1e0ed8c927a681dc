package keyring

import (
	"context"
	"errors"
	"fmt"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/advice"
	"github.com/keyagent/keyagent/internal/engine"
	"github.com/keyagent/keyagent/internal/inputfile"
	"github.com/keyagent/keyagent/internal/pemfile"
	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/internal/statedir"
	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/signer/keystore"
	"github.com/keyagent/keyagent/tpm"
)

// Keyring is the named keys of a state directory and the TPM that they are in, for commands that
// work beside a running agent or without one. The TPM is opened on first use, so that a certificate
// can be shown and a key deleted where there is no TPM. Close the keyring. Not safe for concurrent
// use.
type Keyring struct {
	cfg   *config.Config
	opts  statedir.Options
	store *keystore.Store
	tpm   *tpm.TPM // nil: not opened yet

	borrowed bool // the TPM is the caller's to close
}

// Open opens the keys of the state directory, if there is one already.
func Open(cfg *config.Config, opts statedir.Options) (*Keyring, error) {
	opts = opts.WithDefaults()
	if err := statedir.CheckOwner(cfg.StateDir); err != nil {
		return nil, err
	}
	if _, err := statedir.Existing(cfg.StateDir); err != nil {
		return nil, statedir.Explain(err, statedir.BindingKeyName)
	}
	store, err := statedir.OpenStore(cfg, opts)
	if err != nil {
		return nil, statedir.Explain(err, statedir.BindingKeyName)
	}
	return &Keyring{cfg: cfg, opts: opts, store: store}, nil
}

// On returns the keys of a store and a TPM that the caller has opened. Close leaves the TPM open.
func On(t *tpm.TPM, store *keystore.Store, cfg *config.Config, opts statedir.Options) *Keyring {
	return &Keyring{cfg: cfg, opts: opts.WithDefaults(), store: store, tpm: t, borrowed: true}
}

// Close closes the TPM.
func (k *Keyring) Close() error {
	if k.tpm == nil || k.borrowed {
		return nil
	}
	return k.tpm.Close()
}

// Dir is the state directory, which need not be there.
func (k *Keyring) Dir() string { return k.cfg.StateDir }

// Names lists the keys in alphabetical order. No TPM is needed.
func (k *Keyring) Names() ([]string, error) { return k.store.Names() }

// on opens the TPM on first use.
func (k *Keyring) on(ctx context.Context) (*tpm.TPM, error) {
	if k.tpm != nil {
		return k.tpm, nil
	}
	t, err := statedir.OpenTPM(ctx, k.cfg, k.opts)
	if err != nil {
		return nil, statedir.Explain(err, statedir.BindingKeyName)
	}
	k.tpm = t
	return t, nil
}

// AuthSource says where a key's authorization value comes from. The zero value is nowhere.
type AuthSource struct {
	File       string
	Credential string // of systemd, by name
}

func (a AuthSource) given() bool { return a.File != "" || a.Credential != "" }

func (a AuthSource) read() (secret.String, error) {
	switch {
	case a.File != "" && a.Credential != "":
		return secret.String{}, requestf("two authorization values were named: in a file and in a credential")
	case a.File != "":
		return inputfile.Secret(a.File)
	case a.Credential != "":
		return inputfile.Credential(a.Credential)
	}
	return secret.String{}, nil
}

// authValue reads the value that a key needs. The agent's own key has its source in the
// configuration.
func (k *Keyring) authValue(name string, source AuthSource) (secret.String, error) {
	if name == statedir.BindingKeyName && !source.given() {
		source.Credential = k.cfg.BindingKey.AuthCredential
	}
	return source.read()
}

// Create makes a key. The agent's own is made as the configuration says, and as nothing else.
func (k *Keyring) Create(ctx context.Context, name string, req KeyRequest) (KeyReport, error) {
	options, err := k.createOptions(name, req)
	if err != nil {
		return KeyReport{}, err
	}
	t, err := k.on(ctx)
	if err != nil {
		return KeyReport{}, err
	}
	e, err := k.store.Create(ctx, t, name, options)
	if err != nil {
		return KeyReport{}, statedir.Explain(err, name)
	}
	return k.report(ctx, e, options.AuthValue), nil
}

func (k *Keyring) createOptions(name string, req KeyRequest) (keystore.KeyOptions, error) {
	if err := keystore.CheckName(name); err != nil {
		return keystore.KeyOptions{}, RequestError{err}
	}
	if name != statedir.BindingKeyName {
		return req.options(keystore.KeyOptions{})
	}
	switch {
	case !req.isZero():
		return keystore.KeyOptions{}, advice.To(requestf("key %q is the agent's own and is made as the configuration says", name),
			"change binding_key in the configuration, or give no option")
	case len(k.cfg.Identities) == 0: // no file was read
		return keystore.KeyOptions{}, advice.To(requestf("key %q is the agent's own and is made as the configuration says, which was not found", name),
			"name it with %s, or give an app's key another name", advice.Configuration)
	case k.cfg.BindingKey.InsecureSoftware:
		return keystore.KeyOptions{}, advice.To(requestf("the configuration keeps key %q in software, and the agent makes that at its start", name),
			"remove binding_key.insecure_software from the configuration")
	}
	return engine.BindingKeyOptions(k.cfg)
}

// Adopt makes a key out of a key file that another program made.
func (k *Keyring) Adopt(ctx context.Context, name string, from ForeignFile, req KeyRequest) (KeyReport, error) {
	if err := keystore.CheckName(name); err != nil {
		return KeyReport{}, RequestError{err}
	}
	switch {
	case name == statedir.BindingKeyName:
		return KeyReport{}, requestf("key %q is the agent's own, which it makes itself: choose another name", name)
	case req.Algorithm != "" || len(req.PCRs) > 0 || req.NoPCRs || req.PCRBank != "":
		return KeyReport{}, requestf("algorithm and PCRs are decided when a key is made, and this one was made before")
	}
	file, err := from.read(req.Auth)
	if err != nil {
		return KeyReport{}, err
	}
	options, err := req.options(keystore.KeyOptions{})
	if err != nil {
		return KeyReport{}, err
	}
	t, err := k.on(ctx)
	if err != nil {
		return KeyReport{}, err
	}
	use := advice.Run(advice.CreateKey, name, advice.FromKeyFile.Is(from.Path))
	if err := k.checkForeign(ctx, from, req.Auth, file); err != nil {
		return KeyReport{}, from.explain(fmt.Errorf("the key cannot be adopted: %w", err), name, use)
	}
	e, err := k.store.Adopt(ctx, t, name, file, options)
	if err != nil {
		return KeyReport{}, from.explain(err, name, use)
	}
	return k.report(ctx, e, options.AuthValue), nil
}

// readForeignKeyFile reads a key file that another program wrote. Its owner does not matter: the
// TPM checks its content.
func readForeignKeyFile(path string) (*tpm.KeyFile, error) {
	text, err := inputfile.Read(path, maxForeignBytes)
	if err != nil {
		return nil, err
	}
	file, err := tpm.DecodeKeyFile(text)
	if err != nil {
		return nil, advice.To(pemfile.Named(path, err), "%s makes a key in this TPM; tpm2_encodeobject and openssl genpkey -provider tpm2 write files that are taken", advice.Run(advice.CreateKey, "NAME"))
	}
	return file, nil
}

// Delete removes a key and all that belongs to it. The agent's own is deleted only with force.
func (k *Keyring) Delete(ctx context.Context, name string, force bool) error {
	if err := k.CheckDelete(name, force); err != nil {
		return err
	}
	return statedir.Explain(k.store.Delete(ctx, k.on, name), name)
}

// CheckDelete says beforehand whether a key is there and may be deleted.
func (k *Keyring) CheckDelete(name string, force bool) error {
	if err := keystore.CheckName(name); err != nil {
		return RequestError{err}
	}
	if name == statedir.BindingKeyName && !force {
		return advice.To(requestf("key %q is the agent's own: without it the agent makes another, and needs certificates anew", name),
			"to have another key, %s; to delete it all the same, %s", advice.Run(advice.RotateKey, name), advice.Force)
	}
	_, err := k.store.Current(name)
	if errors.Is(err, keystore.ErrNoKey) && !errors.Is(err, keystore.ErrGenerationMissing) {
		return statedir.Explain(err, name)
	}
	return nil // a damaged key can be deleted
}

// list returns the keys with this name, or all.
func (k *Keyring) list(name string) ([]string, error) {
	if name == "" {
		return k.store.Names()
	}
	if err := keystore.CheckName(name); err != nil {
		return nil, RequestError{err}
	}
	return []string{name}, nil
}

// generation returns the current generation, or the next one.
func (k *Keyring) generation(name string, next bool) (keystore.Entry, error) {
	if err := keystore.CheckName(name); err != nil {
		return keystore.Entry{}, RequestError{err}
	}
	if !next {
		e, err := k.store.Current(name)
		return e, statedir.Explain(err, name)
	}
	if _, err := k.store.Current(name); err != nil {
		return keystore.Entry{}, statedir.Explain(err, name)
	}
	e, err := k.store.Next(name)
	if errors.Is(err, keystore.ErrNoKey) {
		return e, advice.To(fmt.Errorf("key %q has no next generation", name), "%s begins one", advice.Run(advice.RotateKey, name))
	}
	return e, err
}

// open opens a generation to sign with. A key that another program made may have attributes that
// ours must not have; the agent's own may not.
func (k *Keyring) open(ctx context.Context, e keystore.Entry, source AuthSource) (*signer.Key, error) {
	auth, err := k.authValue(e.Name, source)
	if err != nil {
		return nil, err
	}
	return k.openWith(ctx, e, auth)
}

func (k *Keyring) openWith(ctx context.Context, e keystore.Entry, auth secret.String) (*signer.Key, error) {
	if err := k.checkGiven(e, auth); err != nil {
		return nil, statedir.Explain(err, e.Name)
	}
	t, err := k.on(ctx)
	if err != nil {
		return nil, err
	}
	key, err := k.store.Open(ctx, e, signer.Config{
		TPM: t, Options: tpm.KeyOptions{AuthValue: auth}, AnyAttributes: e.Name != statedir.BindingKeyName,
	})
	return key, statedir.Explain(err, e.Name)
}

const maxForeignBytes = 64 << 10
