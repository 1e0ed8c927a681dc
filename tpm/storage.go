package tpm

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/internal/tcg"
)

// HandleSRK is where the platform keeps its storage root key, if it keeps one (TCG Registry of Reserved TPM 2.0 Handles,
// 2.3.1). On Azure it is RSA-2048.
const HandleSRK tpm2.TPMHandle = 0x81000001

// handleOwner is TPM_RH_OWNER. As the parent in a key file it stands for the H-2 primary in the owner hierarchy.
const handleOwner = tpm2.TPMRHOwner

// StorageRoot describes the key under which new keys are made.
type StorageRoot struct {
	// Handle is what a key file gets as its parent: HandleSRK, or 0x40000001 (TPM_RH_OWNER) for the ECC P-256 primary that is
	// derived from template H-2 when it is needed.
	Handle    tpm2.TPMHandle
	Algorithm string // "RSA-2048" or "ECC-P256"
	Name      []byte // constant until the TPM is cleared
}

// StorageRoot says which storage root new keys and sessions get: the persistent one at [HandleSRK] if it is there and right, else
// the primary made on the fly, which is the same after each boot and costs no NV memory. Once one is known, no other is taken:
// see [Config.StorageRoot].
func (t *TPM) StorageRoot(ctx context.Context) (StorageRoot, error) {
	var root StorageRoot
	err := t.again(ctx, func(turn *turn) error {
		o, err := storageRoot(turn)
		if err != nil {
			return err
		}
		defer turn.release(o)
		root = StorageRoot{Handle: parentHandle(o), Algorithm: algorithmName(&o.public), Name: o.name}
		return nil
	})
	if err != nil {
		return StorageRoot{}, fmt.Errorf("finding the storage root key: %w", err)
	}
	return root, nil
}

// storageRoot loads the storage root for new keys and sessions. The caller releases it. The TPM's answers about it are not
// authenticated: its Name, which is a digest of all that it is, must be the known one.
func storageRoot(t *turn) (object, error) {
	persistent, err := readPublic(t, HandleSRK)
	if err == nil {
		err = checkStorageKey(&persistent.public)
	}
	if err == nil && t.scheduler.sessions.knows(persistent) {
		return persistent, nil
	}
	if t.ctx.Err() != nil {
		return object{}, t.ctx.Err()
	}
	if errors.Is(err, ErrUnavailable) {
		return object{}, err
	}
	t.scheduler.log.Debug("persistent storage root key not used, deriving one", "handle", "0x81000001", "reason", err)
	derived, err := createStorageRoot(t)
	if err != nil {
		return object{}, err
	}
	if !t.scheduler.sessions.knows(derived) {
		t.release(derived)
		return object{}, fmt.Errorf("%w: expected is the one with Name %x", ErrStorageRoot, t.scheduler.sessions.rootName)
	}
	return derived, nil
}

// knows reports whether a storage root is the known one. The first that is found becomes that.
func (s *sessions) knows(root object) bool {
	if s.rootName == nil {
		s.rootName = bytes.Clone(root.name)
	}
	return bytes.Equal(s.rootName, root.name)
}

// parentOf loads the parent that a key file names. The caller releases it.
func parentOf(t *turn, h tpm2.TPMHandle) (object, error) {
	if h == handleOwner {
		return createStorageRoot(t)
	}
	if byte(h>>24) != byte(tpm2.TPMHTPersistent) {
		return object{}, fmt.Errorf("parent %s is neither the owner hierarchy (0x40000001) nor a persistent key", tcg.Handle(uint32(h)))
	}
	o, err := readPublic(t, h)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return object{}, fmt.Errorf("%w: its parent, persistent handle 0x%08x, is not on this TPM (%w)", ErrForeignTPM, uint32(h), err)
	}
	if err != nil {
		return object{}, fmt.Errorf("parent 0x%08x: %w", uint32(h), err)
	}
	return o, nil
}

// createStorageRoot makes the H-2 primary (TPM 2.0 Part 3, 24.1). The same template gives the same key, until TPM2_Clear.
func createStorageRoot(t *turn) (object, error) {
	rsp, err := tpm2.CreatePrimary{
		PrimaryHandle: owner(emptyPassword()),
		InPublic:      tpm2.New2B(storageRootTemplate()),
	}.Execute(t)
	if errors.Is(err, tpm2.TPMRCBadAuth) || errors.Is(err, tpm2.TPMRCAuthFail) {
		return object{}, fmt.Errorf("the owner hierarchy has a password, so no storage root can be derived; make one persistent at 0x%08x: %w", uint32(HandleSRK), err)
	}
	if err != nil {
		t.discard()
		return object{}, fmt.Errorf("deriving the storage root key: %w", err)
	}
	o, err := parseObject(rsp.ObjectHandle, rsp.OutPublic.Bytes(), rsp.Name.Buffer)
	if err == nil {
		err = checkStorageKey(&o.public)
	}
	if err != nil {
		t.flushHandle(rsp.ObjectHandle)
		return object{}, fmt.Errorf("storage root key: %w", err)
	}
	return o, nil
}

// checkStorageKey accepts the public areas that the TCG's storage primary templates give (Provisioning Guidance 1.0, 7.5.1).
func checkStorageKey(p *tpm2.TPMTPublic) error {
	if want := tpm2.ECCSRKTemplate.ObjectAttributes; p.ObjectAttributes != want {
		return fmt.Errorf("its attributes are %v, a storage root's are %v", AttributeNames(p.ObjectAttributes), AttributeNames(want))
	}
	if p.NameAlg != tpm2.TPMAlgSHA256 {
		return fmt.Errorf("its name algorithm is %s, not SHA-256", tcg.Algorithm(uint16(p.NameAlg)))
	}
	if len(p.AuthPolicy.Buffer) != 0 {
		return errors.New("it has a policy")
	}
	if algorithmName(p) == "" {
		return fmt.Errorf("its type %s is neither RSA-2048 nor ECC P-256", tcg.Algorithm(uint16(p.Type)))
	}
	return nil
}

// algorithmName names the two kinds of storage root, and is empty for any other key.
func algorithmName(p *tpm2.TPMTPublic) string {
	if rsa, err := p.Parameters.RSADetail(); err == nil && rsa.KeyBits == 2048 {
		if modulus, err := p.Unique.RSA(); err == nil && len(modulus.Buffer) == 2048/8 { // it is only said to be, otherwise
			return "RSA-2048"
		}
	}
	if ecc, err := p.Parameters.ECCDetail(); err == nil && ecc.CurveID == tpm2.TPMECCNistP256 {
		return "ECC-P256"
	}
	return ""
}

// parentHandle is what a key file calls a storage root.
func parentHandle(o object) tpm2.TPMHandle {
	if o.transient() {
		return handleOwner
	}
	return o.handle
}

func (o object) transient() bool { return byte(o.handle>>24) == byte(tpm2.TPMHTTransient) }

// release flushes an object that was loaded for this turn. A persistent one is left alone.
func (t *turn) release(o object) {
	if o.transient() {
		t.flushHandle(o.handle)
	}
}

// discard flushes what the last command made, where its answer is not to be used.
func (t *turn) discard() {
	if t.made != 0 {
		t.flushHandle(t.made)
	}
}

// flushHandle flushes an object or session. If that fails, it is in nobody's way: the connection, or the TPM, is gone.
func (t *turn) flushHandle(h tpm2.TPMHandle) {
	if _, err := t.Send(flushCommand(h)); err != nil {
		t.scheduler.log.Debug("TPM handle not flushed", "handle", fmt.Sprintf("0x%08x", uint32(h)), "cause", err)
	}
}
