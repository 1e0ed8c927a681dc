package attest_test

import (
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/attest"
)

// What a public area has in place of what is wanted is named, and not only numbered.
func TestAttributesOfAPublicAreaAreNamed(t *testing.T) {
	t.Parallel()
	ak := func(change func(*tpm2.TPMTPublic)) []byte {
		p := tpm2.TPMTPublic{
			Type: tpm2.TPMAlgRSA, NameAlg: tpm2.TPMAlgSHA256,
			ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, Restricted: true, SignEncrypt: true},
			Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
				Symmetric: tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgNull}, KeyBits: 2048,
				Scheme: tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgRSASSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA256})},
			}),
			Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: append([]byte{0x80}, append(make([]byte, 254), 1)...)}),
		}
		change(&p)
		return tpm2.Marshal(p)
	}
	if _, err := attest.ParseAK(ak(func(*tpm2.TPMTPublic) {})); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		area []byte
		want string
	}{
		"an elliptic curve key": {tpm2.Marshal(tpm2.ECCSRKTemplate), "type TPM_ALG_ECC (0x0023)"},
		"a name algorithm":      {ak(func(p *tpm2.TPMTPublic) { p.NameAlg = tpm2.TPMAlgSHA384 }), "name algorithm TPM_ALG_SHA384 (0x000c)"},
		"a scheme": {ak(func(p *tpm2.TPMTPublic) {
			p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
				Symmetric: tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgNull}, KeyBits: 2048,
				Scheme: tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgRSAPSS, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSAPSS, &tpm2.TPMSSigSchemeRSAPSS{HashAlg: tpm2.TPMAlgSHA256})},
			})
		}), "scheme TPM_ALG_RSAPSS (0x0016)"},
		"a key that is not restricted": {ak(func(p *tpm2.TPMTPublic) { p.ObjectAttributes.Restricted = false }), "fixedTPM|fixedParent|sensitiveDataOrigin|userWithAuth|sign (0x"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := attest.ParseAK(tt.area)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}
