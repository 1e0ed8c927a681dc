package tpm

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/internal/tcg"
	"github.com/keyagent/keyagent/tpm/internal/rc"
)

// HandleSRK is where the platform keeps its storage root key, if it keeps one (TCG Registry of
// Reserved TPM 2.0 Handles, 2.3.1). On Azure it is RSA-2048.
const HandleSRK tpm2.TPMHandle = 0x81000001

// handleOwner is TPM_RH_OWNER. As the parent in a key file it stands for the H-2 primary in the
// owner hierarchy.
const handleOwner = tpm2.TPMRHOwner

// StorageRoot describes the key under which new keys are made.
type StorageRoot struct {
	// Handle is what a key file gets as its parent: a persistent handle, or 0x40000001
	// (TPM_RH_OWNER) for the ECC P-256 primary that is derived from template H-2 when it is needed.
	Handle    tpm2.TPMHandle
	Algorithm string // "RSA-2048" or "ECC-P256"
	Name      []byte // constant until the TPM is cleared
	// Restore is a line for the shell that puts the root back to a persistent handle: it was at
	// one, is not any more, and is made anew each time that it is needed, which can take a TPM many
	// seconds. Empty as a rule.
	Restore string
}

// StorageRoot says which storage root new keys and sessions get: the persistent one at [HandleSRK]
// if it is there and right, else the primary made on the fly, which is the same after each boot and
// costs no NV memory. Once one is known, no other is taken: see [Config.StorageRoot]. That one is
// found wherever it is.
func (t *TPM) StorageRoot(ctx context.Context) (StorageRoot, error) {
	return t.storageRoot(ctx, func(*turn, object) error { return nil })
}

// TryStorageRoot is [TPM.StorageRoot], and tries whether a key can be made under the root. Nothing
// is left of the attempt.
func (t *TPM) TryStorageRoot(ctx context.Context) (StorageRoot, error) {
	return t.storageRoot(ctx, tryParent)
}

func (t *TPM) storageRoot(ctx context.Context, try func(*turn, object) error) (StorageRoot, error) {
	var root StorageRoot
	err := t.again(ctx, func(turn *turn) error {
		turn.tpm.seen = seen{} // where it is now is what the caller wants to know
		return turn.under(storageRoot, func(o object) error {
			root = StorageRoot{Handle: parentHandle(o), Algorithm: algorithmName(&o.public), Name: o.name}
			if o.transient() && o.primary != derivedRoot {
				s := &search{turn: turn}
				s.listHandles()
				root.Restore = s.restore(o.primary)
			}
			return explainParent(o, try(turn, o))
		})
	})
	if err != nil {
		return StorageRoot{}, fmt.Errorf("finding the storage root key: %w", err)
	}
	return root, nil
}

// storageRoot loads the storage root for new keys and sessions. The caller releases it. The TPM's
// answers about it are not authenticated: its Name, which is a digest of all that it is, must be
// the known one.
func storageRoot(t *turn) (object, error) {
	if t.tpm.known.root == nil {
		return chooseRoot(t)
	}
	return knownRoot(t, t.tpm.known.root)
}

// knownRoot finds the storage root with the known Name. Where another storage root stands in the
// place of it, another program has put it there: the known one is then not made anew silently, and
// the error says how to bring it back.
func knownRoot(t *turn, name []byte) (object, error) {
	if err := t.missed(soughtRoot(name)); err != nil {
		return object{}, err
	}
	s := &search{turn: t, first: []place{{handle: HandleSRK}}}
	var instead object
	s.look = func(p place, o object) {
		if p.handle == HandleSRK && checkStorageKey(&o.public) == nil && !bytes.Equal(o.name, name) {
			instead = o
		}
	}
	o, at, found, err := findNamed(t, s, name)
	switch {
	case err != nil:
		return object{}, err
	case found && (at.handle != 0 || at.primary == derivedRoot || instead.handle == 0):
		return o, nil
	case found:
		t.release(o)
		return object{}, &ParentError{Name: name, Found: true, Commands: []string{s.restore(at.primary)}, Password: t.tpm.ownerHasPassword,
			cause: ErrStorageRoot, what: fmt.Sprintf("another storage root, with Name %x, stands at 0x%08x; the known one can be made again: it is %s",
				instead.name, uint32(HandleSRK), at)}
	case len(s.unseen) > 0:
		err = &ParentError{Name: name, Unseen: s.unseen, Commands: s.guesses(), Password: s.password,
			cause: ErrParentUnknown, what: "looked for was the storage root"}
	default:
		err = &ParentError{Name: name, cause: ErrStorageRoot,
			what: "it is at no persistent handle and is none of the primaries that can be made again; expected is the one"}
	}
	t.miss(soughtRoot(name), s, err)
	return object{}, err
}

