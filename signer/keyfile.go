package signer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/keyagent/keyagent/internal/statefile"
	"github.com/keyagent/keyagent/tpm"
)

// maxKeyFileBytes bounds a key file; one of an RSA-3072 key has below 3 KB.
const maxKeyFileBytes = 16 << 10

// openKeyFile loads the key at cfg.KeyFile. If there is no file, it makes a key and writes the file
// before it loads the key, so that a crash cannot lose a key that was used. Two processes that do
// so at once end up with the same key.
func openKeyFile(ctx context.Context, cfg Config) (key *tpm.Key, created bool, err error) {
	text, err := statefile.Read(cfg.KeyFile, maxKeyFileBytes)
	if errors.Is(err, fs.ErrNotExist) && !cfg.MustExist {
		var file *tpm.KeyFile
		file, created, err = createKeyFile(ctx, cfg)
		if err != nil {
			return nil, false, fmt.Errorf("creating the TPM key %q: %w", cfg.KeyFile, err)
		}
		cfg.PCRValues, cfg.ParentName = file.PCRValues, file.ParentName
		text, err = statefile.Read(cfg.KeyFile, maxKeyFileBytes)
	}
	if err != nil {
		return nil, false, err
	}
	file, err := decodeKeyFile(cfg.KeyFile, text)
	if err != nil {
		return nil, false, err
	}
	if key, err = loadKeyFile(ctx, cfg, file); err != nil {
		err = fmt.Errorf("%w%s", err, loadAdvice(err))
	}
	return key, created, err
}

// ReadKeyFile reads a key file of the agent, without a TPM.
func ReadKeyFile(path string) (*tpm.KeyFile, error) {
	text, err := statefile.Read(path, maxKeyFileBytes)
	if err != nil {
		return nil, err
	}
	return decodeKeyFile(path, text)
}

func decodeKeyFile(path string, text []byte) (*tpm.KeyFile, error) {
	file, err := tpm.DecodeKeyFile(text)
	if err != nil {
		return nil, fmt.Errorf("%q: %w; restore it, or move it away to get a new key (and certificate)", path, err)
	}
	return file, nil
}

func loadKeyFile(ctx context.Context, cfg Config, file *tpm.KeyFile) (*tpm.Key, error) {
	key, err := cfg.TPM.LoadKey(ctx, file, tpm.LoadOptions{
		AuthValue:  cfg.Options.AuthValue,
		Persistent: cfg.Persistent,
		SignOnly:   !cfg.AnyAttributes,
		PCRValues:  cfg.PCRValues,
		Parent:     cfg.ParentName,
		UsedAtOnce: true, // by the self-test
	})
	if err != nil {
		return nil, fmt.Errorf("%q: %w", cfg.KeyFile, err)
	}
	return key, nil
}

// createKeyFile makes a key and writes its file. It reports false if another process wrote one
// first.
func createKeyFile(ctx context.Context, cfg Config) (*tpm.KeyFile, bool, error) {
	file, err := cfg.TPM.CreateKey(ctx, cfg.Options)
	if err != nil {
		return nil, false, err
	}
	err = statefile.WriteNew(cfg.KeyFile, file.Encode())
	if errors.Is(err, fs.ErrExist) {
		cfg.Logger.Info("TPM key file was created by another process meanwhile", "key_file", cfg.KeyFile)
		return file, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	cfg.Logger.Info("TPM key created", "key_file", filepath.Clean(cfg.KeyFile))
	return file, true, nil
}

// loadAdvice says what an operator can do about a key file of the agent that does not load. It does
// not apply to key files of other programs.
func loadAdvice(err error) string {
	if parent, ok := errors.AsType[*tpm.ParentError](err); ok && !parent.Lost() {
		return "; the key is not lost: leave its file where it is"
	}
	switch {
	case errors.Is(err, tpm.ErrForeignTPM):
		return "; a key cannot be moved between machines: move the file away, and this machine makes its own"
	case errors.Is(err, tpm.ErrExportable), errors.Is(err, tpm.ErrAttributes):
		return "; move the file away, and a bound key is made instead"
	case errors.Is(err, tpm.ErrStorageRoot):
		return "; if this TPM was cleared or replaced on purpose, its keys are gone: move the state directory away to begin anew"
	}
	return ""
}
