package tpm

import (
	"fmt"
	"strings"

	"github.com/google/go-tpm/tpm2"
)

// BindingKeyTemplate is the public area to create a binding key with: RSA-2048 that only signs, may choose its scheme per
// signature, was made by the TPM and can never leave it. Attributes 0x00040472.
//
// Scheme NULL, because TLS 1.2 peers may want PKCS #1 v1.5 where TLS 1.3 wants PSS. No decrypt: a key that could decrypt
// would be a raw RSA oracle, and its attested attributes could no longer say "signs only". noDA: a stranger's wrong passwords
// on other objects cannot lock it out. See TPM 2.0 Part 2, 8.3 for the attributes.
func BindingKeyTemplate() tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type:    tpm2.TPMAlgRSA,
		NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM:            true,
			FixedParent:         true,
			SensitiveDataOrigin: true,
			UserWithAuth:        true,
			NoDA:                true,
			SignEncrypt:         true,
		},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{KeyBits: 2048}),
	}
}

// storageRootTemplate is template H-2, the ECC P-256 storage primary, with an empty unique field: what tpm2-tools and
// OpenSSL's provider derive for parent 0x40000001 of a key file. go-tpm's ECCSRKTemplate has 32 zero bytes in each
// coordinate instead, and so is another key.
func storageRootTemplate() tpm2.TPMTPublic {
	t := tpm2.ECCSRKTemplate
	t.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
	return t
}

// checkBound refuses a key that could leave the TPM or do more than sign. It looks at the public area as the TPM reports
// it for the loaded key. The TPM vouches for fixedTPM through all ancestors (TPM 2.0 Part 1, 25.2).
func checkBound(pub *tpm2.TPMTPublic) error {
	a := pub.ObjectAttributes
	var faults []string
	for _, c := range []struct {
		wrong bool
		fault string
	}{
		{!a.FixedTPM, "fixedTPM is clear (it may be duplicated to another TPM)"},
		{!a.FixedParent, "fixedParent is clear (it may be duplicated)"},
		{!a.SensitiveDataOrigin, "sensitiveDataOrigin is clear (it was made outside and imported)"},
		{!a.UserWithAuth, "userWithAuth is clear (it needs a policy to sign)"},
		{!a.SignEncrypt, "sign is clear"},
		{a.Restricted, "restricted is set (it cannot sign foreign digests)"},
		{a.Decrypt, "decrypt is set (it would decrypt, too)"},
	} {
		if c.wrong {
			faults = append(faults, c.fault)
		}
	}
	if faults != nil {
		return fmt.Errorf("%w: %s", ErrExportable, strings.Join(faults, "; "))
	}
	return nil
}

// AttributeNames lists the attributes that are set, in the TCG's spelling and the order of their bits (TPM 2.0 Part 2, 8.3).
func AttributeNames(a tpm2.TPMAObject) []string {
	var names []string
	for _, attribute := range []struct {
		set  bool
		name string
	}{
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
	} {
		if attribute.set {
			names = append(names, attribute.name)
		}
	}
	return names
}
