package tpm

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/tpm/internal/rc"
)

// The persistent handles that the owner may give to keys: TCG Registry of Reserved TPM 2.0 Handles,
// 2.3.1, less the block of 0x81000000 that is set aside for storage roots and attestation keys.
const (
	firstPersistent tpm2.TPMHandle = 0x81010000
	lastPersistent  tpm2.TPMHandle = 0x817fffff
)

// CheckPersistentHandle says whether [Key.Persist] takes a handle.
func CheckPersistentHandle(h tpm2.TPMHandle) error {
	if h < firstPersistent || h > lastPersistent {
		return fmt.Errorf("persistent handle 0x%08x is not between 0x%08x and 0x%08x", uint32(h), uint32(firstPersistent), uint32(lastPersistent))
	}
	return nil
}

// Handle names an object in the TPM.
type Handle = tpm2.TPMHandle

// Persist keeps the key at a persistent handle, 0x81010000 to 0x817fffff (TPM2_EvictControl, TPM
// 2.0 Part 3, 28.5): through a resource manager a transient key costs three commands more around
// each one. It takes one of the few places in the TPM's NV memory. A key that is there already is
// fine; another object there is an error.
func (k *Key) Persist(ctx context.Context, h tpm2.TPMHandle) error {
	if err := CheckPersistentHandle(h); err != nil {
		return err
	}
	err := k.use(ctx, func(t *turn, at tpm2.TPMHandle) error {
		o, err := readPublic(t, h)
		switch {
		case err == nil && bytes.Equal(o.name, k.object.name):
			k.settle(t, h)
			return nil
		case err == nil:
			return errors.New("another object is there: choose another handle")
		case !rc.Of(err, tpm2.TPMRCHandle):
			return err
		}
		if at == tpm2.TPMHandle(k.permanent.Load()) {
			return fmt.Errorf("it is at 0x%08x already", uint32(at))
		}
		if err := evictControl(t, object{handle: at, name: k.object.name}, h); err != nil {
			return err
		}
		k.settle(t, h)
		return nil
	})
	if err != nil {
		return fmt.Errorf("making the TPM key persistent at 0x%08x: %w", uint32(h), err)
	}
	return nil
}

// settle notes that the key is at a persistent handle, and gives up its slot.
func (k *Key) settle(t *turn, h tpm2.TPMHandle) {
	k.permanent.Store(uint32(h))
	t.Release(&k.resident)
}

// Unpersist removes the key with this Name from a persistent handle. It is no error if nothing is
// there; another object is left alone, with an error.
func (t *TPM) Unpersist(ctx context.Context, h tpm2.TPMHandle, name []byte) error {
	err := t.again(ctx, func(turn *turn) error {
		o, err := readPublic(turn, h)
		switch {
		case rc.Of(err, tpm2.TPMRCHandle):
			return nil
		case err != nil:
			return err
		case !bytes.Equal(o.name, name):
			return errors.New("another object is there, and is left alone")
		}
		return evictControl(turn, o, h)
	})
	if err != nil {
		return fmt.Errorf("removing a TPM key from persistent handle 0x%08x: %w", uint32(h), err)
	}
	return nil
}

func evictControl(t *turn, o object, h tpm2.TPMHandle) error {
	evict := func(value []byte) error {
		return t.protected(value, 0, func(session tpm2.Session) error {
			_, err := tpm2.EvictControl{
				Auth:             owner(session),
				ObjectHandle:     tpm2.NamedHandle{Handle: o.handle, Name: tpm2.TPM2BName{Buffer: o.name}},
				PersistentHandle: h,
			}.Execute(t)
			t.forgetSeen(h)
			return err
		})
	}
	err := t.withOwnerPassword(evict(nil), evict)
	if rc.Of(err, tpm2.TPMRCBadAuth, tpm2.TPMRCAuthFail) {
		return fmt.Errorf("the owner hierarchy has a password: %w", err)
	}
	return err
}

// NameAt returns the Name of the object at a handle, nil if there is none.
func (t *TPM) NameAt(ctx context.Context, h Handle) ([]byte, error) {
	_, name, err := t.ReadPublic(ctx, h)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return nil, nil
	}
	return name, err
}
