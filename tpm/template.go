package tpm

import (
	"fmt"
	"strings"

	"github.com/google/go-tpm/tpm2"
)

// Algorithm is a kind of signing key, by the name that status and command line use.
type Algorithm string

// The algorithms. Which of them a TPM has, creating a key shows: the two first are everywhere.
const (
	RSA2048   Algorithm = "rsa-2048"
	ECDSAP256 Algorithm = "ecdsa-p256"
	ECDSAP384 Algorithm = "ecdsa-p384"
	RSA3072   Algorithm = "rsa-3072"
)

// Algorithms lists all of them, the default first.
func Algorithms() []Algorithm { return []Algorithm{RSA2048, RSA3072, ECDSAP256, ECDSAP384} }

// BindingKeyTemplate is the public area to create a binding key with: RSA-2048 that only signs, may
// choose its scheme per signature, was made by the TPM and can never leave it. Attributes
// 0x00040472.
//
// Scheme NULL, because TLS 1.2 peers may want PKCS #1 v1.5 where TLS 1.3 wants PSS. No decrypt: a
// key that could decrypt would be a raw RSA oracle, and its attested attributes could no longer say
// "signs only". noDA: a stranger's wrong passwords on other objects cannot lock it out. See TPM 2.0
// Part 2, 8.3 for the attributes.
func BindingKeyTemplate() tpm2.TPMTPublic {
	t, _ := keyTemplate(RSA2048) // it is one of them
	return t
}

// keyTemplate is BindingKeyTemplate for any algorithm.
func keyTemplate(a Algorithm) (tpm2.TPMTPublic, error) {
	t := tpm2.TPMTPublic{
		NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM:            true,
			FixedParent:         true,
			SensitiveDataOrigin: true,
			UserWithAuth:        true,
			NoDA:                true,
			SignEncrypt:         true,
		},
	}
	switch a {
	case RSA2048:
		rsaParameters(&t, 2048)
	case RSA3072:
		rsaParameters(&t, 3072)
	case ECDSAP256:
		eccParameters(&t, tpm2.TPMECCNistP256)
	case ECDSAP384:
		eccParameters(&t, tpm2.TPMECCNistP384)
	default:
		return t, fmt.Errorf("key algorithm %q is not one of %q", a, Algorithms())
	}
	return t, nil
}

func rsaParameters(t *tpm2.TPMTPublic, bits tpm2.TPMKeyBits) {
	t.Type = tpm2.TPMAlgRSA
	t.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{KeyBits: bits})
}

func eccParameters(t *tpm2.TPMTPublic, curve tpm2.TPMECCCurve) {
	t.Type = tpm2.TPMAlgECC
	t.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: curve})
}

// checkBound refuses a key that could leave the TPM, that was made elsewhere, or that does not
// sign. It looks at the public area as the TPM reports it for the loaded key. The TPM vouches for
// fixedTPM through all ancestors (TPM 2.0 Part 1, 25.2).
func checkBound(pub *tpm2.TPMTPublic) error {
	a := pub.ObjectAttributes
	faults := claims{
		{!a.FixedTPM, "fixedTPM is clear (it may be duplicated to another TPM)"},
		{!a.FixedParent, "fixedParent is clear (it may be duplicated)"},
		{!a.SensitiveDataOrigin, "sensitiveDataOrigin is clear (it was made outside and imported)"},
		{!a.SignEncrypt, "sign is clear"},
		{a.Restricted, "restricted is set (it cannot sign foreign digests)"},
	}.holding()
	if faults != nil {
		return fmt.Errorf("%w: %s", ErrExportable, strings.Join(faults, "; "))
	}
	return nil
}

// deviations lists in what a key differs from one that this package makes, for the worse. They are
// no danger of losing it.
func deviations(pub *tpm2.TPMTPublic) []string {
	a := pub.ObjectAttributes
	return claims{
		{a.Decrypt, "decrypt is set (it would decrypt, too)"},
		{!a.NoDA, "noDA is clear (strangers' wrong passwords can lock it out)"},
		{a.STClear, "stClear is set (it does not survive a reset)"},
		{a.UserWithAuth && len(pub.AuthPolicy.Buffer) > 0, "userWithAuth is set beside a policy (it signs without the policy)"},
		{fixedScheme(pub), "its signature scheme is fixed"},
	}.holding()
}

// fixedScheme reports whether a key has a signature scheme of its own, and signs with no other.
func fixedScheme(pub *tpm2.TPMTPublic) bool {
	if rsa, err := pub.Parameters.RSADetail(); err == nil {
		return rsa.Scheme.Scheme != 0 && rsa.Scheme.Scheme != tpm2.TPMAlgNull
	}
	if ecc, err := pub.Parameters.ECCDetail(); err == nil {
		return ecc.Scheme.Scheme != 0 && ecc.Scheme.Scheme != tpm2.TPMAlgNull
	}
	return false
}

// claims are sentences that hold or do not.
type claims []struct {
	holds    bool
	sentence string
}

func (c claims) holding() []string {
	var list []string
	for _, claim := range c {
		if claim.holds {
			list = append(list, claim.sentence)
		}
	}
	return list
}

// AttributeNames lists the attributes that are set, in the TCG's spelling and the order of their
// bits (TPM 2.0 Part 2, 8.3).
func AttributeNames(a tpm2.TPMAObject) []string {
	return claims{
		{a.FixedTPM, "fixedTPM"},
		{a.STClear, "stClear"},
		{a.FixedParent, "fixedParent"},
		{a.SensitiveDataOrigin, "sensitiveDataOrigin"},
		{a.UserWithAuth, "userWithAuth"},
		{a.AdminWithPolicy, "adminWithPolicy"},
		{a.FirmwareLimited, "firmwareLimited"},
		{a.NoDA, "noDA"},
		{a.EncryptedDuplication, "encryptedDuplication"},
		{a.Restricted, "restricted"},
		{a.Decrypt, "decrypt"},
		{a.SignEncrypt, "sign"},
	}.holding()
}
