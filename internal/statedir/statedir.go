package statedir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/inputfile"
	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/internal/statefile"
	"github.com/keyagent/keyagent/signer/keystore"
	"github.com/keyagent/keyagent/tpm"
)

const (
	// BindingKeyName is the name of the agent's own key among the keys of the state directory.
	BindingKeyName = "binding"

	storageRootFile = "storage-root" // of the state directory: hexadecimal Name of the TPM's storage root

	maxPinBytes = 256 // of the file storage-root
)

// OpenTPM opens the TPM and refuses any storage root but the one that was noted for this state
// directory. It blocks while the TPM answers. Close the TPM.
func OpenTPM(ctx context.Context, cfg *config.Config, opts Options) (*tpm.TPM, error) {
	log := opts.Logger
	present, err := Existing(cfg.StateDir)
	if err != nil {
		return nil, err
	}
	pinFile := RootFile(cfg.StateDir)
	pin, err := readPin(pinFile, log)
	if err != nil {
		return nil, err
	}
	t, err := tpm.Open(ctx, tpm.Config{Device: cfg.TPM, Logger: log, StorageRoot: pin, OwnerAuth: OwnerAuth(cfg), Waiting: opts.Waits.Begin, Observer: opts.TPM})
	if err != nil {
		return nil, err
	}
	if !present && opts.LookOnly {
		return t, nil
	}
	// Not earlier: without a TPM, no directory is made.
	if err := statefile.EnsureDir(cfg.StateDir); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	if pin == nil && !HasKeys(cfg, opts) {
		return t, nil // the first key will note it
	}
	if err := holdToRoot(ctx, t, pin, pinFile, log); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// OwnerAuth returns what reads the password of the owner hierarchy when the TPM demands it; nil if
// the configuration names none.
func OwnerAuth(cfg *config.Config) func() (secret.String, error) {
	if cfg.TPMOwnerCredential == "" {
		return nil
	}
	return func() (secret.String, error) {
		value, err := inputfile.Credential(cfg.TPMOwnerCredential)
		if err != nil {
			return value, fmt.Errorf("tpm_owner_credential: %w", err)
		}
		return value, nil
	}
}

// HasKeys reports whether there are keys; if so, their storage root is to be noted. An entry that
// cannot be read counts as a key.
func HasKeys(cfg *config.Config, opts Options) bool {
	store, err := keystore.Open(keystore.Config{StateDir: cfg.StateDir, Logger: opts.Logger})
	if err != nil {
		return true
	}
	names, err := store.Names()
	return err != nil || len(names) > 0
}

// Existing reports whether the state directory is there, and checks its owner and mode.
func Existing(dir string) (present bool, err error) {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return true, statefile.EnsureDir(dir)
}

// OpenKeys opens the TPM and the store of named keys, for the agent as for commands that work
// beside it or without it. Close the TPM.
func OpenKeys(ctx context.Context, cfg *config.Config, opts Options) (*tpm.TPM, *keystore.Store, error) {
	opts = opts.WithDefaults()
	t, err := OpenTPM(ctx, cfg, opts)
	if err != nil {
		return nil, nil, err
	}
	store, err := OpenStore(cfg, opts)
	if err != nil {
		return nil, nil, errors.Join(err, t.Close())
	}
	return t, store, nil
}

// OpenStore opens the store of named keys.
func OpenStore(cfg *config.Config, opts Options) (*keystore.Store, error) {
	return keystore.Open(keystore.Config{
		StateDir: cfg.StateDir, Now: opts.Now, Logger: opts.Logger, Waiting: opts.Waits.Begin,
		// The storage root is noted right before the first key is made: until then there is no key
		// that another root could harm.
		BeforeKey: func(ctx context.Context, t *tpm.TPM) error {
			return holdToRoot(ctx, t, nil, RootFile(cfg.StateDir), opts.Logger)
		},
	})
}
