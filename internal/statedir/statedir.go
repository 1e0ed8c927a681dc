package statedir

import (
	"bytes"
	"context"
	"crypto"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/advice"
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

// OpenTPM opens the TPM and holds it to the storage root that it had when it was first opened with this state directory.
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
	t, err := tpm.Open(ctx, tpm.Config{Device: cfg.TPM, Logger: log, StorageRoot: pin, OwnerAuth: OwnerAuth(cfg), Waiting: opts.Waits.Begin})
	if err != nil {
		return nil, err
	}
	if !present && opts.LookOnly {
		return t, nil
	}
	// Only now: where there is no TPM, nothing is made.
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

// OwnerAuth reads the owner's password when the TPM demands it.
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

// HasKeys reports whether there are keys, whose storage root is to be noted if it is not. What cannot be read may well be one.
func HasKeys(cfg *config.Config, opts Options) bool {
	store, err := keystore.Open(keystore.Config{StateDir: cfg.StateDir, Logger: opts.Logger})
	if err != nil {
		return true
	}
	names, err := store.Names()
	return err != nil || len(names) > 0
}

// Existing checks the state directory, if it is there.
func Existing(dir string) (present bool, err error) {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return true, statefile.EnsureDir(dir)
}

// readPin reads the Name of the storage root; nil if none was written yet. A file that is torn is put aside: who could tear it
// could have removed it.
func readPin(path string, log *slog.Logger) ([]byte, error) {
	var pin []byte
	err := statefile.Load(path, maxPinBytes, func(text []byte) error {
		var ok bool
		if pin, ok = decodePin(text); !ok {
			return errors.New("it is not the Name of a TPM's storage root")
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if torn, ok := errors.AsType[*statefile.TornError](err); ok {
		log.Warn("the note of the TPM's storage root is damaged and was put aside; the root that the TPM shows now is believed", "file", torn.Aside)
		return nil, nil
	}
	return pin, err
}

// decodePin reads the note of a storage root; ok is false if it is damaged. A note that was cut off must not pass for another root,
// after which the keys would be deleted: a Name is two bytes that say which hash (TPM 2.0 part 1, 16), and a value of that hash.
func decodePin(text []byte) (pin []byte, ok bool) {
	pin, err := hex.DecodeString(string(bytes.TrimSuffix(text, []byte("\n"))))
	if err != nil || len(pin) < 2 {
		return nil, false
	}
	size := map[uint16]int{0x000b: crypto.SHA256.Size(), 0x000c: crypto.SHA384.Size(), 0x000d: crypto.SHA512.Size()}
	n, known := size[binary.BigEndian.Uint16(pin)]
	return pin, known && len(pin)-2 == n
}

// ErrDamaged means that the note of the storage root is there and of no use.
var ErrDamaged = errors.New("it is damaged")

// RootFile is the file in which the Name of the storage root is noted.
func RootFile(dir string) string { return filepath.Join(dir, storageRootFile) }

// Noted reads which storage root was noted, and leaves the note as it is.
func Noted(dir string) ([]byte, error) {
	text, err := statefile.Read(RootFile(dir), maxPinBytes)
	if errors.Is(err, statefile.ErrTooLarge) {
		return nil, ErrDamaged
	}
	if err != nil {
		return nil, err
	}
	pin, ok := decodePin(text)
	if !ok {
		return nil, ErrDamaged
	}
	return pin, nil
}

// holdToRoot finds the storage root, and notes it where no note is. A root that was noted is the only one that the TPM takes.
func holdToRoot(ctx context.Context, t *tpm.TPM, pin []byte, path string, log *slog.Logger) error {
	root, err := t.StorageRoot(ctx)
	if parent, ok := errors.AsType[*tpm.ParentError](err); ok && parent.Lost() {
		return fmt.Errorf("%w; if this TPM was cleared or replaced on purpose, keys under the old root are lost: remove %s and the keys; if not, the root was removed from its handle, "+
			"or somebody sits between: nothing is to be deleted", err, path)
	} else if ok {
		return advice.Hint(fmt.Errorf("%w (noted in %s); the keys are not lost", err, path), "%s", Restoring(parent))
	}
	if err != nil || pin != nil {
		return err
	}
	err = statefile.WriteNew(path, []byte(hex.EncodeToString(root.Name)+"\n"))
	if errors.Is(err, fs.ErrExist) {
		return sameRoot(path, root.Name, log)
	}
	if err == nil {
		log.Info("TPM storage root noted: from now on no other is accepted", "algorithm", root.Algorithm, "name", hex.EncodeToString(root.Name), "file", path)
	}
	return err
}

// sameRoot compares a storage root with the one that another process was faster to note: two that begin at once must not be shown
// two roots.
func sameRoot(path string, name []byte, log *slog.Logger) error {
	noted, err := readPin(path, log)
	if err == nil && !bytes.Equal(noted, name) {
		err = fmt.Errorf("%w: another process noted Name %x in %s meanwhile, shown here is %x", tpm.ErrStorageRoot, noted, path, name)
	}
	return err
}

// OpenKeys opens the TPM and the named keys of the state directory, as the agent itself does: for commands that work beside a
// running agent, or without one. Close the TPM.
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

func OpenStore(cfg *config.Config, opts Options) (*keystore.Store, error) {
	return keystore.Open(keystore.Config{
		StateDir: cfg.StateDir, Now: opts.Now, Logger: opts.Logger, Waiting: opts.Waits.Begin,
		// With the first key, and before it, the storage root is noted: until then there is nothing that another root could harm.
		BeforeKey: func(ctx context.Context, t *tpm.TPM) error {
			return holdToRoot(ctx, t, nil, RootFile(cfg.StateDir), opts.Logger)
		},
	})
}
