package tpm

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/internal/tcg"
	"github.com/keyagent/keyagent/tpm/internal/rc"
)

// maxAuthValueBytes is the size of the digest of a key's name algorithm, SHA-256, which bounds its
// authorization value (TPM 2.0 Part 1, 17.6.4).
const maxAuthValueBytes = 32

// KeyOptions say what key to make. The zero value is a binding key: RSA-2048, empty authorization
// value, no policy.
type KeyOptions struct {
	Algorithm Algorithm
	// AuthValue must be given with every use of the key: 1 to 32 bytes, without a zero byte at the
	// end. Empty: none is needed.
	AuthValue secret.String
	// PCRs binds the use of the key to the present values of these PCRs.
	PCRs PCRSelection
}

// LoadOptions are facts about a key that are not in its file. The zero value will do for most keys.
type LoadOptions struct {
	AuthValue secret.String
	// Persistent is a handle where the key may be; if it is, no slot is needed. 0: nowhere.
	Persistent tpm2.TPMHandle
	// SignOnly refuses a key with [Key.Deviations], with [ErrAttributes].
	SignOnly bool
	// PCRValues are those of [KeyFile.PCRValues], to say which PCRs changed.
	PCRValues PCRValues
	// UsedAtOnce saves a command where the caller lets the key sign as soon as it is loaded:
	// whether the handle in the TPM's answer is the key's, which is all that the session does not
	// protect, is then shown by that command, and not looked at before.
	UsedAtOnce bool
	// Parent is that of [KeyFile.ParentName]. Nil: it is not known, and the storage keys that there
	// are will be tried.
	Parent []byte
}

// Key is a key of a [KeyFile], loaded in the TPM. It is safe for concurrent use.
//
// It stays loaded as long as the TPM has a slot for it, and is loaded again from its file's content
// when it is needed and not there: after a TPM reset, after the transport was reopened, or when its
// slot went to another object.
type Key struct {
	resident  resident
	tpm       *TPM
	file      *KeyFile
	auth      []byte // authorization value, without trailing zeros
	policy    policy
	pcrs      PCRValues
	object    object // as reported when first loaded; its handle is not used
	key       crypto.PublicKey
	parent    []byte        // Name of the storage key that it was first loaded under; nil: not known
	permanent atomic.Uint32 // persistent handle, or 0; it becomes 0 if the key is not there any more
}

// CreateKey makes a new key under the storage root. Nothing stays loaded; the result is what
// [TPM.LoadKey] takes, and the only copy.
//
// Making an RSA key takes a TPM between a tenth of a second and a minute.
func (t *TPM) CreateKey(ctx context.Context, options KeyOptions) (*KeyFile, error) {
	if options.Algorithm == "" {
		options.Algorithm = RSA2048
	}
	template, err := keyTemplate(options.Algorithm)
	if err == nil {
		err = checkAuthValue(options.AuthValue)
	}
	if err != nil {
		return nil, fmt.Errorf("creating a TPM key: %w", err)
	}
	var file *KeyFile
	err = t.again(ctx, func(turn *turn) (err error) {
		file, err = createKey(turn, template, options)
		return err
	})
	if rc.Of(err, tpm2.TPMRCValue, tpm2.TPMRCKeySize, tpm2.TPMRCCurve, tpm2.TPMRCAsymmetric) {
		err = fmt.Errorf("this TPM does not make keys of kind %s: %w", options.Algorithm, err)
	}
	if err != nil {
		return nil, fmt.Errorf("creating a TPM key: %w", err)
	}
	return file, nil
}

func checkAuthValue(v secret.String) error {
	value := v.Reveal()
	switch {
	case len(value) > maxAuthValueBytes:
		return fmt.Errorf("the authorization value has %d bytes, a TPM takes at most %d", len(value), maxAuthValueBytes)
	case value != "" && value[len(value)-1] == 0:
		return errors.New("the authorization value ends with a zero byte, which a TPM cuts off")
	}
	return nil
}

