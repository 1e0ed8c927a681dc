package collect

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/tpm"
)

// transportModulusSize is the size of a transport key's modulus, and so of what it decrypts, in bytes.
const transportModulusSize = 256

// aesKeySize is the size of what is inside a good ciphertext, in bytes.
const aesKeySize = 32

// ErrTransportKeyGone means that the TPM was reset, or its connection lost, since the transport key was made. A new one must be made.
var ErrTransportKeyGone = errors.New("transport key is no longer in the TPM")

// TransportKey is a decryption key of the TPM for one answer of an attestation service: a primary of the NULL hierarchy, usable only
// while the PCRs of the policy are what they were, and never outside the TPM. It holds one of the TPM's few slots until Close.
//
// Its certify statement carries no qualifyingData, as that of Microsoft's own clients: the service answers to whichever key it is shown, and
// what makes the answer fresh is that no other key can open it.
type TransportKey struct {
	tpm    *tpm.TPM
	handle tpm2.TPMHandle
	name   []byte
	pcrs   tpm2.TPMLPCRSelection

	certified attest.Certified
}

// NewTransportKey makes a transport key. It takes as long as the TPM needs for making an RSA key: a tenth of a second to several
// seconds. The caller closes the key.
func (c *Collector) NewTransportKey(ctx context.Context) (*TransportKey, error) {
	k := &TransportKey{tpm: c.cfg.TPM, pcrs: selectPCRs(c.cfg.Policy.PCRs)}
	if err := c.cfg.TPM.Do(ctx, k.create); err != nil {
		return nil, fmt.Errorf("making a transport key: %w", err)
	}
	return k, nil
}

func selectPCRs(pcrs []int) tpm2.TPMLPCRSelection {
	indices := make([]uint, 0, len(pcrs))
	for _, i := range pcrs {
		if i >= 0 {
			indices = append(indices, uint(i))
		}
	}
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
		{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(indices...)},
	}}
}

func (k *TransportKey) create(t transport.TPM) error {
	policy, err := k.policyDigest(t)
	if err != nil {
		return err
	}
	unique, err := randomBytes(transportModulusSize)
	if err != nil {
		return err
	}
	created, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.TPMRHNull,
		InPublic:      tpm2.New2B(transportTemplate(policy, unique)),
	}.Execute(t)
	if err != nil {
		return err
	}
	k.handle, k.name = created.ObjectHandle, created.Name.Buffer
	k.certified.Public = created.OutPublic.Bytes()
	if err := k.certify(t); err != nil {
		return errors.Join(err, flush(t, k.handle))
	}
	return nil
}

// transportTemplate has the attributes 0x00020432: fixedTPM, fixedParent, sensitiveDataOrigin, noDA, decrypt. Without userWithAuth the policy is the only
// way to use it. A primary is derived from its template; unique makes it another key each time.
func transportTemplate(policy, unique []byte) tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type:    tpm2.TPMAlgRSA,
		NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, NoDA: true, Decrypt: true,
		},
		AuthPolicy: tpm2.TPM2BDigest{Buffer: policy},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
			Symmetric: tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgNull},
			Scheme:    tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgNull},
			KeyBits:   transportModulusSize * 8,
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: unique}),
	}
}

// policyDigest lets the TPM compute the digest of "the PCRs are as they are now" in a trial session.
func (k *TransportKey) policyDigest(t transport.TPM) (digest []byte, err error) {
	session, closeSession, err := tpm2.PolicySession(t, tpm2.TPMAlgSHA256, 16, tpm2.Trial())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeSession()) }()
	if _, err := (tpm2.PolicyPCR{PolicySession: session.Handle(), Pcrs: k.pcrs}).Execute(t); err != nil {
		return nil, err
	}
	got, err := tpm2.PolicyGetDigest{PolicySession: session.Handle()}.Execute(t)
	if err != nil {
		return nil, err
	}
	return got.PolicyDigest.Buffer, nil
}

// certify has the attestation key vouch for the transport key. TPM2_Certify asks for the ADMIN role, for which the key's (empty)
// password serves: adminWithPolicy is clear.
func (k *TransportKey) certify(t transport.TPM) error {
	ak, err := tpm2.ReadPublic{ObjectHandle: tpm.HandleAK}.Execute(t)
	if err != nil {
		return fmt.Errorf("attestation key: %w", err)
	}
	rsp, err := tpm2.Certify{
		ObjectHandle: tpm2.AuthHandle{Handle: k.handle, Name: tpm2.TPM2BName{Buffer: k.name}, Auth: tpm2.PasswordAuth(nil)},
		SignHandle:   tpm2.AuthHandle{Handle: tpm.HandleAK, Name: ak.Name, Auth: tpm2.PasswordAuth(nil)},
		InScheme:     tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
	}.Execute(t)
	if err != nil {
		return err
	}
	k.certified.Attest = rsp.CertifyInfo.Bytes()
	k.certified.Signature = tpm2.Marshal(rsp.Signature)
	return nil
}

