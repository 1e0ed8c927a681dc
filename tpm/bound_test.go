package tpm_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/big"
	"slices"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// This file proves that a binding key does not leave its TPM.

func TestBindingKeyAttributes(t *testing.T) {
	t.Parallel()
	k := tpmtest.CreateKey(t, tpmtest.Open(t))
	area := k.PublicArea()
	want := []byte{0, 0x01, 0, 0x0b, 0x00, 0x04, 0x04, 0x72, 0, 0, 0, 0x10, 0, 0x10, 0x08, 0, 0, 0, 0, 0, 1, 0}
	if !bytes.HasPrefix(area, want) {
		t.Errorf("the TPM reports % x, want it to begin % x", area[:min(len(area), len(want))], want)
	}
	names := tpm.AttributeNames(k.Public().ObjectAttributes)
	if !slices.Equal(names, []string{"fixedTPM", "fixedParent", "sensitiveDataOrigin", "userWithAuth", "noDA", "sign"}) {
		t.Errorf("attributes %v", names)
	}
}

func TestAttributeNamesKnowsEveryBit(t *testing.T) {
	t.Parallel()
	for _, bit := range []int{1, 2, 4, 5, 6, 7, 8, 10, 11, 16, 17, 18} {
		b := binary.BigEndian.AppendUint32(nil, 1<<bit)
		a, err := tpm2.Unmarshal[tpm2.TPMAObject](b)
		if err != nil {
			t.Fatal(err)
		}
		if got := tpm.AttributeNames(*a); len(got) != 1 {
			t.Errorf("bit %d has names %v", bit, got)
		}
	}
}

// duplicatePolicy is the digest of TPM2_PolicyCommandCode(TPM_CC_Duplicate): without a policy, no
// key can be duplicated.
func duplicatePolicy() []byte {
	calc, err := tpm2.NewPolicyCalculator(tpm2.TPMAlgSHA256)
	if err != nil {
		panic(err)
	}
	if err := (tpm2.PolicyCommandCode{Code: tpm2.TPMCCDuplicate}).Update(calc); err != nil {
		panic(err)
	}
	return calc.Hash().Digest
}

// duplicate tries to get a key out in the clear: new parent TPM_RH_NULL, no inner wrapper (TPM 2.0
// Part 3, 13.1).
func duplicate(t *testing.T, on *tpm.TPM, file *tpm.KeyFile) (private []byte, err error) {
	t.Helper()
	do(t, on, func(c transport.TPM) error {
		key := loadRaw(t, c, file)
		defer flush(t, c, key.Handle)
		session, end, sessionErr := tpm2.PolicySession(c, tpm2.TPMAlgSHA256, 16)
		if sessionErr != nil {
			return sessionErr
		}
		defer end()
		if _, err := (tpm2.PolicyCommandCode{PolicySession: session.Handle(), Code: tpm2.TPMCCDuplicate}).Execute(c); err != nil {
			return err
		}
		var rsp *tpm2.DuplicateResponse
		rsp, err = tpm2.Duplicate{
			ObjectHandle:    tpm2.AuthHandle{Handle: key.Handle, Name: key.Name, Auth: session},
			NewParentHandle: tpm2.TPMRHNull,
			Symmetric:       tpm2.TPMTSymDef{Algorithm: tpm2.TPMAlgNull},
		}.Execute(c)
		if err == nil {
			private = rsp.Duplicate.Buffer
		}
		return nil
	})
	return private, err
}