func createKey(t *turn, template tpm2.TPMTPublic, options KeyOptions) (*KeyFile, error) {
	auth := []byte(options.AuthValue.Reveal())
	bound, values, err := bindPCRs(t, options.PCRs, len(auth) > 0)
	if err != nil {
		return nil, err
	}
	if !bound.empty() {
		template.ObjectAttributes.UserWithAuth = false
		if template.AuthPolicy.Buffer, err = bound.digest(); err != nil {
			return nil, err
		}
	}
	var file *KeyFile
	err = t.under(storageRoot, func(root object) error {
		var rsp *tpm2.CreateResponse
		err := t.protected(nil, attrDecrypt|attrEncrypt, func(session tpm2.Session) (err error) {
			rsp, err = tpm2.Create{
				ParentHandle: root.auth(session),
				InSensitive:  tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{UserAuth: tpm2.TPM2BAuth{Buffer: auth}}},
				InPublic:     tpm2.New2B(template),
			}.Execute(t)
			return err
		})
		if err != nil {
			return explainParent(root, err)
		}
		file = &KeyFile{
			Parent:    parentHandle(root),
			EmptyAuth: len(auth) == 0,
			Policy:    bound.commands(),
			Public:    tpm2.Marshal(rsp.OutPublic),
			Private:   tpm2.Marshal(rsp.OutPrivate),
			PCRValues: values, ParentName: root.name,
		}
		return nil
	})
	return file, err
}

// LoadKey loads a key file and checks what came of it: a key that the TPM says could be exported,
// or that it did not make itself, is flushed and refused with [ErrExportable]. Other attributes
// that this package would not have chosen are reported by [Key.Deviations]. A file that this TPM
// cannot load gives [ErrForeignTPM].
func (t *TPM) LoadKey(ctx context.Context, file *KeyFile, options LoadOptions) (*Key, error) {
	k := &Key{tpm: t, file: file, auth: bytes.TrimRight([]byte(options.AuthValue.Reveal()), "\x00"), pcrs: options.PCRValues, parent: options.Parent}
	err := t.again(ctx, func(turn *turn) error { return k.loadFirst(turn, options) })
	if err != nil {
		return nil, fmt.Errorf("loading a TPM key: %w", err)
	}
	return k, nil
}

func (k *Key) loadFirst(t *turn, options LoadOptions) error {
	if err := k.find(t, options.Persistent); err != nil {
		return err
	}
	if k.permanent.Load() != 0 {
		return k.accept(k.object, options)
	}
	o, parent, err := k.file.loadUnder(t, options.Parent, options.UsedAtOnce)
	if err != nil {
		return err
	}
	k.parent = parent
	if err := k.accept(o, options); err != nil {
		t.release(o)
		return err
	}
	t.Keep(&k.resident, o.handle, k.object.name)
	return nil
}

// find looks whether the key is at a persistent handle. Another key there, or none, is no error:
// the file is the truth.
func (k *Key) find(t *turn, h tpm2.TPMHandle) error {
	if h == 0 {
		return nil
	}
	public, _, err := k.file.areas()
	if err != nil {
		return err
	}
	o, err := readPublic(t, h)
	if rc.Of(err, tpm2.TPMRCHandle) || err == nil && !bytes.Equal(o.area, public.Bytes()) {
		t.tpm.log.Warn("TPM key is not at its persistent handle, loading it from its file", "handle", fmt.Sprintf("0x%08x", uint32(h)))
		return nil
	}
	if err != nil {
		return err
	}
	k.object = o
	k.permanent.Store(uint32(h))
	return nil
}