// chooseRoot takes a storage root when none is known: the one at the platform's handle, else the
// derived one, else one at another handle, for where the owner has a password. One at a handle must
// have proved usable.
func chooseRoot(t *turn) (object, error) {
	s := &search{turn: t, first: []place{{handle: HandleSRK}}, persistent: true}
	o, at, found, err := s.find(func(p place, o object) (bool, error) {
		err := checkRoot(t, p, o)
		if err != nil {
			t.tpm.log.Debug("not taken for the storage root", "place", p.String(), "reason", err)
		}
		if t.Context().Err() != nil || errors.Is(err, ErrUnavailable) {
			return false, err
		}
		return err == nil, nil
	})
	if err != nil {
		return object{}, err
	}
	if !found {
		return object{}, &ParentError{Unseen: s.unseen, Commands: s.guesses(), Password: s.password,
			cause: ErrParentUnknown, what: "no storage root that can be used is at a persistent handle, and none can be derived"}
	}
	t.tpm.known.root = bytes.Clone(o.name)
	t.tpm.known.parents[string(o.name)] = at
	return o, nil
}

// checkRoot says what keeps an object from becoming the storage root.
func checkRoot(t *turn, p place, o object) error {
	if err := checkStorageKey(&o.public); err != nil || p.handle == 0 {
		return err
	}
	h := primaryHierarchy(o)
	if h == 0 {
		return errors.New("it is no primary, so that nobody can make it again once it is removed")
	}
	if h != handleOwner {
		return fmt.Errorf("it is of hierarchy %s, where a Name can outlive the keys under it, and not of the owner's", tcg.Handle(uint32(h)))
	}
	return explainParent(o, tryParent(t, o))
}

// tryParent makes an object under a storage key, a few bytes that are sealed, and drops it. It is
// how to find out whether the storage key has a password: noDA keeps the attempt from being
// counted.
func tryParent(t *turn, o object) error {
	template := tpm2.TPMTPublic{
		Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, UserWithAuth: true, NoDA: true},
	}
	_, err := tpm2.Create{
		ParentHandle: o.auth(emptyPassword()),
		InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
			Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: []byte{0}}),
		}},
		InPublic: tpm2.New2B(template),
	}.Execute(t)
	return err
}

// explainParent says that the storage key has a password, not the key under it.
func explainParent(o object, err error) error {
	if rc.Of(err, tpm2.TPMRCBadAuth, tpm2.TPMRCAuthFail) {
		return fmt.Errorf("the storage key at 0x%08x has a password of its own, so that no key can be made or loaded under it: %w", uint32(parentHandle(o)), err)
	}
	return err
}

// createPrimary makes one of the known primaries (TPM 2.0 Part 3, 24.1). The same template gives
// the same key, until TPM2_Clear.
func createPrimary(t *turn, index int) (object, error) {
	p := knownPrimaries()[index]
	var rsp *tpm2.CreatePrimaryResponse
	create := func(session tpm2.Session) (err error) {
		rsp, err = tpm2.CreatePrimary{
			PrimaryHandle: tpm2.AuthHandle{Handle: p.hierarchy, Name: tpm2.HandleName(p.hierarchy), Auth: session},
			InPublic:      tpm2.New2B(p.template),
		}.Execute(t)
		return err
	}
	var err error
	if p.hierarchy == handleOwner {
		err = t.asOwner(create)
	} else {
		err = create(emptyPassword())
	}
	if err != nil {
		t.Discard()
		return object{}, err
	}
	o, err := parseObject(rsp.ObjectHandle, rsp.OutPublic.Bytes(), rsp.Name.Buffer)
	if err != nil {
		t.Flush(rsp.ObjectHandle, nil)
		return object{}, fmt.Errorf("primary key: %w", err)
	}
	o.primary = index
	return o, nil
}

// checkStorageKey accepts the public areas that the TCG's storage primary templates give
// (Provisioning Guidance 1.0, 7.5.1).
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
	if !hasTemplatesCipher(p) {
		return errors.New("it protects the keys under it with another cipher than AES-128 in CFB mode")
	}
	if algorithmName(p) == "" {
		return fmt.Errorf("its type %s is neither RSA-2048 nor ECC P-256", tcg.Algorithm(uint16(p.Type)))
	}
	return nil
}

// hasTemplatesCipher reports whether a storage key encrypts with what the TCG's templates have.
func hasTemplatesCipher(p *tpm2.TPMTPublic) bool {
	var s tpm2.TPMTSymDefObject
	if rsa, err := p.Parameters.RSADetail(); err == nil {
		s = rsa.Symmetric
	} else if ecc, err := p.Parameters.ECCDetail(); err == nil {
		s = ecc.Symmetric
	}
	if s.Algorithm != tpm2.TPMAlgAES {
		return false
	}
	bits, bitsErr := s.KeyBits.AES()
	mode, modeErr := s.Mode.AES()
	return bitsErr == nil && modeErr == nil && *bits == 128 && *mode == tpm2.TPMAlgCFB
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

// parentHandle is what a key file calls a storage key. One that was made anew, and is not the
// primary that key files have a number for, belongs at the handle for storage roots.
func parentHandle(o object) tpm2.TPMHandle {
	switch {
	case !o.transient():
		return o.handle
	case o.primary == derivedRoot:
		return handleOwner
	}
	return HandleSRK
}

func (o object) transient() bool { return isTransient(o.handle) }

func isTransient(h tpm2.TPMHandle) bool { return tpm2.TPMHT(h>>24) == tpm2.TPMHTTransient }

// release flushes an object that was loaded for this turn. A persistent one is left alone.
func (t *turn) release(o object) {
	if o.transient() {
		t.Flush(o.handle, o.name)
	}
}
