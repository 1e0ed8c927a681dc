package tpm

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/internal/tcg"
)

// maxQualifyingData is the size of a TPM2B_DATA on a TPM whose largest digest is SHA-384 (2 + 48),
// as Azure's is. Some TPMs would take more.
const maxQualifyingData = 50

// Attestation is a statement of the TPM, signed by an attestation key.
type Attestation struct {
	Attest    []byte // TPMS_ATTEST (TPM 2.0 Part 2, 10.12.12)
	Signature []byte // TPMT_SIGNATURE over Attest (TPM 2.0 Part 2, 11.3.4)
}

// Certify lets the attestation key ak vouch that key k is loaded in the same TPM (TPM 2.0 Part 3,
// 18.2). The statement carries k's Name and the qualifyingData, at most 50 bytes; both are compared
// here, the signature is the verifier's to check.
func (t *TPM) Certify(ctx context.Context, k *Key, ak tpm2.TPMHandle, qualifyingData []byte) (Attestation, error) {
	var a Attestation
	if err := checkQualifyingData(qualifyingData); err != nil {
		return a, fmt.Errorf("certifying a TPM key: %w", err)
	}
	err := k.use(ctx, func(turn *turn, h tpm2.TPMHandle) (err error) {
		a, err = certify(turn, object{handle: h, name: k.object.name}, k.auth, ak, qualifyingData)
		return k.explainAuth(err)
	})
	if err != nil {
		return Attestation{}, fmt.Errorf("certifying a TPM key with the attestation key at 0x%08x: %w", uint32(ak), err)
	}
	return a, nil
}

// certify lets an attestation key vouch for an object with this authorization value.
func certify(t *turn, o object, auth []byte, ak tpm2.TPMHandle, qualifyingData []byte) (Attestation, error) {
	var a Attestation
	err := t.withAttestationKey(ak, func(signer object) (err error) {
		a, err = certifyWith(t, o, auth, signer, qualifyingData)
		return err
	})
	return a, err
}

func certifyWith(t *turn, o object, auth []byte, signer object, qualifyingData []byte) (Attestation, error) {
	var rsp *tpm2.CertifyResponse
	// The object's session protects the whole command; a second one for the attestation key would
	// add nothing. The role is ADMIN: without adminWithPolicy, a key with a policy takes its
	// authorization value for it, too.
	err := t.protected(auth, attrDecrypt|attrEncrypt, func(session tpm2.Session) (err error) {
		rsp, err = tpm2.Certify{
			ObjectHandle:   o.auth(session),
			SignHandle:     signer.auth(emptyPassword()),
			QualifyingData: tpm2.TPM2BData{Buffer: qualifyingData},
			InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		}.Execute(t)
		return err
	})
	if err != nil {
		return Attestation{}, err
	}
	a := Attestation{Attest: rsp.CertifyInfo.Bytes(), Signature: tpm2.Marshal(rsp.Signature)}
	return a, checkCertified(a.Attest, o.name, qualifyingData)
}

// withAttestationKey runs f with the key at ak.
func (t *turn) withAttestationKey(ak tpm2.TPMHandle, f func(signer object) error) error {
	signer, err := attestationKey(t, ak)
	if err != nil {
		return err
	}
	err = f(signer)
	if !t.mayBeStale(signer, err) {
		return err
	}
	if signer, err = attestationKey(t, ak); err != nil {
		return err
	}
	return f(signer)
}

// attestationKey reads which key is at ak, and refuses one that would sign anything: its statements
// could be made up.
func attestationKey(t *turn, ak tpm2.TPMHandle) (object, error) {
	o, err := t.look(ak)
	if errors.Is(err, tpm2.TPMRCHandle) {
		// Not wrapped: to the caller, the code would mean that its own key is gone.
		return object{}, errors.New("there is no key at this handle; on a Confidential VM the platform puts one there at boot")
	}
	if err != nil {
		return object{}, err
	}
	if a := o.public.ObjectAttributes; !a.Restricted || !a.SignEncrypt || a.Decrypt {
		return object{}, fmt.Errorf("it is not an attestation key: its attributes are %v", AttributeNames(a))
	}
	return o, nil
}

// checkCertified compares a statement with the request. Another name means that the handle is not
// k's any more.
func checkCertified(attest, name, qualifyingData []byte) error {
	a, err := parseAttest(attest, tpm2.TPMSTAttestCertify, qualifyingData)
	if err != nil {
		return err
	}
	info, err := a.Attested.Certify()
	if err != nil {
		return err
	}
	if !bytes.Equal(info.Name.Buffer, name) {
		return fmt.Errorf("the TPM certified another key: %w", errWrongObject)
	}
	return nil
}

// parseAttest decodes a statement that was just made and checks that it answers the request.
func parseAttest(attest []byte, kind tpm2.TPMST, qualifyingData []byte) (*tpm2.TPMSAttest, error) {
	a, err := tpm2.Unmarshal[tpm2.TPMSAttest](attest)
	if err != nil {
		return nil, fmt.Errorf("the TPM's statement: %w", err)
	}
	if a.Type != kind {
		return nil, fmt.Errorf("the TPM's statement is of type %s, asked for was %s", tcg.Structure(uint16(a.Type)), tcg.Structure(uint16(kind)))
	}
	if !bytes.Equal(a.ExtraData.Buffer, qualifyingData) {
		return nil, errors.New("the TPM's statement carries other qualifying data")
	}
	return a, nil
}

func checkQualifyingData(data []byte) error {
	if len(data) > maxQualifyingData {
		return fmt.Errorf("qualifying data of %d bytes, a TPM takes %d: give a digest", len(data), maxQualifyingData)
	}
	return nil
}