// loadAt puts the key into a transient slot under a parent (TPM 2.0 Part 3, 12.2). The Name in the
// answer must be that of the file's public area. The handle in it is not protected: the object
// there is looked at, unless it is used at once in a session, with its Name.
func (f *KeyFile) loadAt(t *turn, parent object, usedAtOnce bool) (object, error) {
	public, private, err := f.areas()
	if err != nil {
		return object{}, err
	}
	name, err := f.Name()
	if err != nil {
		return object{}, err
	}
	var rsp *tpm2.LoadResponse
	err = t.protected(nil, attrDecrypt|attrEncrypt, func(session tpm2.Session) (err error) {
		err = t.Loading(name, func() (err error) {
			rsp, err = tpm2.Load{ParentHandle: parent.auth(session), InPublic: public, InPrivate: private}.Execute(t)
			return err
		})
		if err != nil {
			t.Discard()
		}
		return err
	})
	if err != nil {
		return object{}, err
	}
	o, err := parseObject(rsp.ObjectHandle, public.Bytes(), rsp.Name.Buffer)
	if err == nil && (!usedAtOnce || t.tpm.sessions.plain) {
		err = o.lookAt(t)
	}
	if err != nil {
		t.Flush(rsp.ObjectHandle, nil)
		return object{}, fmt.Errorf("the TPM loaded another public area than the key file has: %w", err)
	}
	return o, nil
}

// explainLoad tells an operator what the codes of TPM2_Load mean for a key file. The integrity
// value is an HMAC under the parent's seed over name and private area, so it is wrong for another
// parent and for a changed file alike.
func explainLoad(err error) error {
	switch {
	case errors.Is(err, tpm2.TPMRCIntegrity):
		return fmt.Errorf("%w: it was made by another TPM, or by this one before it was cleared, or by this one under another parent than its file names "+
			"(tpm2_encodeobject names %s for every parent that is not persistent), or the file was changed: %w", ErrForeignTPM, tcg.Handle(uint32(handleOwner)), err)
	case errors.Is(err, tpm2.TPMRCBadAuth), errors.Is(err, tpm2.TPMRCAuthFail):
		return fmt.Errorf("its parent has a password: %w", err)
	}
	return err
}

// accept checks a freshly loaded key and keeps what the TPM reports about it.
func (k *Key) accept(o object, options LoadOptions) error {
	if err := checkBound(&o.public); err != nil {
		return err
	}
	if list := deviations(&o.public); options.SignOnly && list != nil {
		return fmt.Errorf("%w: %s", ErrAttributes, list)
	}
	var err error
	if k.policy, err = k.file.policyOf(&o.public); err != nil {
		return err
	}
	if !k.policy.empty() && !k.policy.authValue && len(k.auth) > 0 && !o.public.ObjectAttributes.UserWithAuth {
		return fmt.Errorf("%w: the key was made without one, and one was given", ErrAuthValue) // which the TPM would never look at
	}
	if k.key, err = publicKey(&o.public); err != nil {
		return err
	}
	k.object = o
	return nil
}

// policyOf returns the policy that a key demands. What the file says must be what the key was made
// with.
func (f *KeyFile) policyOf(public *tpm2.TPMTPublic) (policy, error) {
	p, err := parsePolicy(f.Policy)
	if err != nil {
		return policy{}, err
	}
	if p.empty() {
		if !public.ObjectAttributes.UserWithAuth {
			return policy{}, errors.New("the key signs with a policy only, and its file does not say which")
		}
		return policy{}, nil
	}
	digest, err := p.digest()
	if err != nil {
		return policy{}, err
	}
	if !bytes.Equal(digest, public.AuthPolicy.Buffer) {
		return policy{}, errors.New("the policy in the key file is not the key's")
	}
	return p, nil
}

// Public returns the public area as TPM2_ReadPublic reported it for the loaded key.
func (k *Key) Public() tpm2.TPMTPublic { return k.object.public }

// PublicArea returns the same as bytes: TPMT_PUBLIC. The Name is made of them.
func (k *Key) PublicArea() []byte { return bytes.Clone(k.object.area) }

// ParentName returns the Name of the storage key that the key was loaded under; nil if it was found
// at its persistent handle and that is not known.
func (k *Key) ParentName() []byte { return bytes.Clone(k.parent) }

// Name returns the key's Name: nameAlg, 2 bytes, and the digest of the public area.
func (k *Key) Name() []byte { return bytes.Clone(k.object.name) }

