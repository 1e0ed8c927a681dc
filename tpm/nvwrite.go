package tpm

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// PutNV writes data, all of an NV index, with owner authorization (TPM 2.0 Part 3, 31.3 and 31.7).
// An index that does not exist is defined, for the owner to read and to write, in the size of data;
// one of another size is defined anew, unless it is the platform's. Data has to fit into one
// command, which on any TPM are 512 bytes. The data is not secret, and an interposer can change it:
// the caller must verify its effect.
func (t *TPM) PutNV(ctx context.Context, index tpm2.TPMHandle, data []byte) error {
	if len(data) == 0 || len(data) > defaultNVChunk {
		return fmt.Errorf("writing NV index 0x%08x: %d bytes, want 1 to %d", uint32(index), len(data), defaultNVChunk)
	}
	err := t.again(ctx, func(turn *turn) error {
		if err := sizeNV(turn, index, len(data)); err != nil {
			return err
		}
		return writeNV(turn, index, data)
	})
	if err != nil {
		return fmt.Errorf("writing NV index 0x%08x: %w", uint32(index), err)
	}
	return nil
}

// sizeNV sees that an index is there and has a size.
func sizeNV(t *turn, index tpm2.TPMHandle, size int) error {
	public, name, err := readNVPublic(t, index)
	switch {
	case errors.Is(err, ErrNoNVIndex):
		return defineNV(t, index, size)
	case err != nil || int(public.DataSize) == size:
		return err
	case public.Attributes.PlatformCreate:
		return fmt.Errorf("the platform made it with %d bytes, and not %d", public.DataSize, size)
	}
	err = t.asOwner(func(session tpm2.Session) error {
		_, err := tpm2.NVUndefineSpace{AuthHandle: owner(session), NVIndex: tpm2.NamedHandle{Handle: index, Name: name}}.Execute(t)
		return err
	})
	if err != nil {
		return fmt.Errorf("removing the one with %d bytes: %w", public.DataSize, explainNV(err))
	}
	return defineNV(t, index, size)
}

func defineNV(t *turn, index tpm2.TPMHandle, size int) error {
	err := t.asOwner(func(session tpm2.Session) error {
		_, err := tpm2.NVDefineSpace{
			AuthHandle: owner(session),
			PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
				NVIndex: index, NameAlg: tpm2.TPMAlgSHA256, DataSize: uint16(size), // #nosec G115 -- at most defaultNVChunk
				Attributes: tpm2.TPMANV{NT: tpm2.TPMNTOrdinary, OwnerRead: true, OwnerWrite: true},
			}),
		}.Execute(t)
		return err
	})
	if err != nil {
		return fmt.Errorf("defining it: %w", explainNV(err))
	}
	return nil
}

// writeNV reads the index' Name first: the first write changes it.
func writeNV(t *turn, index tpm2.TPMHandle, data []byte) error {
	_, name, err := readNVPublic(t, index)
	if err != nil {
		return err
	}
	err = t.asOwner(func(session tpm2.Session) error {
		_, err := tpm2.NVWrite{
			AuthHandle: owner(session), NVIndex: tpm2.NamedHandle{Handle: index, Name: name},
			Data: tpm2.TPM2BMaxNVBuffer{Buffer: data},
		}.Execute(t)
		return err
	})
	return explainNV(err)
}
