package tpm

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/tpm/internal/device"
)

// defaultNVChunk is read at a time from a TPM that does not say how much it can give.
const defaultNVChunk = 512

// ReadNV reads all of an NV index with owner authorization and an empty password (TPM 2.0 Part 3,
// 31.13). It reads in chunks, once, upward from offset 0: on Azure only a read at offset 0 makes a
// new report, and a second one would mix two. An index that is not defined gives [ErrNoNVIndex].
// The answers are not authenticated: what Azure keeps there is public and signed.
func (t *TPM) ReadNV(ctx context.Context, index tpm2.TPMHandle) ([]byte, error) {
	var data []byte
	err := t.again(ctx, func(turn *turn) (err error) {
		data, err = readNV(turn, index)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading NV index 0x%08x: %w", uint32(index), err)
	}
	return data, nil
}

func readNV(t *turn, index tpm2.TPMHandle) ([]byte, error) {
	public, name, err := readNVPublic(t, index)
	if err != nil {
		return nil, err
	}
	chunk, err := nvChunk(t)
	if err != nil {
		return nil, err
	}
	data := make([]byte, 0, public.DataSize)
	for len(data) < int(public.DataSize) {
		size := min(chunk, int(public.DataSize)-len(data))
		var rsp *tpm2.NVReadResponse
		err := t.asOwner(func(session tpm2.Session) (err error) {
			rsp, err = tpm2.NVRead{
				AuthHandle: owner(session),
				NVIndex:    tpm2.NamedHandle{Handle: index, Name: name},
				Size:       uint16(size),      // #nosec G115 -- both below DataSize, a uint16
				Offset:     uint16(len(data)), // #nosec G115
			}.Execute(t)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("offset %d: %w", len(data), explainNV(err))
		}
		if len(rsp.Data.Buffer) != size {
			return nil, fmt.Errorf("offset %d: %d bytes asked for, %d came", len(data), size, len(rsp.Data.Buffer))
		}
		data = append(data, rsp.Data.Buffer...)
	}
	return data, nil
}

// readNVPublic asks for size and Name of an index (TPM 2.0 Part 3, 31.6).
func readNVPublic(t *turn, index tpm2.TPMHandle) (*tpm2.TPMSNVPublic, tpm2.TPM2BName, error) {
	rsp, err := tpm2.NVReadPublic{NVIndex: index}.Execute(t)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return nil, tpm2.TPM2BName{}, ErrNoNVIndex
	}
	if err != nil {
		return nil, tpm2.TPM2BName{}, err
	}
	public, err := rsp.NVPublic.Contents()
	if err != nil {
		return nil, tpm2.TPM2BName{}, fmt.Errorf("its public area: %w", err)
	}
	return public, rsp.NVName, nil
}

// nvChunk returns how much one TPM2_NV_Read may ask for.
func nvChunk(t *turn) (int, error) {
	p, err := t.Fixed()
	if err != nil {
		return 0, err
	}
	// The response, with its 10 bytes of header and some more, must fit into what we take.
	const roomForRest = 64
	if v := p[tpm2.TPMPTNVBufferMax]; v > 0 {
		return int(min(v, device.MaxResponseBytes-roomForRest)), nil
	}
	return defaultNVChunk, nil
}

func explainNV(err error) error {
	switch {
	case errors.Is(err, tpm2.TPMRCBadAuth), errors.Is(err, tpm2.TPMRCAuthFail):
		return fmt.Errorf("the owner hierarchy has a password: %w", err)
	case errors.Is(err, tpm2.TPMRCNVUninitialized):
		return fmt.Errorf("nothing was ever written to it: %w", err)
	}
	return err
}