// PublicKey returns the public key, an *rsa.PublicKey or *ecdsa.PublicKey.
func (k *Key) PublicKey() crypto.PublicKey { return k.key }

// Deviations lists in what the key differs, for the worse, from one that [TPM.CreateKey] makes: a
// sentence for each attribute. Another program's keys have some as a rule.
func (k *Key) Deviations() []string { return deviations(&k.object.public) }

// Close gives the key up. It does not wait for the TPM, which others may use at this moment: the
// key is flushed as soon as they are done, at the latest by [TPM.Close]. Further calls do nothing.
// The error is always nil; it is there for io.Closer.
func (k *Key) Close() error {
	k.resident.retire(k.tpm)
	return nil
}

// use runs f with the handle at which the key is loaded now. If the key turns out not to be there,
// it is loaded again and f is repeated, once; so it is if the transport died.
func (k *Key) use(ctx context.Context, f func(*turn, tpm2.TPMHandle) error) error {
	return k.tpm.again(ctx, func(t *turn) error {
		h, err := k.handle(t)
		if err != nil {
			return err
		}
		err = f(t, h)
		if !k.gone(t, h, err) {
			return err
		}
		t.tpm.log.Info("TPM key is gone from its slot, loading it again", "cause", err)
		k.permanent.Store(0)
		t.Forget(&k.resident)
		if h, err = k.handle(t); err != nil {
			return err
		}
		return f(t, h)
	})
}

// gone reports whether a command with the key failed because the key is not at its handle any more.
func (k *Key) gone(t *turn, h tpm2.TPMHandle, err error) bool { return t.gone(h, k.object.name, err) }

// gone reports whether a command with an object failed because the object is not at its handle any
// more. The code alone does not say: it may blame another handle, and of another object at the
// handle it says that the authorization is wrong.
func (t *turn) gone(h tpm2.TPMHandle, name []byte, err error) bool {
	if !staleHandle(err) && !rc.Of(err, tpm2.TPMRCBadAuth, tpm2.TPMRCAuthFail) {
		return false
	}
	o, err := readPublic(t, h)
	if !staleHandle(err) {
		return err == nil && !bytes.Equal(o.name, name)
	}
	if isTransient(h) { // it frees a slot only if that was a lie
		t.GiveUp(h, name)
	}
	return true
}

// handle returns where the key is loaded, and loads it if it is not.
func (k *Key) handle(t *turn) (tpm2.TPMHandle, error) {
	if k.resident.Retired() {
		return 0, ErrClosed
	}
	if h := k.permanent.Load(); h != 0 {
		return tpm2.TPMHandle(h), nil
	}
	if err := t.Connect(); err != nil {
		return 0, err
	}
	if h, found := t.Use(&k.resident); found {
		return h, nil
	}
	o, _, err := k.file.loadUnder(t, k.parent, true)
	if err != nil {
		return 0, fmt.Errorf("loading the TPM key again: %w", err)
	}
	t.Keep(&k.resident, o.handle, k.object.name)
	return o.handle, nil
}

// authorize runs a command that the key's user may give. A is nil where the authorization is a
// password.
func (k *Key) authorize(t *turn, encrypt byte, f func(a *authorization) error) error {
	switch {
	case !k.policy.empty():
		err := t.withSession(tpm2.TPMSEPolicy, func(s *session) error {
			if err := k.policy.satisfy(t, s.handle); err != nil {
				return err
			}
			a := s.authorize(k.auth, encrypt)
			a.valueInMAC = k.policy.authValue
			return f(a)
		})
		return k.policy.explain(t, err, k.pcrs)
	case t.tpm.sessions.plain:
		return f(nil)
	}
	return t.withSession(tpm2.TPMSEHMAC, func(s *session) error { return f(s.authorize(k.auth, encrypt)) })
}

// PCRs says which PCRs the key is bound to; none as a rule.
func (k *Key) PCRs() PCRSelection { return k.policy.selection() }
