package tpm_test

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// machines are the TPMs that a policy is tried on.
func machines() map[string]func(testing.TB) tpmtest.Machine {
	return map[string]func(testing.TB) tpmtest.Machine{"simulator": tpmtest.SimulatorMachine, "swtpm": tpmtest.SwtpmMachine}
}

// forwarder is the TPM behind a proxy, for commands of a handler's own.
type forwarder tpmtest.Forward

func (f forwarder) Send(command []byte) ([]byte, error) { return f(command) }

func selection(pcrs ...int) tpm.PCRSelection { return tpm.PCRSelection{PCRs: pcrs} }

// throughFile encodes and decodes a key file, as the next start of the agent will find it. The PCR
// values are not in it.
func throughFile(t *testing.T, file *tpm.KeyFile) *tpm.KeyFile {
	t.Helper()
	decoded, err := tpm.DecodeKeyFile(file.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if len(decoded.PCRValues.Values) != 0 {
		t.Error("the file has PCR values")
	}
	return decoded
}

func TestAKeyThatIsBoundToPCRs(t *testing.T) {
	t.Parallel()
	for name, start := range machines() {
		t.Run(name, func(t *testing.T) {
			m := start(t)
			on := tpmtest.Connect(t, m.Device())
			before := create(t, on, tpm.KeyOptions{PCRs: selection(11, 7, 11)})
			file := throughFile(t, before)
			key := load(t, on, file, tpm.LoadOptions{PCRValues: before.PCRValues})
			untold := load(t, on, file, tpm.LoadOptions{})
			if d := key.Deviations(); d != nil {
				t.Errorf("deviations %q", d)
			}
			for range 3 {
				checkSigns(t, key)
			}
			extend(t, on, 12)
			checkSigns(t, key) // bound to others

			extend(t, on, 11)
			now, err := on.ReadPCRs(t.Context(), selection(7, 11))
			if err != nil {
				t.Fatal(err)
			}
			_, err = sign(t, key)
			fails(t, err, tpm.ErrPCRsChanged)
			var changed *tpm.PCRError
			if !errors.As(err, &changed) {
				t.Fatalf("got %v", err)
			}
			was, is := before.PCRValues.Values[11], now.Values[11]
			if !slices.Equal(changed.Changed, []int{11}) || !slices.Equal(changed.Selected, []int{7, 11}) || changed.Bank != "sha256" ||
				!bytes.Equal(changed.Was[11], was) || !bytes.Equal(changed.Is[11], is) || bytes.Equal(was, is) {
				t.Errorf("%+v", changed)
			}
			if text := err.Error(); !strings.Contains(text, fmt.Sprintf("PCR 11 was %x and is %x", was, is)) || strings.Contains(text, "PCR 7 was") || !strings.Contains(text, "keyagent key rotate") {
				t.Errorf("the error does not say what changed: %s", text)
			}
			var code tpm2.TPMRC
			if !errors.As(err, &code) {
				t.Error("the TPM's code is lost")
			}

			_, err = sign(t, untold)
			fails(t, err, tpm.ErrPCRsChanged)
			if err != nil && !strings.Contains(err.Error(), "one or more of PCRs [7 11] of bank sha256") {
				t.Errorf("the error does not name the selection: %v", err)
			}
			for range 10 {
				_, err = sign(t, key)
				fails(t, err, tpm.ErrPCRsChanged)
			}
			if n := len(present(t, on, loadedSessions)); n > 2 {
				t.Errorf("%d sessions are loaded after failures", n)
			}
			checkSigns(t, newKey(t, on)) // no policy, no trouble

			m.Reboot(t) // and the PCRs are what they were
			checkSigns(t, key)
			checkSigns(t, untold)
		})
	}
}

func TestAKeyThatIsBoundToPCRsAndHasAnAuthorizationValue(t *testing.T) {
	t.Parallel()
	for name, start := range machines() {
		t.Run(name, func(t *testing.T) {
			m := start(t)
			on := tpmtest.Connect(t, m.Device())
			value := secret.New("va\x00lue")
			created := create(t, on, tpm.KeyOptions{PCRs: selection(11), AuthValue: value})
			file := throughFile(t, created)
			key := load(t, on, file, tpm.LoadOptions{AuthValue: value, PCRValues: created.PCRValues})
			checkSigns(t, key)
			for _, wrong := range []string{"", "another"} {
				_, err := sign(t, load(t, on, file, tpm.LoadOptions{AuthValue: secret.New(wrong)}))
				fails(t, err, tpm.ErrAuthValue)
				if errors.Is(err, tpm.ErrPCRsChanged) {
					t.Errorf("%q: the PCRs are blamed: %v", wrong, err)
				}
			}
			checkSigns(t, key)
			extend(t, on, 11)
			_, err := sign(t, key)
			fails(t, err, tpm.ErrPCRsChanged)
			if errors.Is(err, tpm.ErrAuthValue) {
				t.Errorf("the value is blamed: %v", err)
			}
			m.Reboot(t)
			checkSigns(t, key)
		})
	}
}

// The policy is for signing. What certifies a key is its authorization value, also while its PCRs
// are others.
func TestAKeyThatIsBoundToPCRsIsCertified(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, plain bool) {
		on, _ := azureThroughProxy(t, tpm.Config{PlainSessions: plain})
		for name, value := range map[string]secret.String{"without": {}, "with": secret.New("value")} {
			t.Run(name+" an authorization value", func(t *testing.T) {
				file := create(t, on, tpm.KeyOptions{PCRs: selection(11), AuthValue: value})
				key := load(t, on, file, tpm.LoadOptions{AuthValue: value})
				checkSigns(t, key)
				if _, err := on.Certify(t.Context(), key, handleAK, nil); err != nil {
					t.Error(err)
				}
				extend(t, on, 11)
				if _, err := on.Certify(t.Context(), key, handleAK, nil); err != nil {
					t.Error(err)
				}
				_, err := sign(t, key)
				fails(t, err, tpm.ErrPCRsChanged)
			})
		}
	})
}