func TestDuplicateIsRefusedByTheTPM(t *testing.T) {
	t.Parallel()
	on := tpmtest.Connect(t, tpmtest.Bare(t).Device())
	with := func(change func(*tpm2.TPMTPublic)) tpm2.TPMTPublic {
		template := tpm.BindingKeyTemplate()
		change(&template)
		return template
	}
	policy := func(p *tpm2.TPMTPublic) { p.AuthPolicy.Buffer = duplicatePolicy() }

	t.Run("a key that is not fixed leaves in the clear, so the attempt is a real one", func(t *testing.T) {
		file := createForeign(t, on, with(func(p *tpm2.TPMTPublic) {
			policy(p)
			p.ObjectAttributes.FixedTPM, p.ObjectAttributes.FixedParent = false, false
		}))
		private, err := duplicate(t, on, file)
		if err != nil {
			t.Fatal(err)
		}
		if len(factors(modulus(t, file), private)) == 0 {
			t.Error("the duplicate does not contain a prime factor: the search below would find nothing either")
		}
	})
	t.Run("a binding key that even has a policy for it is refused for its attributes", func(t *testing.T) {
		_, err := duplicate(t, on, createForeign(t, on, with(policy)))
		fails(t, err, tpm2.TPMRCAttributes)
	})
	t.Run("the binding key is refused", func(t *testing.T) {
		file, err := on.CreateKey(t.Context(), tpm.KeyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = duplicate(t, on, file)
		var code tpm2.TPMRC
		if !errors.As(err, &code) {
			t.Errorf("the TPM did not refuse: %v", err)
		}
		t.Logf("TPM2_Duplicate: %v", err)
	})
}

func TestKeyFileHoldsNothingInTheClear(t *testing.T) {
	t.Parallel()
	on := tpmtest.Connect(t, tpmtest.Bare(t).Device())
	file, err := on.CreateKey(t.Context(), tpm.KeyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if found := factors(modulus(t, file), file.Private); len(found) != 0 {
		t.Errorf("prime factors at offsets %v of the private area", found)
	}
	if found := factors(modulus(t, file), file.Encode()); len(found) != 0 {
		t.Errorf("prime factors at offsets %v of the file", found)
	}
}

// factors returns the offsets at which blob holds a prime factor of an RSA-2048 modulus, in either
// byte order. This is what to look for: d, dP, dQ and qInv give the factors away, but a TPM stores
// just one prime.
func factors(n *big.Int, blob []byte) []int {
	var offsets []int
	for i := 0; i+128 <= len(blob); i++ {
		window := slices.Clone(blob[i : i+128])
		for range 2 {
			p := new(big.Int).SetBytes(window)
			if p.BitLen() > 1000 && new(big.Int).Mod(n, p).Sign() == 0 {
				offsets = append(offsets, i)
			}
			slices.Reverse(window)
		}
	}
	return offsets
}

func modulus(t *testing.T, file *tpm.KeyFile) *big.Int {
	t.Helper()
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](file.Public[2:])
	if err != nil {
		t.Fatal(err)
	}
	unique, err := public.Unique.RSA()
	if err != nil {
		t.Fatal(err)
	}
	return new(big.Int).SetBytes(unique.Buffer)
}

func TestAChangedKeyFileIsRefused(t *testing.T) {
	t.Parallel()
	t.Run("under the storage root at its handle", func(t *testing.T) {
		refusesChanges(t, tpmtest.Connect(t, tpmtest.Simulator(t).Device()))
	})
	t.Run("under a derived storage root", func(t *testing.T) {
		refusesChanges(t, tpmtest.Connect(t, tpmtest.Bare(t).Device()))
	})
}

// refusesChanges flips a bit of each byte of a key's private part, which the TPM refuses to load, and
// looks at what LoadKey says of some of them: after a refusal it looks for the root under which the
// file would load, and that takes long.
func refusesChanges(t *testing.T, on *tpm.TPM) {
	const step = 23
	file, err := on.CreateKey(t.Context(), tpm.KeyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	load := func(public, private []byte) error {
		_, err := on.LoadKey(t.Context(), &tpm.KeyFile{Parent: file.Parent, EmptyAuth: true, Public: public, Private: private}, tpm.LoadOptions{})
		return err
	}
	if err := load(file.Public, file.Private); err != nil {
		t.Fatal(err)
	}
	const sizes = 4 // TPM2B_PRIVATE and the integrity value's TPM2B: a change there is another fault
	var all [][]byte
	for i := sizes; i < len(file.Private); i++ {
		changed := slices.Clone(file.Private)
		changed[i] ^= 1 << (i % 8)
		all = append(all, changed)
		if i%step == 0 {
			err := load(file.Public, changed)
			fails(t, err, tpm.ErrForeignTPM)
			fails(t, err, tpm2.TPMRCIntegrity)
		}
	}
	loadsNot(t, on, file.Public, all)
	changed := slices.Clone(file.Public)
	changed[len(changed)-1] ^= 2 // the modulus stays odd
	if err := load(changed, file.Private); err == nil {
		t.Error("another modulus was taken")
	}
	if n := len(transients(t, on)); n != 1 {
		t.Errorf("%d objects are loaded, expected the one good key", n)
	}
}

// loadsNot lets the TPM itself load each changed private part.
func loadsNot(t *testing.T, on *tpm.TPM, public []byte, privates [][]byte) {
	t.Helper()
	err := on.Do(t.Context(), func(c transport.TPM) error {
		root, done := storageRoot(t, c)
		defer done()
		for _, private := range privates {
			_, err := tpm2.Load{
				ParentHandle: root,
				InPublic:     tpm2.BytesAs2B[tpm2.TPMTPublic](public[2:]),
				InPrivate:    tpm2.TPM2BPrivate{Buffer: private[2:]},
			}.Execute(c)
			fails(t, err, tpm2.TPMRCIntegrity)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestAKeyFileIsWorthlessOnAnotherTPM(t *testing.T) {
	t.Parallel()
	for _, layout := range []struct {
		name  string
		start func(testing.TB) string
	}{
		{"with the same template at the persistent handle", func(t testing.TB) string { return tpmtest.Simulator(t).Device() }},
		{"with the storage root derived from the same template", func(t testing.TB) string { return tpmtest.Bare(t).Device() }},
	} {
		t.Run(layout.name, func(t *testing.T) {
			var file *tpm.KeyFile
			t.Run("owner", func(t *testing.T) {
				on := tpmtest.Connect(t, layout.start(t))
				var err error
				if file, err = on.CreateKey(t.Context(), tpm.KeyOptions{}); err != nil {
					t.Fatal(err)
				}
				checkSigns(t, tpmtest.LoadKey(t, on, file))
			})
			t.Run("thief", func(t *testing.T) {
				on := tpmtest.Connect(t, layout.start(t))
				_, err := on.LoadKey(t.Context(), file, tpm.LoadOptions{})
				fails(t, err, tpm.ErrForeignTPM)
				fails(t, err, tpm2.TPMRCIntegrity)
			})
			t.Run("thief with another maker's TPM", func(t *testing.T) {
				on := tpmtest.Connect(t, tpmtest.Swtpm(t).Device())
				_, err := on.LoadKey(t.Context(), file, tpm.LoadOptions{})
				fails(t, err, tpm.ErrForeignTPM)
			})
		})
	}
}

func TestKeysThatCouldLeaveAreRefused(t *testing.T) {
	t.Parallel()
	on := tpmtest.Connect(t, tpmtest.Bare(t).Device())
	tests := []struct {
		name   string
		change func(*tpm2.TPMAObject)
		want   string
	}{
		{"duplicable", func(a *tpm2.TPMAObject) { a.FixedTPM, a.FixedParent = false, false }, "fixedTPM is clear"},
		{"duplicable with an inner wrapper", func(a *tpm2.TPMAObject) {
			a.FixedTPM, a.FixedParent, a.EncryptedDuplication = false, false, true
		}, "fixedParent is clear"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			template := tpm.BindingKeyTemplate()
			tt.change(&template.ObjectAttributes)
			// Another program made it: what the TPM says after loading decides.
			_, err := on.LoadKey(t.Context(), createForeign(t, on, template), tpm.LoadOptions{})
			fails(t, err, tpm.ErrExportable)
			if err != nil && !bytes.Contains([]byte(err.Error()), []byte(tt.want)) {
				t.Errorf("%v does not say that %s", err, tt.want)
			}
			if left := transients(t, on); len(left) != 0 {
				t.Errorf("%v stayed loaded", left)
			}
		})
	}
}
