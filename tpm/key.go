package tpm

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/google/go-tpm/tpm2"
)

// Key is a key of a [KeyFile], loaded in the TPM. It is safe for concurrent use.
//
// It stays loaded as long as the TPM has a slot for it, and is loaded again from its file's content when it is needed and not
// there: after a TPM reset, after the transport was reopened, or when its slot went to another object.
type Key struct {
	tpm    *TPM
	file   *KeyFile
	object object // as reported when first loaded; its handle is not used
	key    crypto.PublicKey
	closed atomic.Bool
}

// CreateKey makes a new key with the given template under the storage root, with an empty authorization value. Nothing stays
// loaded; the result is what [TPM.LoadKey] takes, and the only copy. A template that would let the key out is refused with
// [ErrExportable].
//
// Making an RSA key takes a TPM between a tenth of a second and a minute.
func (t *TPM) CreateKey(ctx context.Context, template tpm2.TPMTPublic) (*KeyFile, error) {
	if err := checkBound(&template); err != nil {
		return nil, fmt.Errorf("creating a TPM key: %w", err)
	}
	var file *KeyFile
	err := t.again(ctx, func(turn *turn) (err error) {
		file, err = createKey(turn, template)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("creating a TPM key: %w", err)
	}
	return file, nil
}

func createKey(t *turn, template tpm2.TPMTPublic) (*KeyFile, error) {
	root, err := storageRoot(t)
	if err != nil {
		return nil, err
	}
	defer t.release(root)
	rsp, err := tpm2.Create{ParentHandle: root.auth(), InPublic: tpm2.New2B(template)}.Execute(t)
	if err != nil {
		return nil, err
	}
	return &KeyFile{
		Parent:    parentHandle(root),
		EmptyAuth: true,
		Public:    tpm2.Marshal(rsp.OutPublic),
		Private:   tpm2.Marshal(rsp.OutPrivate),
	}, nil
}

// LoadKey loads a key file and checks what came of it: a key that the TPM says could be exported, or that may do other things
// than sign, is flushed and refused with [ErrExportable]. A file that this TPM cannot load gives [ErrForeignTPM].
func (t *TPM) LoadKey(ctx context.Context, file *KeyFile) (*Key, error) {
	k := &Key{tpm: t, file: file}
	err := t.again(ctx, func(turn *turn) error {
		o, err := file.load(turn)
		if err != nil {
			return err
		}
		if err := k.accept(o); err != nil {
			turn.release(o)
			return err
		}
		t.scheduler.loaded.put(k, o.handle, turn)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("loading a TPM key: %w", err)
	}
	return k, nil
}

// load puts the key into a transient slot (TPM 2.0 Part 3, 12.2) and reads what the TPM makes of it.
func (f *KeyFile) load(t *turn) (object, error) {
	public, private, err := f.areas()
	if err != nil {
		return object{}, err
	}
	parent, err := parentOf(t, f.Parent)
	if err != nil {
		return object{}, err
	}
	defer t.release(parent)
	rsp, err := tpm2.Load{ParentHandle: parent.auth(), InPublic: public, InPrivate: private}.Execute(t)
	if err != nil {
		return object{}, explainLoad(err)
	}
	o, err := readPublic(t, rsp.ObjectHandle)
	if err == nil && !bytes.Equal(o.area, public.Bytes()) {
		err = errors.New("the TPM loaded another public area than the key file has")
	}
	if err != nil {
		t.release(object{handle: rsp.ObjectHandle})
		return object{}, err
	}
	return o, nil
}

// explainLoad tells an operator what the codes of TPM2_Load mean for a key file. The integrity value is an HMAC under the
// parent's seed over name and private area, so it is wrong for another parent and for a changed file alike.
func explainLoad(err error) error {
	switch {
	case errors.Is(err, tpm2.TPMRCIntegrity):
		return fmt.Errorf("%w: it was made by another TPM, or this TPM was cleared since, or the file was changed: %w", ErrForeignTPM, err)
	case errors.Is(err, tpm2.TPMRCBadAuth), errors.Is(err, tpm2.TPMRCAuthFail):
		return fmt.Errorf("its parent has a password: %w", err)
	}
	return err
}

// accept checks a freshly loaded key and keeps what the TPM reports about it.
func (k *Key) accept(o object) error {
	if err := checkBound(&o.public); err != nil {
		return err
	}
	key, err := publicKey(&o.public)
	if err != nil {
		return err
	}
	k.object, k.key = o, key
	return nil
}

// Public returns the public area as TPM2_ReadPublic reported it for the loaded key.
func (k *Key) Public() tpm2.TPMTPublic { return k.object.public }

// PublicArea returns the same as bytes: TPMT_PUBLIC. The Name is made of them.
func (k *Key) PublicArea() []byte { return bytes.Clone(k.object.area) }

// Name returns the key's Name: nameAlg, 2 bytes, and the digest of the public area.
func (k *Key) Name() []byte { return bytes.Clone(k.object.name) }

// PublicKey returns the public key, an *rsa.PublicKey.
func (k *Key) PublicKey() crypto.PublicKey { return k.key }

// Close flushes the key from the TPM. It waits for the TPM, and does nothing if the key or the TPM was closed before. The error
// is always nil; it is there for io.Closer.
func (k *Key) Close() error {
	if k.closed.Swap(true) {
		return nil
	}
	// A key that cannot be flushed is in nobody's way: the TPM, or the connection it was loaded over, is gone.
	_ = k.tpm.do(k.tpm.lifetime, func(t *turn) error {
		if h, found := t.scheduler.loaded.forget(k); found {
			t.release(object{handle: h})
		}
		return nil
	})
	return nil
}

// use runs f with the handle at which the key is loaded now. If the handle turns out to be stale, the key is loaded again
// and f is repeated, once; so it is if the transport died.
func (k *Key) use(ctx context.Context, f func(*turn, tpm2.TPMHandle) error) error {
	return k.tpm.again(ctx, func(t *turn) error {
		h, err := k.handle(t)
		if err != nil {
			return err
		}
		err = f(t, h)
		if !staleHandle(err) {
			return err
		}
		t.scheduler.log.Info("TPM key is gone from its slot, loading it again", "cause", err)
		t.scheduler.loaded.forget(k)
		if h, err = k.handle(t); err != nil {
			return err
		}
		return f(t, h)
	})
}

// handle returns where the key is loaded, and loads it if it is not.
func (k *Key) handle(t *turn) (tpm2.TPMHandle, error) {
	if k.closed.Load() {
		return 0, ErrClosed
	}
	if err := t.connect(); err != nil {
		return 0, err
	}
	if h, found := t.scheduler.loaded.use(k, t); found {
		return h, nil
	}
	o, err := k.file.load(t)
	if err != nil {
		return 0, fmt.Errorf("loading the TPM key again: %w", err)
	}
	t.scheduler.loaded.put(k, o.handle, t)
	return o.handle, nil
}
