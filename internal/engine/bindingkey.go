package engine

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"

	"github.com/keyagent/keyagent/acquire/binding"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/advice"
	"github.com/keyagent/keyagent/internal/inputfile"
	"github.com/keyagent/keyagent/internal/statedir"
	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/signer/keystore"
	"github.com/keyagent/keyagent/tpm"
)

const softwareKeyFile = "software-key.pem" // of the state directory

// bindingKey is what the agent needs of its key, in a TPM or in software.
type bindingKey interface {
	Public() crypto.PublicKey
	WithContext(ctx context.Context) crypto.Signer
	ProvenSchemes() []tls.SignatureScheme
	Info() signer.Info
	Close() error
}

// Key is the binding key, and the TPM that it is in.
type Key struct {
	bindingKey
	TPM        *tpm.TPM     // nil with a software key
	Identity   tpm.Identity // of the TPM
	OnTPM      *tpm.Key     // nil with a software key
	Generation int          // 0 with a software key
}

// Close closes the key and its TPM.
func (k *Key) Close() error {
	err := k.bindingKey.Close()
	if k.TPM != nil {
		err = errors.Join(err, k.TPM.Close())
	}
	return err
}

// KeyIn is the key of an engine, made of a key that is open in a TPM.
func KeyIn(t *tpm.TPM, key *signer.Key, e keystore.Entry) *Key {
	return &Key{bindingKey: key, TPM: t, OnTPM: key.TPMKey(), Generation: e.Generation}
}

// OpenKey opens the TPM and in it the binding key in use, or makes one.
func OpenKey(ctx context.Context, cfg *config.Config, opts Options) (*Key, error) {
	opts = opts.WithDefaults()
	if cfg.BindingKey.InsecureSoftware {
		return openSoftwareKey(cfg, opts)
	}
	t, store, err := statedir.OpenKeys(ctx, cfg, opts.Dir())
	if err != nil {
		return nil, err
	}
	key, err := openKey(ctx, cfg, opts, t, store)
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return key, nil
}

func openKey(ctx context.Context, cfg *config.Config, opts Options, t *tpm.TPM, store *keystore.Store) (*Key, error) {
	identity, err := t.Identity(ctx)
	if err != nil {
		return nil, err
	}
	options, err := BindingKeyOptions(cfg)
	if err != nil {
		return nil, err
	}
	key, entry, err := store.OpenOrCreate(ctx, t, statedir.BindingKeyName, options, signer.Config{Logger: opts.Logger})
	if errors.Is(err, tpm.ErrAuthValue) {
		return nil, statedir.Explain(err, statedir.BindingKeyName)
	}
	if err != nil {
		return nil, err
	}
	info := key.Info()
	takeCertificates(ctx, store, entry, cfg.StateDir, info.Name, opts.Logger)
	if err := CheckAsConfigured(key.TPMKey(), options); err != nil {
		err = advice.Add(fmt.Errorf("binding key %s: %w", info.KeyFile, err), AsConfiguredAdvice())
		return nil, errors.Join(err, key.Close())
	}
	if to := PlaceAdvice(entry, options); !to.IsZero() {
		opts.Logger.Warn("the binding key is not where the configuration wants it; it works from its file", "advice", to.Text(opts.Words))
	}
	opts.Logger.Info("binding key ready", "algorithm", info.Algorithm, "name", info.Name,
		"created", info.Created, "attributes", info.Attributes, "file", info.KeyFile)
	made := KeyIn(t, key, entry)
	made.Identity = identity
	return made, nil
}

func openSoftwareKey(cfg *config.Config, opts Options) (*Key, error) {
	key, err := signer.OpenSoftware(filepath.Join(cfg.StateDir, softwareKeyFile))
	if err != nil {
		return nil, err
	}
	opts.Logger.Warn("the binding key is in software and protects nothing: binding_key.insecure_software is for development only",
		"strength", key.Info().Strength, "file", key.Info().KeyFile)
	return &Key{bindingKey: key}, nil
}

// BindingKeyOptions is the key that the configuration asks for. It reads the credential with its
// authorization value.
func BindingKeyOptions(cfg *config.Config) (keystore.KeyOptions, error) {
	k := cfg.BindingKey
	options := keystore.KeyOptions{
		KeyOptions: tpm.KeyOptions{Algorithm: tpm.RSA2048, PCRs: tpm.PCRSelection{PCRs: k.PCRs, Bank: crypto.SHA256}},
		Persistent: tpm.Handle(k.PersistentHandle),
	}
	if k.PCRBank == config.BankSHA384 {
		options.PCRs.Bank = crypto.SHA384
	}
	if k.AuthCredential == "" {
		return options, nil
	}
	value, err := inputfile.Credential(k.AuthCredential)
	if err != nil {
		return options, fmt.Errorf("binding_key.auth_credential: %w", err)
	}
	options.AuthValue = value
	return options, nil
}

// PlaceAdvice says how to get the binding key to the persistent handle that is configured, if it
// was made for another one or for none. The key works without the handle, only slower.
func PlaceAdvice(e keystore.Entry, want keystore.KeyOptions) advice.Advice {
	if want.Persistent == 0 || e.Persistent == want.Persistent {
		return advice.Advice{}
	}
	return advice.New("%s makes a key that is at binding_key.persistent_handle, 0x%08x", advice.Run(advice.RotateKey, statedir.BindingKeyName), uint32(want.Persistent))
}

// AsConfiguredAdvice says what to do where [CheckAsConfigured] finds that the binding key is not
// what the configuration asks for.
func AsConfiguredAdvice() advice.Advice {
	return advice.New("make one that is (%s), or change binding_key in the configuration", advice.Run(advice.RotateKey, statedir.BindingKeyName))
}

// CheckAsConfigured compares a key with what the configuration asks for. A key without a protection
// that is configured must not be used: its operator would rely on it.
func CheckAsConfigured(key *tpm.Key, want keystore.KeyOptions) error {
	have := key.PCRs()
	if len(want.PCRs.PCRs) > 0 && (have.Bank != want.PCRs.Bank || !slices.Equal(have.PCRs, slices.Compact(slices.Sorted(slices.Values(want.PCRs.PCRs))))) {
		return fmt.Errorf("it is bound to PCRs %v, configured are %v", have.PCRs, want.PCRs.PCRs)
	}
	return nil
}

// takeCertificates moves the certificates that a rotation obtained for the key to where the engine
// looks for them. For each that is not moved, a new one will be issued.
func takeCertificates(ctx context.Context, store *keystore.Store, e keystore.Entry, to, keyName string, log *slog.Logger) {
	err := store.TakeStaged(ctx, e, to, func(path string) (bool, error) { return binding.Supersedes(path, keyName) })
	if err != nil {
		log.Warn("certificates of the new binding key were not all taken over; new ones will be obtained, and the next start tries again", "cause", err)
	}
}
