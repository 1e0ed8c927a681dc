package tpm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/internal/tcg"
	"github.com/keyagent/keyagent/tpm/internal/device"
)

// errWrongObject says that a handle names another object than the one that was loaded there.
var errWrongObject = errors.New("the handle names another object")

// object is a loaded object as the TPM reports it.
type object struct {
	handle tpm2.TPMHandle
	public tpm2.TPMTPublic
	area   []byte // TPMT_PUBLIC
	name   []byte // TPM2B_NAME without its size

	qualified []byte // TPM2B_NAME of the object with its ancestors, as TPM2_ReadPublic has it; not checked
	primary   int    // which of the known primaries it is, if it was made here
	recalled  bool   // the TPM was not asked about it just now: see seen
}

// auth authorizes a command with the object, whatever its authorization value is in the session.
func (o object) auth(session tpm2.Session) tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: o.handle, Name: tpm2.TPM2BName{Buffer: o.name}, Auth: session}
}

// owner authorizes a command as the owner of the TPM.
func owner(session tpm2.Session) tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: handleOwner, Name: tpm2.HandleName(handleOwner), Auth: session}
}

// emptyPassword is the authorization with an empty password, where there can be no session: while
// one is made, or beside the one that a command has.
func emptyPassword() tpm2.Session { return tpm2.PasswordAuth(nil) }

// ReadPublic reads the public area of a loaded or persistent object: the TPMT_PUBLIC as the TPM
// sent it, and the Name, which was checked to be that area's.
func (t *TPM) ReadPublic(ctx context.Context, h tpm2.TPMHandle) (area, name []byte, err error) {
	var o object
	err = t.again(ctx, func(turn *turn) error {
		o, err = turn.lookAgain(h)
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
	o, err := parseObject(h, rsp.OutPublic.Bytes(), rsp.Name.Buffer)
	o.qualified = rsp.QualifiedName.Buffer
	return o, err
}

// lookAt makes sure that an object is where it is said to be.
func (o object) lookAt(t transport.TPM) error {
	there, err := readPublic(t, o.handle)
	if err == nil && !bytes.Equal(there.area, o.area) {
		err = errors.New("another object is at its handle")
	}
	return err
}

// parseObject takes what the TPM says of an object: the Name must be the digest of the public area.
func parseObject(h tpm2.TPMHandle, area, claimed []byte) (object, error) {
	public, err := parsePublic(area)
	if err != nil {
		return object{}, fmt.Errorf("public area of 0x%08x: %w", uint32(h), err)
	}
	name, err := device.ObjectName(area)
	if err != nil {
		return object{}, err
	}
	if !bytes.Equal(name, claimed) {
		return object{}, fmt.Errorf("the TPM gives a name for 0x%08x that is not its public area's", uint32(h))
	}
	return object{handle: h, public: *public, area: area, name: name}, nil
}

// parsePublic decodes a TPMT_PUBLIC. Only one that encodes to the same bytes again is taken, so
// that nothing can hide behind it.
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

// publicKey turns an RSA or ECC public area into a crypto.PublicKey.
func publicKey(public *tpm2.TPMTPublic) (crypto.PublicKey, error) {
	if public.Type != tpm2.TPMAlgRSA && public.Type != tpm2.TPMAlgECC {
		return nil, fmt.Errorf("its type %s is neither RSA nor ECC", tcg.Algorithm(uint16(public.Type)))
	}
	key, err := tpm2.Pub(*public)
	if err != nil {
		if ecc, eccErr := public.Parameters.ECCDetail(); eccErr == nil {
			err = fmt.Errorf("on curve %s: %w", tcg.Curve(uint16(ecc.CurveID)), err)
		}
		return nil, fmt.Errorf("public key: %w", err)
	}
	if elliptic, ok := key.(*ecdsa.PublicKey); ok {
		if _, err := elliptic.ECDH(); err != nil { // it checks that the point is on the curve
			return nil, fmt.Errorf("public key: %w", err)
		}
	}
	return key, nil
}
