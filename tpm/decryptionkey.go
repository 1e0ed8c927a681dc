package tpm

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/tpm/internal/rc"
)

// DecryptionKeyBytes is the size of the modulus of a [DecryptionKey], and so of what it decrypts.
const DecryptionKeyBytes = 256

var (
	// ErrKeyGone is in the error for a [DecryptionKey] that is no longer in the TPM: it was reset,
	// or its connection lost, since the key was made. A new one must be made.
	ErrKeyGone = errors.New("key is no longer in the TPM")

	// ErrCiphertext is in the error for a ciphertext that the TPM cannot open. Whoever sent it must
	// not learn so: see [DecryptionKey.Decrypt].
	ErrCiphertext = errors.New("the TPM cannot open the ciphertext")
)

// DecryptionKey is an RSA-2048 decryption key for a short time: a primary of the NULL hierarchy,
// usable only while PCRs are what they were when it was made, and never outside the TPM. It holds
// one of the TPM's few slots until Close. It is safe for concurrent use.
//
// Its policy is TPM2_PolicyPCR alone, as attestation services expect it: an interposer on this
// process's connection can have the key decrypt, too. The plaintext can be neither read nor changed
// on its way to this process.
type DecryptionKey struct {
	resident resident
	tpm      *TPM
	object   object // as reported when it was made; its handle is not used
	policy   policy
}

// NewDecryptionKey makes a key that is bound to the present values of these PCRs of the SHA-256
// bank, at least one. It takes as long as the TPM needs for making an RSA key: a tenth of a second
// to several seconds. The caller closes the key.
func (t *TPM) NewDecryptionKey(ctx context.Context, pcrs []int) (*DecryptionKey, error) {
	k := &DecryptionKey{resident: resident{pinned: true}, tpm: t}
	_, err := selectPCRs(pcrs)
	if err == nil {
		err = t.again(ctx, func(turn *turn) error { return k.create(turn, pcrs, false) })
	}
	if err != nil {
		return nil, fmt.Errorf("making a decryption key: %w", err)
	}
	return k, nil
}

// NewCertifiedDecryptionKey is [TPM.NewDecryptionKey] and [DecryptionKey.Certify] in one, which
// takes a command less: that the TPM certifies the key shows that it is where the TPM said.
func (t *TPM) NewCertifiedDecryptionKey(ctx context.Context, pcrs []int, ak tpm2.TPMHandle, qualifyingData []byte) (*DecryptionKey, Attestation, error) {
	k := &DecryptionKey{resident: resident{pinned: true}, tpm: t}
	var a Attestation
	_, err := selectPCRs(pcrs)
	if err == nil {
		err = checkQualifyingData(qualifyingData)
	}
	if err == nil {
		err = t.again(ctx, func(turn *turn) (err error) {
			a, err = k.createCertified(turn, pcrs, ak, qualifyingData)
			return err
		})
	}
	if err != nil {
		return nil, Attestation{}, fmt.Errorf("making a decryption key that is certified with the attestation key at 0x%08x: %w", uint32(ak), err)
	}
	return k, a, nil
}

func (k *DecryptionKey) createCertified(t *turn, pcrs []int, ak tpm2.TPMHandle, qualifyingData []byte) (Attestation, error) {
	if err := k.create(t, pcrs, true); err != nil {
		return Attestation{}, err
	}
	h, found := t.Use(&k.resident)
	if !found {
		return Attestation{}, ErrKeyGone
	}
	o := k.object
	o.handle = h
	a, err := certify(t, o, nil, ak, qualifyingData)
	if err != nil {
		t.Release(&k.resident)
	}
	return a, err
}

func (k *DecryptionKey) create(t *turn, pcrs []int, usedAtOnce bool) error {
	bound, _, err := bindPCRs(t, PCRSelection{PCRs: pcrs}, false)
	if err != nil {
		return err
	}
	template, err := decryptionKeyTemplate(bound)
	if err != nil {
		return err
	}
	o, err := createProtected(t, tpm2.TPMRHNull, template, usedAtOnce)
	if err != nil {
		return err
	}
	made := o.public
	made.Unique = template.Unique
	if !bytes.Equal(tpm2.Marshal(made), tpm2.Marshal(template)) {
		t.release(o)
		return errors.New("the TPM made another kind of key than it was asked for")
	}
	k.policy, k.object = bound, o
	t.Keep(&k.resident, o.handle, k.object.name)
	return nil
}

// decryptionKeyTemplate has the attributes 0x00020432. Without userWithAuth the policy is the only
// way to use the key. A primary is derived from its template; unique makes it another key each
// time.
func decryptionKeyTemplate(bound policy) (tpm2.TPMTPublic, error) {
	digest, err := bound.digest()
	if err != nil {
		return tpm2.TPMTPublic{}, err
	}
	unique := make([]byte, DecryptionKeyBytes)
	if _, err := rand.Read(unique); err != nil {
		return tpm2.TPMTPublic{}, err
	}
	return tpm2.TPMTPublic{
		Type:    tpm2.TPMAlgRSA,
		NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, NoDA: true, Decrypt: true,
		},
		AuthPolicy: tpm2.TPM2BDigest{Buffer: digest},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
			Symmetric: tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgNull},
			Scheme:    tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgNull},
			KeyBits:   DecryptionKeyBytes * 8,
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: unique}),
	}, nil
}