// Certified returns the key's public area and the attestation key's statement about it.
func (k *TransportKey) Certified() attest.Certified { return k.certified }

// Decrypt opens an RSAES-PKCS1-v1_5 ciphertext of 256 bytes inside the TPM.
//
// A ciphertext that the TPM cannot open gives 32 random bytes and no error, so that whoever sends ciphertexts cannot learn from us which of
// them are well padded (implicit rejection, as TLS 1.2 does for RSA key exchange: RFC 5246, 7.4.7.1). The error says that the key cannot be
// used, whatever the ciphertext.
func (k *TransportKey) Decrypt(ctx context.Context, ciphertext []byte) ([]byte, error) {
	if len(ciphertext) != transportModulusSize {
		return nil, fmt.Errorf("opening with the transport key: ciphertext of %d bytes, want %d", len(ciphertext), transportModulusSize)
	}
	var message []byte
	err := k.tpm.Do(ctx, func(t transport.TPM) (err error) {
		if err := k.present(t); err != nil {
			return err
		}
		message, err = k.decrypt(t, ciphertext)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("opening with the transport key: %w", err)
	}
	return message, nil
}

func (k *TransportKey) decrypt(t transport.TPM, ciphertext []byte) (message []byte, err error) {
	// Not tpm2.Policy: it leaks its session if the PCRs do not match.
	session, closeSession, err := tpm2.PolicySession(t, tpm2.TPMAlgSHA256, 16)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeSession()) }()
	if _, err := (tpm2.PolicyPCR{PolicySession: session.Handle(), Pcrs: k.pcrs}).Execute(t); err != nil {
		return nil, err
	}
	rsp, err := tpm2.RSADecrypt{
		KeyHandle:  tpm2.AuthHandle{Handle: k.handle, Name: tpm2.TPM2BName{Buffer: k.name}, Auth: session},
		CipherText: tpm2.TPM2BPublicKeyRSA{Buffer: ciphertext},
		InScheme:   tpm2.TPMTRSADecrypt{Scheme: tpm2.TPMAlgRSAES},
	}.Execute(t)
	if errors.Is(err, tpm2.TPMRCPolicyFail) {
		return nil, errors.New("a PCR changed since the key was made")
	}
	if errors.Is(err, tpm2.TPMRCValue) || errors.Is(err, tpm2.TPMRCSize) {
		return randomBytes(aesKeySize) // bad padding; a number not below the modulus
	}
	if err != nil {
		return nil, err
	}
	return rsp.Message.Buffer, nil
}

func randomBytes(n int) ([]byte, error) {
	b := make([]byte, n)
	_, err := rand.Read(b)
	return b, err
}

// present checks that the handle still means this key. Handles are numbers: on a new connection, or after a reset, ours may be
// somebody else's.
func (k *TransportKey) present(t transport.TPM) error {
	rsp, err := tpm2.ReadPublic{ObjectHandle: k.handle}.Execute(t)
	if _, refused := errors.AsType[tpm2.TPMRC](err); refused {
		return ErrTransportKeyGone
	}
	if err != nil {
		return err
	}
	if !bytes.Equal(rsp.Name.Buffer, k.name) {
		return ErrTransportKeyGone
	}
	return nil
}

// Close flushes the key. A key that is gone already, with the boot or with the connection that made it, is no error. Close works also when
// ctx has ended.
func (k *TransportKey) Close(ctx context.Context) error {
	err := k.tpm.Do(context.WithoutCancel(ctx), func(t transport.TPM) error {
		if err := k.present(t); err != nil {
			return err
		}
		return flush(t, k.handle)
	})
	gone := errors.Is(err, ErrTransportKeyGone) || errors.Is(err, tpm.ErrClosed) || errors.Is(err, tpm.ErrUnavailable)
	if err == nil || gone {
		return nil
	}
	return fmt.Errorf("closing the transport key: %w", err)
}

func flush(t transport.TPM, h tpm2.TPMHandle) error {
	_, err := tpm2.FlushContext{FlushHandle: h}.Execute(t)
	return err
}
