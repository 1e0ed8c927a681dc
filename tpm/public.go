package tpm

import (
	"bytes"
	"context"
	"crypto"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// errWrongObject says that a handle names another object than the one that was loaded there.
var errWrongObject = errors.New("the handle names another object")

// object is a loaded object as the TPM reports it.
type object struct {
	handle tpm2.TPMHandle
	public tpm2.TPMTPublic
	area   []byte // TPMT_PUBLIC
	name   []byte // TPM2B_NAME without its size
}

// auth authorizes a command with the object's empty password.
func (o object) auth() tpm2.AuthHandle { return passwordless(o.handle, o.name) }

func passwordless(h tpm2.TPMHandle, name []byte) tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: h, Name: tpm2.TPM2BName{Buffer: name}, Auth: tpm2.PasswordAuth(nil)}
}

// ReadPublic reads the public area of a loaded or persistent object: the TPMT_PUBLIC as the TPM sent it, and the Name, which
// was checked to be that area's.
func (t *TPM) ReadPublic(ctx context.Context, h tpm2.TPMHandle) (area, name []byte, err error) {
	var o object
	err = t.again(ctx, func(turn *turn) error {
		o, err = readPublic(turn, h)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("reading the public area of 0x%08x: %w", uint32(h), err)
	}
	return o.area, o.name, nil
}

// readPublic asks the TPM about an object (TPM 2.0 Part 3, 12.4).
func readPublic(t transport.TPM, h tpm2.TPMHandle) (object, error) {
	rsp, err := tpm2.ReadPublic{ObjectHandle: h}.Execute(t)
	if err != nil {
		return object{}, err
	}
	area := rsp.OutPublic.Bytes()
	public, err := parsePublic(area)
	if err != nil {
		return object{}, fmt.Errorf("public area of 0x%08x: %w", uint32(h), err)
	}
	name, err := objectName(public.NameAlg, area)
	if err != nil {
		return object{}, err
	}
	if !bytes.Equal(name, rsp.Name.Buffer) {
		return object{}, fmt.Errorf("the TPM gives a name for 0x%08x that is not its public area's", uint32(h))
	}
	return object{handle: h, public: *public, area: area, name: name}, nil
}

// parsePublic decodes a TPMT_PUBLIC. Only one that encodes to the same bytes again is taken, so that nothing can hide
// behind it.
func parsePublic(area []byte) (*tpm2.TPMTPublic, error) {
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](area)
	if err != nil {
		return nil, fmt.Errorf("not a TPMT_PUBLIC: %w", err)
	}
	if !bytes.Equal(tpm2.Marshal(*public), area) {
		return nil, errors.New("not a TPMT_PUBLIC in its only encoding")
	}
	return public, nil
}

// objectName computes the Name of an object: nameAlg ‖ H(TPMT_PUBLIC) (TPM 2.0 Part 1, 16).
func objectName(alg tpm2.TPMAlgID, area []byte) ([]byte, error) {
	hash, err := alg.Hash()
	if err != nil {
		return nil, fmt.Errorf("name algorithm: %w", err)
	}
	h := hash.New()
	h.Write(area)
	return h.Sum(binary.BigEndian.AppendUint16(nil, uint16(alg))), nil
}

// publicKey turns an RSA or ECC public area into a crypto.PublicKey.
func publicKey(public *tpm2.TPMTPublic) (crypto.PublicKey, error) {
	key, err := tpm2.Pub(*public)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	return key, nil
}
