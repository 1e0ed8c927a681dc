package tpm_test

import (
	"bytes"
	"crypto"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/internal/tooltest"
	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// allocate has tpm2-tools say which PCRs there are, and restarts the TPM, from when on it holds.
func allocate(t *testing.T, m tpmtest.Machine, banks string) {
	t.Helper()
	tpmtest.NewTools(t, m).Run(t, tooltest.Tool(t, "tpm2_pcrallocate"), "-Q", banks)
	m.Reboot(t)
}

// onceOpen runs f on a TPM that is open only meanwhile: a swtpm has one client at a time.
func onceOpen(t *testing.T, m tpmtest.Machine, f func(*tpm.TPM)) {
	t.Helper()
	on, err := tpm.Open(t.Context(), tpm.Config{Device: m.Device()})
	if err != nil {
		t.Fatal(err)
	}
	f(on)
	if err := on.Close(); err != nil {
		t.Error(err)
	}
}

// tryLoaded loads a key, has it sign, and flushes it.
func tryLoaded(t *testing.T, on *tpm.TPM, file *tpm.KeyFile) error {
	t.Helper()
	k, err := on.LoadKey(t.Context(), file, tpm.LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	_, err = sign(t, k)
	return err
}

func TestAKeyWhoseBankIsSwitchedOffNamesTheBank(t *testing.T) {
	t.Parallel()
	sha384 := tpm.PCRSelection{Bank: crypto.SHA384, PCRs: []int{0, 7}}
	for _, tt := range []struct {
		name      string
		selection tpm.PCRSelection
		allocate  string
		bank      string
		missing   []int
		want      string
		others    []string
	}{
		{"the bank", selection(7), "sha256:none", "sha256", []int{7}, "bound to PCRs [7] of bank sha256: PCR bank sha256 is switched off", []string{"sha1", "sha384", "sha512"}},
		{"the other bank", sha384, "sha384:none", "sha384", []int{0, 7}, "PCR bank sha384 is switched off", []string{"sha1", "sha256", "sha512"}},
		{"some of its PCRs", selection(2, 7), "sha256:0,1,2,3", "sha256", []int{7}, "PCR bank sha256 is there without PCRs [7]", []string{"sha1", "sha384", "sha512"}},
		{"all banks but one, which lacks the PCRs", selection(7), "sha1:none+sha256:none+sha384:0,17+sha512:none", "sha256", []int{7}, "PCR bank sha256 is switched off", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := tpmtest.SwtpmMachine(t)
			var file *tpm.KeyFile
			onceOpen(t, m, func(on *tpm.TPM) { file = create(t, on, tpm.KeyOptions{PCRs: tt.selection}) })
			allocate(t, m, tt.allocate)
			onceOpen(t, m, func(on *tpm.TPM) {
				signErr := tryLoaded(t, on, file)
				fails(t, signErr, tpm.ErrPolicy)
				if text := signErr.Error(); !strings.Contains(text, tt.want) || strings.Contains(text, "0x000") {
					t.Errorf("it says %q, and not %q", text, tt.want)
				}
				if errors.Is(signErr, tpm.ErrPCRsChanged) {
					t.Error("a change of PCRs is blamed")
				}
				_, createErr := on.CreateKey(t.Context(), tpm.KeyOptions{Algorithm: tpm.ECDSAP256, PCRs: tt.selection})
				_, readErr := on.ReadPCRs(t.Context(), tt.selection)
				for _, err := range []error{signErr, createErr, readErr} {
					fails(t, err, tpm.ErrPCRBank)
					bank, ok := errors.AsType[*tpm.BankError](err)
					if !ok {
						continue
					}
					if bank.Bank != tt.bank || !slices.Equal(bank.Missing, tt.missing) || !slices.Equal(bank.Alternatives(), tt.others) {
						t.Errorf("%+v, others %v", bank, bank.Alternatives())
					}
				}
			})
			allocate(t, m, tt.bank+":all") // what the advice says
			onceOpen(t, m, func(on *tpm.TPM) {
				if err := tryLoaded(t, on, file); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A quote of a bank that is off would be about nothing.
func TestAQuoteOfABankThatIsSwitchedOffNamesTheBank(t *testing.T) {
	t.Parallel()
	m := tpmtest.SwtpmMachine(t)
	w := tpmtest.NewTools(t, m)
	w.Run(t, tooltest.Tool(t, "tpm2_createek"), "-Q", "-G", "rsa", "-c", "ek.ctx")
	w.Run(t, tooltest.Tool(t, "tpm2_createprimary"), "-Q", "-C", "e", "-G", "rsa2048:rsassa-sha256:null", "-c", "ak.ctx",
		"-a", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign")
	w.Run(t, tooltest.Tool(t, "tpm2_evictcontrol"), "-Q", "-C", "o", "-c", "ak.ctx", "0x81000003")
	allocate(t, m, "sha256:none")
	onceOpen(t, m, func(on *tpm.TPM) {
		_, err := on.Quote(t.Context(), handleAK, []int{0, 7}, nil)
		fails(t, err, tpm.ErrPCRBank)
		if err != nil && !strings.Contains(err.Error(), "PCR bank sha256 is switched off") {
			t.Errorf("got %v", err)
		}
		// Whoever asks for the other bank gets that one.
		q, err := on.QuoteBank(t.Context(), handleAK, tpm.PCRSelection{Bank: crypto.SHA384, PCRs: []int{0, 7}}, nil)
		if err != nil || len(q.PCRs) != 2 || len(q.PCRs[7]) != 48 {
			t.Errorf("SHA-384: %v, %v", q.PCRs, err)
		}
		_, err = on.QuoteBank(t.Context(), handleAK, tpm.PCRSelection{Bank: crypto.SHA1, PCRs: []int{0}}, nil)
		if err == nil || !strings.Contains(err.Error(), "neither SHA-256 nor SHA-384") {
			t.Errorf("SHA-1: %v", err)
		}
	})
}

// Key files of other programs may name any bank.
func TestAKeyOfABankThatTheTPMDoesNotHaveNamesTheBank(t *testing.T) {
	t.Parallel()
	for bank, want := range map[tpm2.TPMAlgID]string{
		tpm2.TPMAlgSM3256:  "this TPM has no PCR bank sm3_256",
		tpm2.TPMAlgSHA3256: "this TPM has no PCR bank sha3_256",
		0x7777:             "this TPM has no PCR bank 0x7777 (unknown)",
	} {
		t.Run(want, func(t *testing.T) {
			on := tpmtest.Connect(t, tpmtest.Bare(t).Device())
			policy := pcrPolicy(7, bank, 0x80, 0, 0)
			template := ecdsaTemplate()
			template.ObjectAttributes.UserWithAuth = false
			template.AuthPolicy.Buffer = policyPCRDigest(t, bank, bytes.Repeat([]byte{7}, 32), []byte{0x80, 0, 0})
			file := createForeign(t, on, template)
			file.Policy = []tpm.PolicyCommand{policy}
			d, err := file.Describe()
			if err != nil || !strings.HasSuffix(want, " "+d.PCRBank) {
				t.Errorf("described as of bank %q, %v", d.PCRBank, err)
			}
			err = tryLoaded(t, on, file)
			fails(t, err, tpm.ErrPCRBank)
			fails(t, err, tpm.ErrPolicy)
			if err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q", err, want)
			}
		})
	}
}

func policyPCRDigest(t *testing.T, bank tpm2.TPMAlgID, digest, selected []byte) []byte {
	t.Helper()
	calculator, err := tpm2.NewPolicyCalculator(tpm2.TPMAlgSHA256)
	if err != nil {
		t.Fatal(err)
	}
	command := tpm2.PolicyPCR{
		PcrDigest: tpm2.TPM2BDigest{Buffer: digest},
		Pcrs:      tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: bank, PCRSelect: selected}}},
	}
	if err := command.Update(calculator); err != nil {
		t.Fatal(err)
	}
	return calculator.Hash().Digest
}
