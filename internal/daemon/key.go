package daemon

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/internal/statefile"
	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/tpm"
)

const (
	// BindingKeyName is the name of the agent's own key among the keys of the state directory.
	BindingKeyName = "binding"

	keysDir         = "keys"             // of the state directory: named keys
	storageRootFile = "storage-root"     // of the state directory: hexadecimal Name of the TPM's storage root
	softwareKeyFile = "software-key.pem" // of the state directory

	maxPinBytes = 256 // of the file storage-root
)

// bindingKey is what the agent needs of its key, wherever that is.
type bindingKey interface {
	Public() crypto.PublicKey
	WithContext(ctx context.Context) crypto.Signer
	SignatureSchemes() []tls.SignatureScheme
	Info() signer.Info
	Close() error
}

// openTPM opens the TPM and holds it to the storage root that it had when it was first opened with this state directory.
func openTPM(ctx context.Context, cfg *config.Config, opts Options) (*tpm.TPM, error) {
	log := opts.Logger
	present, err := existingStateDir(cfg.StateDir)
	if err != nil {
		return nil, err
	}
	pinFile := filepath.Join(cfg.StateDir, storageRootFile)
	pin, err := readPin(pinFile, log)
	if err != nil {
		return nil, err
	}
	t, err := tpm.Open(ctx, tpm.Config{Device: cfg.TPM, Logger: log, StorageRoot: pin, OwnerAuth: ownerAuth(cfg), Waiting: opts.Waits.Begin})
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
	if pin == nil && !hasKeys(cfg, opts) {
		return t, nil // the first key will note it
	}
	if err := holdToRoot(ctx, t, pin, pinFile, log); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// ownerAuth reads the owner's password when the TPM demands it.
func ownerAuth(cfg *config.Config) func() (secret.String, error) {
	if cfg.TPMOwnerCredential == "" {
		return nil
	}
	return func() (secret.String, error) {
		value, err := ReadCredential(cfg.TPMOwnerCredential)
		if err != nil {
			return value, fmt.Errorf("tpm_owner_credential: %w", err)
		}
		return value, nil
	}
}

// hasKeys reports whether there are keys, whose storage root is to be noted if it is not. What cannot be read may well be one.
func hasKeys(cfg *config.Config, opts Options) bool {
	store, err := signer.OpenStore(signer.StoreConfig{Dir: filepath.Join(cfg.StateDir, keysDir), Logger: opts.Logger})
	if err != nil {
		return true
	}
	names, err := store.Names()
	return err != nil || len(names) > 0
}

// existingStateDir checks the state directory, if it is there.
func existingStateDir(dir string) (present bool, err error) {
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

// holdToRoot finds the storage root, and notes it where no note is. A root that was noted is the only one that the TPM takes.
func holdToRoot(ctx context.Context, t *tpm.TPM, pin []byte, path string, log *slog.Logger) error {
	root, err := t.StorageRoot(ctx)
	if parent, ok := errors.AsType[*tpm.ParentError](err); ok && parent.Lost() {
		return fmt.Errorf("%w; if this TPM was cleared or replaced on purpose, keys under the old root are lost: remove %s and the keys; if not, the root was removed from its handle, "+
			"or somebody sits between: nothing is to be deleted", err, path)
	} else if ok {
		return hint(fmt.Errorf("%w (noted in %s); the keys are not lost", err, path), "%s", restoring(parent))
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
func OpenKeys(ctx context.Context, cfg *config.Config, opts Options) (*tpm.TPM, *signer.Store, error) {
	opts = opts.withDefaults()
	t, err := openTPM(ctx, cfg, opts)
	if err != nil {
		return nil, nil, err
	}
	store, err := openStore(cfg, opts)
	if err != nil {
		return nil, nil, errors.Join(err, t.Close())
	}
	return t, store, nil
}

func openStore(cfg *config.Config, opts Options) (*signer.Store, error) {
	return signer.OpenStore(signer.StoreConfig{
		Dir: filepath.Join(cfg.StateDir, keysDir), Now: opts.Now, Logger: opts.Logger, Waiting: opts.Waits.Begin,
		// With the first key, and before it, the storage root is noted: until then there is nothing that another root could harm.
		BeforeKey: func(ctx context.Context, t *tpm.TPM) error {
			return holdToRoot(ctx, t, nil, filepath.Join(cfg.StateDir, storageRootFile), opts.Logger)
		},
	})
}

// openKey opens the TPM and in it the binding key.
func (d *Daemon) openKey(ctx context.Context) error {
	if d.cfg.BindingKey.InsecureSoftware {
		return d.openSoftwareKey()
	}
	t, store, err := OpenKeys(ctx, d.cfg, d.opts)
	if err != nil {
		return err
	}
	d.tpm = t
	d.closers = append(d.closers, t.Close)
	if d.identity, err = t.Identity(ctx); err != nil {
		return err
	}
	options, err := BindingKeyOptions(d.cfg)
	if err != nil {
		return err
	}
	key, entry, err := store.OpenOrCreate(ctx, t, BindingKeyName, options, signer.Config{Logger: d.opts.Logger})
	if errors.Is(err, tpm.ErrAuthValue) {
		return fmt.Errorf("%w: see binding_key.auth_credential in the configuration, or make a new key: keyagent key rotate %s", err, BindingKeyName)
	}
	if err != nil {
		return err
	}
	d.key, d.tpmKey, d.generation = key, key.TPMKey(), entry.Generation
	d.closers = append(d.closers, key.Close)
	d.takeCertificates(certificatesOf(entry), key.Info().Name)
	if err := checkAsConfigured(d.tpmKey, options); err != nil {
		return fmt.Errorf("binding key %s: %w: make one that is (keyagent key rotate %s), or change binding_key in the configuration", key.Info().KeyFile, err, BindingKeyName)
	}
	if advice := placeAdvice(entry, options); advice != "" {
		d.opts.Logger.Warn("the binding key is not where the configuration wants it; it works from its file", "advice", advice)
	}
	info := key.Info()
	d.opts.Logger.Info("binding key ready", "algorithm", info.Algorithm, "name", info.Name,
		"created", info.Created, "attributes", info.Attributes, "file", info.KeyFile)
	return nil
}

func (d *Daemon) openSoftwareKey() error {
	key, err := signer.OpenSoftware(filepath.Join(d.cfg.StateDir, softwareKeyFile))
	if err != nil {
		return err
	}
	d.key = key
	d.opts.Logger.Warn("the binding key is in software and protects nothing: binding_key.insecure_software is for development only",
		"strength", key.Info().Strength, "file", key.Info().KeyFile)
	return nil
}

// BindingKeyOptions says what key the configuration asks for.
func BindingKeyOptions(cfg *config.Config) (signer.KeyOptions, error) {
	k := cfg.BindingKey
	options := signer.KeyOptions{
		KeyOptions: tpm.KeyOptions{Algorithm: tpm.RSA2048, PCRs: tpm.PCRSelection{PCRs: k.PCRs, Bank: crypto.SHA256}},
		Persistent: tpm.Handle(k.PersistentHandle),
	}
	if k.PCRBank == config.BankSHA384 {
		options.PCRs.Bank = crypto.SHA384
	}
	if k.AuthCredential == "" {
		return options, nil
	}
	value, err := ReadCredential(k.AuthCredential)
	if err != nil {
		return options, fmt.Errorf("binding_key.auth_credential: %w", err)
	}
	options.AuthValue = value
	return options, nil
}

// placeAdvice says how the binding key gets to the persistent handle that is configured, if it was made for another or none. It is no
// error, because the handle is for speed.
func placeAdvice(e signer.Entry, want signer.KeyOptions) string {
	if want.Persistent == 0 || e.Persistent == want.Persistent {
		return ""
	}
	return fmt.Sprintf("keyagent key rotate %s makes a key that is at binding_key.persistent_handle, %s", BindingKeyName, handleText(want.Persistent))
}

// checkAsConfigured compares a key that was there with what the configuration asks for: protection that is configured and not
// there would be worse than none.
func checkAsConfigured(key *tpm.Key, want signer.KeyOptions) error {
	have := key.PCRs()
	if len(want.PCRs.PCRs) > 0 && (have.Bank != want.PCRs.Bank || !slices.Equal(have.PCRs, slices.Compact(slices.Sorted(slices.Values(want.PCRs.PCRs))))) {
		return fmt.Errorf("it is bound to PCRs %v, configured are %v", have.PCRs, want.PCRs.PCRs)
	}
	return nil
}
