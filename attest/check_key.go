package attest

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/keyagent/keyagent/internal/tcg"
)

func (v *verifier) keyPublic() error {
	if v.e.KeyPublic == nil {
		return absent("no binding key")
	}
	p, err := parsePublic(v.e.KeyPublic)
	if err != nil {
		return err
	}
	v.key = p
	return v.policy.Key.check(p)
}

// check checks a public area. It says what a TPM would enforce for such a key; that a TPM holds the
// key is proven by the certify statement.
func (k KeyPolicy) check(p *publicArea) error {
	if missing := k.RequiredAttributes &^ p.attributes; missing != 0 {
		return fmt.Errorf("attributes %s lack %s", tcg.Attributes(p.attributes), tcg.Attributes(missing))
	}
	if extra := p.attributes & k.ForbiddenAttributes; extra != 0 {
		return fmt.Errorf("attributes %s have %s, which a key of this use must not have", tcg.Attributes(p.attributes), tcg.Attributes(extra))
	}
	if p.scheme != algNull {
		return fmt.Errorf("signing scheme %s is fixed, want none (TPM_ALG_NULL)", tcg.Algorithm(p.scheme))
	}
	if len(p.authPolicy) > 0 && !k.AnyAuthPolicy && !contains(k.AuthPolicies, p.authPolicy) {
		return fmt.Errorf("authPolicy %x is not on the list", p.authPolicy)
	}
	return nil
}

func contains(list [][]byte, b []byte) bool {
	for _, entry := range list {
		if bytes.Equal(entry, b) {
			return true
		}
	}
	return false
}

func (v *verifier) certifyStructure() error {
	if v.e.Certify == nil {
		return absent("no certify statement")
	}
	st, err := parseStatement(v.e.Certify, typeCertify)
	if err != nil {
		return err
	}
	v.certify = st
	return nil
}

func (v *verifier) certifySignature() error {
	if v.e.Certify == nil {
		return absent("no certify statement")
	}
	if v.ak == nil {
		return absent("no attestation key")
	}
	return verifySignature(v.ak.Public, v.e.Certify, v.e.CertifySignature)
}

// needCertify is the condition of checks that read the statement.
func (v *verifier) needCertify() error {
	if v.certify == nil {
		return absent("no readable certify statement")
	}
	return nil
}

func (v *verifier) certifySigner() error {
	if err := v.needCertify(); err != nil {
		return err
	}
	return v.checkSigner(v.certify)
}

// checkSigner compares the Qualified Name that the TPM gave its signing key with that of the
// attestation key in the endorsement hierarchy.
func (v *verifier) checkSigner(st *statement) error {
	if v.ak == nil {
		return absent("no attestation key")
	}
	return st.checkSigner(v.ak)
}

// checkSigner does not apply to a key whose Name is not known, unless the key was made as the
// paravisor makes attestation keys: its Name follows from the key then.
func (st *statement) checkSigner(ak *AK) error {
	if ak.QualifiedName == nil {
		template := AKPublicArea(ak.Public.N.Bytes())
		if bytes.Equal(st.signer, primaryName(hierarchyEndorsement, nameOf(template))) {
			return nil
		}
		return absent("the Name of the attestation key is not known")
	}
	if !bytes.Equal(st.signer, ak.QualifiedName) {
		return fmt.Errorf("signed by the key with qualified name %x, not by the attestation key %x", st.signer, ak.QualifiedName)
	}
	return nil
}

func (v *verifier) certifyName() error {
	if err := v.needCertify(); err != nil {
		return err
	}
	if v.e.KeyPublic == nil {
		return absent("no binding key")
	}
	return v.certify.checkName(nameOf(v.e.KeyPublic))
}

func (st *statement) checkName(want []byte) error {
	if !bytes.Equal(st.name, want) {
		return fmt.Errorf("the certified key has the Name %x, the shown one %x", st.name, want)
	}
	return nil
}

func (v *verifier) certifyLocation() error {
	if err := v.needCertify(); err != nil {
		return err
	}
	return v.certify.checkLocation(v.policy.Key.AllowNullHierarchy)
}

// checkLocation refuses keys that the TPM forgets at the next reset. The Qualified Name is a hash
// over the Names of all parents, which are not in the evidence, so it does not tell the key's
// place. That does not matter: fixedParent keeps the key where it is.
func (st *statement) checkLocation(allowNull bool) error {
	if len(st.qualifiedName) != len(primaryName(hierarchyNull, nil)) || !bytes.HasPrefix(st.qualifiedName, []byte{algSHA256 >> 8, algSHA256 & 0xff}) {
		return errors.New("qualified name is not a SHA-256 Name")
	}
	if !allowNull && bytes.Equal(st.qualifiedName, primaryName(hierarchyNull, st.name)) {
		return errors.New("the key is a primary of the NULL hierarchy, which a reset wipes out")
	}
	return nil
}