// createProtected makes a primary of a hierarchy without authorization value, in a protected
// session (TPM 2.0 Part 3, 24.1). The handle in the answer is all that the session does not
// protect: the object there is looked at, unless it is used at once in a session, with its Name.
func createProtected(t *turn, hierarchy tpm2.TPMHandle, template tpm2.TPMTPublic, usedAtOnce bool) (object, error) {
	var rsp *tpm2.CreatePrimaryResponse
	err := t.protected(nil, attrDecrypt|attrEncrypt, func(session tpm2.Session) (err error) {
		rsp, err = tpm2.CreatePrimary{
			PrimaryHandle: tpm2.AuthHandle{Handle: hierarchy, Name: tpm2.HandleName(hierarchy), Auth: session},
			InSensitive:   tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{}},
			InPublic:      tpm2.New2B(template),
		}.Execute(t)
		if err != nil {
			t.Discard()
		}
		return err
	})
	if err != nil {
		return object{}, err
	}
	o, err := parseObject(rsp.ObjectHandle, rsp.OutPublic.Bytes(), rsp.Name.Buffer)
	if err == nil && (!usedAtOnce || t.tpm.sessions.plain) {
		err = o.lookAt(t)
	}
	if err != nil {
		t.Flush(rsp.ObjectHandle, nil)
		return object{}, err
	}
	return o, nil
}

// PublicArea returns the public area as the TPM reported it: TPMT_PUBLIC.
func (k *DecryptionKey) PublicArea() []byte { return bytes.Clone(k.object.area) }

// Certify is [TPM.Certify] for this key. TPM2_Certify asks for the ADMIN role, for which the key's
// empty authorization value serves: adminWithPolicy is clear.
func (k *DecryptionKey) Certify(ctx context.Context, ak tpm2.TPMHandle, qualifyingData []byte) (Attestation, error) {
	var a Attestation
	err := checkQualifyingData(qualifyingData)
	if err == nil {
		err = k.use(ctx, func(t *turn, o object) (err error) {
			a, err = certify(t, o, nil, ak, qualifyingData)
			return err
		})
	}
	if err != nil {
		return Attestation{}, fmt.Errorf("certifying a decryption key with the attestation key at 0x%08x: %w", uint32(ak), err)
	}
	return a, nil
}

// Decrypt opens an RSAES-PKCS1-v1_5 ciphertext of 256 bytes inside the TPM (TPM 2.0 Part 3, 14.3).
// Ciphertext and message are encrypted between this process and the TPM.
//
// The error is [ErrCiphertext] for bad padding: a caller who lets the sender see any difference
// gives them an oracle (RFC 8017, 7.2). [ErrPCRsChanged]: the policy does not hold any more.
// [ErrKeyGone].
func (k *DecryptionKey) Decrypt(ctx context.Context, ciphertext []byte) ([]byte, error) {
	if len(ciphertext) != DecryptionKeyBytes {
		return nil, fmt.Errorf("decrypting with a TPM key: ciphertext of %d bytes, want %d", len(ciphertext), DecryptionKeyBytes)
	}
	var message []byte
	err := k.use(ctx, func(t *turn, o object) error {
		err := t.withSession(tpm2.TPMSEPolicy, func(s *session) (err error) {
			message, err = k.decrypt(t, o, s, ciphertext)
			return err
		})
		return k.policy.explain(t, err, PCRValues{})
	})
	if err != nil {
		return nil, fmt.Errorf("decrypting with a TPM key: %w", err)
	}
	return message, nil
}

func (k *DecryptionKey) decrypt(t *turn, o object, s *session, ciphertext []byte) ([]byte, error) {
	if err := k.policy.satisfy(t, s.handle); err != nil {
		return nil, err
	}
	a := s.authorize(nil, attrDecrypt|attrEncrypt)
	a.valueInMAC = false
	rsp, err := tpm2.RSADecrypt{
		KeyHandle:  o.auth(a),
		CipherText: tpm2.TPM2BPublicKeyRSA{Buffer: bytes.Clone(ciphertext)},
		InScheme:   tpm2.TPMTRSADecrypt{Scheme: tpm2.TPMAlgRSAES},
	}.Execute(t)
	var code tpm2.TPMRC
	// Bad padding, or a number not below the modulus.
	if errors.As(err, &code) && rc.Is(code, tpm2.TPMRCValue, tpm2.TPMRCSize) && !sessionFault(code) {
		return nil, fmt.Errorf("%w: %v", ErrCiphertext, err)
	}
	if err != nil {
		return nil, err
	}
	return rsp.Message.Buffer, nil
}

// use runs f with the key where it is loaded now.
func (k *DecryptionKey) use(ctx context.Context, f func(*turn, object) error) error {
	return k.tpm.again(ctx, func(t *turn) error {
		if k.resident.Retired() {
			return ErrClosed
		}
		if err := t.Connect(); err != nil {
			return err
		}
		h, found := t.Use(&k.resident)
		if !found {
			return ErrKeyGone
		}
		o := k.object
		o.handle = h
		err := f(t, o)
		if t.gone(h, k.object.name, err) {
			t.Forget(&k.resident)
			return fmt.Errorf("%w: %v", ErrKeyGone, err)
		}
		return err
	})
}

// Close gives the key up, as [Key.Close] does. The error is always nil.
func (k *DecryptionKey) Close() error {
	k.resident.retire(k.tpm)
	return nil
}
