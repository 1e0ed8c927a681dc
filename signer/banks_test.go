package signer_test

import (
	"bytes"
	"crypto"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/internal/tooltest"
	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/signer/internal/signertest"
	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// The self-test asks for signatures with each scheme and hash. That none comes because a bank of
// PCRs is off says nothing of the schemes.
func TestTheSelfTestBlamesTheBankOfPCRs(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		options  tpm.KeyOptions
		allocate string
		want     string
	}{
		{"RSA", tpm.KeyOptions{PCRs: tpm.PCRSelection{PCRs: []int{7}}}, "sha256:none", "PCR bank sha256 is switched off"},
		{"P-256", tpm.KeyOptions{Algorithm: tpm.ECDSAP256, PCRs: tpm.PCRSelection{PCRs: []int{0, 7}}}, "sha256:0,1", "PCR bank sha256 is there without PCRs [7]"},
		{"P-384 of the other bank", tpm.KeyOptions{Algorithm: tpm.ECDSAP384, PCRs: tpm.PCRSelection{Bank: crypto.SHA384, PCRs: []int{7}}}, "sha384:none", "PCR bank sha384 is switched off"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := tpmtest.Swtpm(t)
			file := createOnce(t, m.Device(), tt.options)
			tpmtest.NewTools(t, m).Run(t, tooltest.Tool(t, "tpm2_pcrallocate"), "-Q", tt.allocate)
			m.Reboot(t)
			blamesTheBank(t, tpmtest.Connect(t, m.Device()), file, tt.want)
		})
	}
	t.Run("that this TPM does not have", func(t *testing.T) {
		t.Parallel()
		on := tpmtest.Open(t)
		digest, selected := bytes.Repeat([]byte{7}, 32), []byte{0x80, 0, 0}
		pcrs := tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSM3256, PCRSelect: selected}}}
		calculator, err := tpm2.NewPolicyCalculator(tpm2.TPMAlgSHA256)
		if err == nil {
			err = (tpm2.PolicyPCR{PcrDigest: tpm2.TPM2BDigest{Buffer: digest}, Pcrs: pcrs}).Update(calculator)
		}
		if err != nil {
			t.Fatal(err)
		}
		file, err := signertest.CreateAs(t.Context(), on, func(p *tpm2.TPMTPublic) {
			p.ObjectAttributes.UserWithAuth = false
			p.AuthPolicy.Buffer = calculator.Hash().Digest
		})
		if err != nil {
			t.Fatal(err)
		}
		parameters := append(tpm2.Marshal(tpm2.TPM2BDigest{Buffer: digest}), tpm2.Marshal(pcrs)...)
		file.Policy = []tpm.PolicyCommand{{Code: tpm2.TPMCCPolicyPCR, Parameters: parameters}}
		blamesTheBank(t, on, file, "this TPM has no PCR bank sm3_256")
	})
}

func createOnce(t *testing.T, device string, options tpm.KeyOptions) *tpm.KeyFile {
	t.Helper()
	on, err := tpm.Open(t.Context(), tpm.Config{Device: device})
	if err != nil {
		t.Fatal(err)
	}
	defer on.Close()
	file, err := on.CreateKey(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func blamesTheBank(t *testing.T, on *tpm.TPM, file *tpm.KeyFile, want string) {
	t.Helper()
	key, err := signer.OpenFile(t.Context(), signer.Config{TPM: on, KeyFile: "key.pem"}, file)
	if err == nil {
		t.Fatal(key.Close())
	}
	if !errors.Is(err, tpm.ErrPCRBank) || errors.Is(err, signer.ErrUnsupported) || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
}