func (v *verifier) certifyNonce() error {
	if err := v.needCertify(); err != nil {
		return err
	}
	return v.checkNonce(v.certify, v.expected.Certify)
}

// checkNonce is checkExtraData for a statement that must be fresh. A value derived from a challenge
// is only as fresh as the nonce, whatever its own length.
func (v *verifier) checkNonce(st *statement, want []byte) error {
	if v.challenge != nil {
		if err := v.challenge.Validate(); err != nil {
			return fmt.Errorf("challenge: %w", err)
		}
	}
	if len(want) == 0 && !v.expected.AllowEmpty {
		return errors.New("the verifier gave no nonce to compare with: a statement without one can be replayed forever")
	}
	if len(want) > 0 && len(want) < MinNonceSize && !v.expected.AllowShort {
		return fmt.Errorf("the verifier expects a nonce of %d bytes, want at least %d", len(want), MinNonceSize)
	}
	return st.checkExtraData(want)
}

func (st *statement) checkExtraData(want []byte) error {
	if !bytes.Equal(st.extraData, want) {
		return fmt.Errorf("made for another challenge: extraData %x, want %x", st.extraData, want)
	}
	return nil
}

func (v *verifier) keyMatch() error {
	if !v.forKey {
		return absent("no public key to compare with")
	}
	if v.expected.Key == nil {
		return errors.New("the key presented could not be read: its algorithm may be unknown")
	}
	if v.key == nil {
		return absent("no readable binding key")
	}
	want, ok := v.expected.Key.(*rsa.PublicKey)
	if !ok || want == nil || !v.key.key.Equal(want) {
		return errors.New("the evidence is about another key than the one presented")
	}
	return nil
}

// Certified is one TPM2_Certify statement about one key.
type Certified struct {
	Public    []byte // TPMT_PUBLIC
	Attest    []byte // TPMS_ATTEST
	Signature []byte // TPMT_SIGNATURE or bare RSASSA signature
	ExtraData []byte // what the statement must carry
	// PCRs, if not nil, are the SHA-256 PCRs that the key must be bound to, and to nothing else.
	PCRs map[int][]byte
}

// VerifyTransportKey checks that c is about a decryption key which lives in the TPM of ak and
// cannot leave it: the key to which an attestation service may encrypt its answer. The failures are
// *CheckErrors under the names of the binding key's checks.
//
// Here, and nowhere else, c.ExtraData may be empty, as it is in Microsoft's protocol. Replaying an
// old statement about a key that is gone gains nothing: an answer encrypted to that key cannot be
// opened.
func VerifyTransportKey(ak *AK, c Certified) error {
	policy := transportKeyPolicy()
	fail := func(check string, err error) error {
		if err == nil {
			return nil
		}
		return &CheckError{Check: check, Reason: err.Error()}
	}
	p, err := parsePublic(c.Public)
	if err == nil {
		err = policy.check(p)
	}
	if err == nil && c.PCRs != nil && !bytes.Equal(p.authPolicy, pcrPolicy(c.PCRs)) {
		err = errors.New("the key is not bound to the PCRs of the evidence: one of them was extended meanwhile, or another policy was put in place")
	}
	if err != nil {
		return fail(CheckKeyPublic, err)
	}
	st, err := parseStatement(c.Attest, typeCertify)
	if err != nil {
		return fail(CheckKeyCertifyStructure, err)
	}
	return errors.Join(
		fail(CheckKeyCertifySignature, verifySignature(ak.Public, c.Attest, c.Signature)),
		fail(CheckKeyCertifySigner, st.checkSigner(ak)),
		fail(CheckKeyCertifyName, st.checkName(p.name())),
		fail(CheckKeyCertifyLocation, st.checkLocation(policy.AllowNullHierarchy)),
		fail(CheckKeyCertifyNonce, st.checkExtraData(c.ExtraData)),
	)
}

// pcrPolicy is the digest of a policy of TPM2_PolicyPCR alone, with SHA-256 (TPM 2.0 Part 3, 23.7):
// the first command's digest is made over a policy of zeros, its code, the selection in three bytes
// and the digest of the values in rising order.
func pcrPolicy(values map[int][]byte) []byte {
	const commandPolicyPCR, selectBytes = 0x0000017F, 3
	bitmap, digest := make([]byte, selectBytes), sha256.New()
	for _, index := range slices.Sorted(maps.Keys(values)) {
		if index >= 0 && index < 8*selectBytes {
			bitmap[index/8] |= 1 << (index % 8)
		}
		digest.Write(values[index])
	}
	policy := binary.BigEndian.AppendUint32(make([]byte, sha256.Size), commandPolicyPCR)
	policy = binary.BigEndian.AppendUint32(policy, 1) // one selection
	policy = binary.BigEndian.AppendUint16(policy, algSHA256)
	policy = append(append(append(policy, selectBytes), bitmap...), digest.Sum(nil)...)
	sum := sha256.Sum256(policy)
	return sum[:]
}