// A password is no way around the policy.
func TestAPolicyCannotBePassedBy(t *testing.T) {
	t.Parallel()
	on := tpmtest.Connect(t, tpmtest.Bare(t).Device())
	file := create(t, on, tpm.KeyOptions{PCRs: selection(11)})
	do(t, on, func(c transport.TPM) error {
		key := loadRaw(t, c, file)
		defer flush(t, c, key.Handle)
		_, err := tpm2.Sign{
			KeyHandle:  tpm2.AuthHandle{Handle: key.Handle, Name: key.Name, Auth: tpm2.PasswordAuth(nil)},
			Digest:     tpm2.TPM2BDigest{Buffer: make([]byte, 32)},
			InScheme:   tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUSigScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSchemeHash{HashAlg: tpm2.TPMAlgSHA256})},
			Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
		}.Execute(c)
		fails(t, err, tpm2.TPMRCAuthUnavailable)
		return nil
	})
}

// An extension between the policy and the signature makes the TPM refuse, whichever PCR it is: one
// that the key is not bound to must not be noticed.
func TestAPCRIsExtendedBetweenPolicyAndSignature(t *testing.T) {
	t.Parallel()
	on, proxy := throughProxy(t)
	created := create(t, on, tpm.KeyOptions{PCRs: selection(7, 11)})
	key := load(t, on, created, tpm.LoadOptions{PCRValues: created.PCRValues})
	extending := func(pcr, times int) (tpmtest.Handler, *traffic) {
		wire := new(traffic)
		return wire.under(func(command []byte, forward tpmtest.Forward) ([]byte, error) {
			if codeOf(command) == tpm2.TPMCCSign && times != 0 {
				times--
				if err := extendBy(forwarder(forward), pcr); err != nil {
					return nil, err
				}
			}
			return forward(command)
		}), wire
	}
	for _, tt := range []struct {
		name  string
		pcr   int
		times int
		want  error
	}{
		{"another PCR, once", 10, 1, nil},
		{"another PCR, twice", 10, 2, nil},
		{"another PCR, each time", 10, -1, tpm2.TPMRCPCRChanged},
		{"one that the key is bound to", 11, 1, tpm.ErrPCRsChanged}, // the last: it stays so
	} {
		t.Run(tt.name, func(t *testing.T) {
			handler, wire := extending(tt.pcr, tt.times)
			proxy.Handle(handler)
			_, err := sign(t, key)
			proxy.Handle(nil)
			if !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if tt.pcr != 11 && errors.Is(err, tpm.ErrPCRsChanged) {
				t.Errorf("the key's PCRs are blamed: %v", err)
			}
			if n := wire.count(tpm2.TPMCCSign); n > 3 {
				t.Errorf("%d attempts", n)
			}
			if n := len(present(t, on, loadedSessions)); n > 2 {
				t.Errorf("%d sessions are loaded", n)
			}
		})
	}
}

