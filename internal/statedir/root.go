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
	"path/filepath"

	"github.com/keyagent/keyagent/internal/advice"
	"github.com/keyagent/keyagent/internal/statefile"
	"github.com/keyagent/keyagent/tpm"
)

// readPin reads the Name of the storage root; nil if none was written yet. A damaged file is put
// aside: an attacker who could damage it could also have removed it.
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

// decodePin reads the note of a storage root; ok is false if it is damaged. A note that was cut off
// must not be taken for that of another root, because the keys would then be said to be lost: a
// Name is two bytes that say which hash (TPM 2.0 part 1, 16), and a value of that hash.
func decodePin(text []byte) (pin []byte, ok bool) {
	pin, err := hex.DecodeString(string(bytes.TrimSuffix(text, []byte("\n"))))
	if err != nil || len(pin) < 2 {
		return nil, false
	}
	size := map[uint16]int{0x000b: crypto.SHA256.Size(), 0x000c: crypto.SHA384.Size(), 0x000d: crypto.SHA512.Size()}
	n, known := size[binary.BigEndian.Uint16(pin)]
	return pin, known && len(pin)-2 == n
}

// ErrDamaged means that the note of the storage root is there and cannot be understood.
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

// holdToRoot finds the storage root in the TPM and notes its Name if none was noted. Once one was
// noted, package tpm accepts no other.
func holdToRoot(ctx context.Context, t *tpm.TPM, pin []byte, path string, log *slog.Logger) error {
	root, err := t.StorageRoot(ctx)
	if parent, ok := errors.AsType[*tpm.ParentError](err); ok && parent.Lost() {
		return advice.Add(fmt.Errorf("%w (noted in %s): the keys there belong to another TPM, or to this one before it was cleared", err, path), OtherTPM())
	} else if ok {
		return advice.Add(fmt.Errorf("%w (noted in %s); the keys are not lost", err, path), Restoring(parent))
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

// sameRoot compares a storage root with the one that another process has noted in the meantime: two
// processes that start at once must not be shown two roots.
func sameRoot(path string, name []byte, log *slog.Logger) error {
	noted, err := readPin(path, log)
	if err == nil && !bytes.Equal(noted, name) {
		err = fmt.Errorf("%w: another process noted Name %x in %s meanwhile, shown here is %x", tpm.ErrStorageRoot, noted, path, name)
	}
	return err
}
