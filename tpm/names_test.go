package tpm_test

import (
	"bytes"
	"crypto"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// Errors give the names of the TPM's constants: a reader of "0x0016" would have to look it up.
func TestErrorsNameWhatTheTPMCallsByNumber(t *testing.T) {
	t.Parallel()
	on := tpmtest.Connect(t, tpmtest.Bare(t).Device())
	key, rsaKey := newKey(t, on), tpmtest.CreateKey(t, on)
	digest := make([]byte, 32)
	signWith := func(k *tpm.Key, scheme tpm2.TPMAlgID) func() error {
		return func() error { _, err := k.Sign(t.Context(), scheme, crypto.SHA256, digest); return err }
	}
	described := func(change func(*tpm2.TPMTPublic)) func() error {
		template := ecdsaTemplate()
		template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: digest}, Y: tpm2.TPM2BECCParameter{Buffer: digest}})
		change(&template)
		file := &tpm.KeyFile{Parent: tpm2.TPMRHOwner, Public: tpm2.Marshal(tpm2.New2B(template)), Private: []byte{0, 1, 0}}
		return func() error { _, err := file.Describe(); return err }
	}
	for _, tt := range []struct {
		name string
		do   func() error
		want string
	}{
		{"a scheme that decrypts", signWith(rsaKey, tpm2.TPMAlgRSAES), "TPM_ALG_RSAES (0x0015)"},
		{"a scheme of another kind of key", signWith(key, tpm2.TPMAlgRSAPSS), "TPM_ALG_RSAPSS (0x0016)"},
		{"a scheme that nobody knows", signWith(rsaKey, 0x7777), "0x7777 (unknown)"},
		{"a key that is an HMAC's", described(func(p *tpm2.TPMTPublic) {
			p.Type = tpm2.TPMAlgKeyedHash
			p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgKeyedHash, &tpm2.TPMSKeyedHashParms{})
			p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgKeyedHash, &tpm2.TPM2BDigest{Buffer: digest})
		}), "TPM_ALG_KEYEDHASH (0x0008)"},
		{"a curve that Go does not have", described(func(p *tpm2.TPMTPublic) {
			p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCBNP256})
		}), "TPM_ECC_BN_P256 (0x0010)"},
		{"a name algorithm", func() error {
			template := ecdsaTemplate()
			template.NameAlg = tpm2.TPMAlgSM3256
			_, err := (&tpm.KeyFile{Public: tpm2.Marshal(tpm2.New2B(template)), Private: []byte{0, 1, 0}}).Name()
			return err
		}, "TPM_ALG_SM3_256 (0x0012)"},
		{"a parent that is a hierarchy", func() error {
			file := create(t, on, tpm.KeyOptions{})
			file.Parent = tpm2.TPMRHEndorsement
			_, err := on.LoadKey(t.Context(), file, tpm.LoadOptions{})
			return err
		}, "TPM_RH_ENDORSEMENT (0x4000000b)"},
		{"a command of a policy", func() error {
			file := create(t, on, tpm.KeyOptions{})
			file.Policy = []tpm.PolicyCommand{{Code: tpm2.TPMCCPolicyNV}}
			_, err := file.Describe()
			return err
		}, "TPM2_PolicyNV (0x149)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.do()
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// A server that is no TPM is named, too, as far as possible.
func TestAnAnswerOfAnotherProtocolSaysWhatItBeginsWith(t *testing.T) {
	t.Parallel()
	on, proxy := throughProxy(t)
	for answer, want := range map[string]string{"HTTP/1.1 400 Bad Request\r\n": "0x4854 (unknown)", "\x80\x18\x00\x00\x00\x0a\x00\x00\x00\x00": "TPM_ST_ATTEST_QUOTE (0x8018)"} {
		proxy.Handle(func([]byte, tpmtest.Forward) ([]byte, error) { return bytes.Clone([]byte(answer)), nil })
		_, err := on.State(t.Context())
		proxy.Handle(nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