func TestPCRsOfTheSHA384Bank(t *testing.T) {
	t.Parallel()
	for name, start := range machines() {
		t.Run(name, func(t *testing.T) {
			on := tpmtest.Connect(t, start(t).Device())
			bank := tpm.PCRSelection{Bank: crypto.SHA384, PCRs: []int{0, 11, 23}}
			values, err := on.ReadPCRs(t.Context(), bank)
			if err != nil && strings.Contains(err.Error(), "may be switched off") {
				t.Skip("this TPM has none: ", err)
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(values.Values[11]) != 48 || values.Bank != crypto.SHA384 {
				t.Errorf("%+v", values)
			}
			created := create(t, on, tpm.KeyOptions{PCRs: bank})
			key := load(t, on, throughFile(t, created), tpm.LoadOptions{PCRValues: created.PCRValues})
			checkSigns(t, key)
			extend(t, on, 11)
			_, err = sign(t, key)
			var changed *tpm.PCRError
			if !errors.As(err, &changed) || changed.Bank != "sha384" || !slices.Equal(changed.Changed, []int{11}) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestManyPCRs(t *testing.T) {
	t.Parallel()
	on := tpmtest.Connect(t, tpmtest.Bare(t).Device())
	all := make([]int, 24) // more than one TPM2_PCR_Read gives
	for i := range all {
		all[i] = 23 - i
	}
	created := create(t, on, tpm.KeyOptions{PCRs: selection(all...)})
	key := load(t, on, throughFile(t, created), tpm.LoadOptions{PCRValues: created.PCRValues})
	checkSigns(t, key)
	extend(t, on, 3)
	extend(t, on, 14)
	_, err := sign(t, key)
	var changed *tpm.PCRError
	if !errors.As(err, &changed) || !slices.Equal(changed.Changed, []int{3, 14}) {
		t.Errorf("got %v", err)
	}
}

func TestPCRsThatMakeNoSense(t *testing.T) {
	t.Parallel()
	on := tpmtest.Connect(t, tpmtest.Bare(t).Device())
	for name, pcrs := range map[string]tpm.PCRSelection{
		"less than 0":       selection(-1),
		"more than 23":      selection(7, 24),
		"a bank of SHA-1":   {Bank: crypto.SHA1, PCRs: []int{7}},
		"a bank of SHA-512": {Bank: crypto.SHA512, PCRs: []int{7}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := on.CreateKey(t.Context(), tpm.KeyOptions{Algorithm: tpm.ECDSAP256, PCRs: pcrs}); err == nil {
				t.Error("a key was made")
			}
			if _, err := on.ReadPCRs(t.Context(), pcrs); err == nil {
				t.Error("they were read")
			}
		})
	}
}

// pcrPolicy is a TPM2_PolicyPCR as a key file may have it.
func pcrPolicy(digest byte, bank tpm2.TPMAlgID, selected ...byte) tpm.PolicyCommand {
	parameters := append([]byte{0, 32}, bytes.Repeat([]byte{digest}, 32)...)
	parameters = append(parameters, 0, 0, 0, 1, byte(bank>>8), byte(bank), byte(len(selected)))
	return tpm.PolicyCommand{Code: tpm2.TPMCCPolicyPCR, Parameters: append(parameters, selected...)}
}

// What a file says about the policy is what the key was made with, or it is not used.
func TestAKeyFileWhosePolicyWasChangedIsRefused(t *testing.T) {
	t.Parallel()
	on := tpmtest.Connect(t, tpmtest.Bare(t).Device())
	bound := create(t, on, tpm.KeyOptions{PCRs: selection(11)})
	both := create(t, on, tpm.KeyOptions{PCRs: selection(11), AuthValue: secret.New("pw")})
	free := create(t, on, tpm.KeyOptions{})
	value := tpm.PolicyCommand{Code: tpm2.TPMCCPolicyAuthValue}
	for _, tt := range []struct {
		name   string
		file   *tpm.KeyFile
		policy []tpm.PolicyCommand
		want   string
	}{
		{"it was taken out", bound, nil, "does not say which"},
		{"other PCR values", bound, []tpm.PolicyCommand{pcrPolicy(7, tpm2.TPMAlgSHA256, 0, 8, 0)}, "is not the key's"},
		{"other PCRs", bound, []tpm.PolicyCommand{{Code: tpm2.TPMCCPolicyPCR, Parameters: changed(bound.Policy[0].Parameters, -1)}}, "is not the key's"},
		{"a demand was added", bound, append(slices.Clone(bound.Policy), value), "is not the key's"},
		{"a demand was taken out", both, both.Policy[:1], "is not the key's"},
		{"the PCRs were taken out", both, both.Policy[1:], "is not the key's"},
		{"a policy for a key that has none", free, bound.Policy, "is not the key's"},
		{"TPM2_PolicySecret", bound, []tpm.PolicyCommand{{Code: tpm2.TPMCCPolicySecret}}, "command TPM2_PolicySecret (0x151)"},
		{"TPM2_PolicyOR after it", bound, append(slices.Clone(bound.Policy), tpm.PolicyCommand{Code: tpm2.TPMCCPolicyOR, Parameters: []byte{0, 0}}), "command TPM2_PolicyOR (0x171)"},
		{"PCRs twice", bound, slices.Concat(bound.Policy, bound.Policy), "each once"},
		{"the authorization value first", both, []tpm.PolicyCommand{value, both.Policy[0]}, "each once"},
		{"the authorization value twice", both, append(slices.Clone(both.Policy), value), "each once"},
		{"parameters for the authorization value", both, []tpm.PolicyCommand{both.Policy[0], {Code: tpm2.TPMCCPolicyAuthValue, Parameters: []byte{0}}}, "command TPM2_PolicyAuthValue (0x16b)"},
		{"no parameters", bound, []tpm.PolicyCommand{{Code: tpm2.TPMCCPolicyPCR}}, "cut short"},
		{"a cut selection", bound, []tpm.PolicyCommand{{Code: tpm2.TPMCCPolicyPCR, Parameters: bound.Policy[0].Parameters[:40]}}, "command TPM2_PolicyPCR (0x17f)"},
		{"bytes after the selection", bound, []tpm.PolicyCommand{{Code: tpm2.TPMCCPolicyPCR, Parameters: append(bytes.Clone(bound.Policy[0].Parameters), 0)}}, "form"},
		{"32 PCRs", bound, []tpm.PolicyCommand{pcrPolicy(7, tpm2.TPMAlgSHA256, 0, 8, 0, 0)}, "form"},
		{"no bank", bound, []tpm.PolicyCommand{pcrPolicy(7, 0, 0, 8, 0)}, "one bank"},
		{"a bank that nobody knows", bound, []tpm.PolicyCommand{pcrPolicy(7, 0x7777, 0, 8, 0)}, "is not the key's"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := *tt.file
			file.Policy = tt.policy
			refused := func(how string, err error) {
				if err == nil {
					t.Errorf("%s: it was taken", how)
				} else if !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%s: %v does not say %q", how, err, tt.want)
				}
			}
			_, err := on.LoadKey(t.Context(), &file, tpm.LoadOptions{})
			refused("as it is", err)
			decoded, err := tpm.DecodeKeyFile(file.Encode())
			if err == nil {
				_, err = on.LoadKey(t.Context(), decoded, tpm.LoadOptions{})
			}
			refused("encoded", err)
			if n := len(transients(t, on)); n != 0 {
				t.Errorf("%d objects are loaded", n)
			}
		})
	}
}

// changed flips a bit of a byte, counted from the end if i is negative.
func changed(b []byte, i int) []byte {
	b = bytes.Clone(b)
	b[(i+len(b))%len(b)] ^= 1
	return b
}

// A key that signs with its password as well as with its policy is used as its file says, and
// reported.
func TestAPolicyBesideAPasswordIsReported(t *testing.T) {
	t.Parallel()
	on := tpmtest.Connect(t, tpmtest.Bare(t).Device())
	bound := create(t, on, tpm.KeyOptions{PCRs: selection(11)})
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](bound.Public[2:])
	if err != nil {
		t.Fatal(err)
	}
	template := ecdsaTemplate()
	template.AuthPolicy = public.AuthPolicy
	// The policy does not ask for the value, but it is part of what encrypts parameters.
	file := createForeignWith(t, on, template, tpm2.TPMSSensitiveCreate{UserAuth: tpm2.TPM2BAuth{Buffer: []byte("pw")}})
	without := load(t, on, file, tpm.LoadOptions{AuthValue: secret.New("pw")})
	checkSigns(t, without)
	file.Policy = bound.Policy
	with := load(t, on, file, tpm.LoadOptions{AuthValue: secret.New("pw")})
	checkSigns(t, with)
	extend(t, on, 11)
	checkSigns(t, without)
	_, err = sign(t, with)
	fails(t, err, tpm.ErrPCRsChanged)
	for _, k := range []*tpm.Key{with, without} {
		if d := k.Deviations(); len(d) != 1 || !strings.Contains(d[0], "without the policy") {
			t.Errorf("deviations %q", d)
		}
	}
}
