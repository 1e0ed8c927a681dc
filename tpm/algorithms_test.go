package tpm_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

func TestEachAlgorithmSigns(t *testing.T) {
	t.Parallel()
	for _, m := range []struct {
		name  string
		start func(testing.TB) tpmtest.Machine
		lacks tpm.Algorithm
	}{
		{"simulator", tpmtest.BareMachine, tpm.RSA3072},
		{"swtpm", tpmtest.SwtpmMachine, ""},
	} {
		t.Run(m.name, func(t *testing.T) {
			machine := m.start(t)
			on := tpmtest.Connect(t, machine.Device())
			for _, algorithm := range tpm.Algorithms() {
				t.Run(string(algorithm), func(t *testing.T) {
					if algorithm == m.lacks {
						_, err := on.CreateKey(t.Context(), tpm.KeyOptions{Algorithm: algorithm})
						if err == nil || !strings.Contains(err.Error(), "this TPM does not make keys of kind rsa-3072") {
							t.Errorf("got %v", err)
						}
						return
					}
					file := throughFile(t, create(t, on, tpm.KeyOptions{Algorithm: algorithm}))
					key := load(t, on, file, tpm.LoadOptions{SignOnly: true})
					if got := kind(key.PublicKey()); got != algorithm {
						t.Errorf("the key is of kind %q", got)
					}
					signsInAllWays(t, key)
				})
			}
		})
	}
}

func kind(public crypto.PublicKey) tpm.Algorithm {
	switch public := public.(type) {
	case *rsa.PublicKey:
		return map[int]tpm.Algorithm{2048: tpm.RSA2048, 3072: tpm.RSA3072}[public.N.BitLen()]
	case *ecdsa.PublicKey:
		return map[elliptic.Curve]tpm.Algorithm{elliptic.P256(): tpm.ECDSAP256, elliptic.P384(): tpm.ECDSAP384}[public.Curve]
	}
	return ""
}

func signsInAllWays(t *testing.T, key *tpm.Key) {
	t.Helper()
	for _, hash := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		h := hash.New()
		h.Write([]byte("message"))
		digest := h.Sum(nil)
		for _, scheme := range []tpm2.TPMAlgID{tpm2.TPMAlgRSASSA, tpm2.TPMAlgRSAPSS, tpm2.TPMAlgECDSA} {
			sig, err := key.Sign(t.Context(), scheme, hash, digest)
			_, elliptic := key.PublicKey().(*ecdsa.PublicKey)
			switch {
			case elliptic != (scheme == tpm2.TPMAlgECDSA):
				if err == nil {
					t.Errorf("it signed with scheme 0x%04x", uint16(scheme))
				}
				continue
			case err != nil:
				t.Errorf("scheme 0x%04x, %v: %v", uint16(scheme), hash, err)
				continue
			case scheme == tpm2.TPMAlgRSAPSS:
				err = rsa.VerifyPSS(key.PublicKey().(*rsa.PublicKey), hash, digest, sig, nil)
			case !verifies(key.PublicKey(), hash, digest, sig):
				err = rsa.ErrVerification
			}
			if err != nil {
				t.Errorf("scheme 0x%04x, %v: %v", uint16(scheme), hash, err)
			}
		}
	}
}

func TestAnAlgorithmThatNobodyKnowsIsRefused(t *testing.T) {
	t.Parallel()
	on := tpmtest.Connect(t, tpmtest.Bare(t).Device())
	for _, algorithm := range []tpm.Algorithm{"rsa-1024", "RSA-2048", "ed25519", " "} {
		if _, err := on.CreateKey(t.Context(), tpm.KeyOptions{Algorithm: algorithm}); err == nil || !strings.Contains(err.Error(), string(tpm.ECDSAP384)) {
			t.Errorf("%q: %v does not name the ones there are", algorithm, err)
		}
	}
}

// asScheme fixes the signature scheme of an elliptic curve key.
func asScheme(p *tpm2.TPMTPublic) {
	parms, err := p.Parameters.ECCDetail()
	if err != nil {
		panic(err)
	}
	fixed := *parms
	fixed.Scheme = tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA,
		Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})}
	p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &fixed)
}

// Another program's keys are used and reported, or refused where only signing keys of our kind are
// wanted.
func TestAnotherProgramsKeysAreReported(t *testing.T) {
	t.Parallel()
	on := tpmtest.Connect(t, tpmtest.Bare(t).Device())
	for _, tt := range []struct {
		name   string
		change func(*tpm2.TPMTPublic)
		want   []string
	}{
		{"it decrypts, too", func(p *tpm2.TPMTPublic) { p.ObjectAttributes.Decrypt = true }, []string{"decrypt is set"}},
		{"strangers can lock it out", func(p *tpm2.TPMTPublic) { p.ObjectAttributes.NoDA = false }, []string{"noDA is clear"}},
		{"it does not survive a reset", func(p *tpm2.TPMTPublic) { p.ObjectAttributes.STClear = true }, []string{"stClear is set"}},
		{"its scheme is fixed", asScheme, []string{"scheme is fixed"}},
		{"it has a policy beside its password", func(p *tpm2.TPMTPublic) { p.AuthPolicy.Buffer = make([]byte, 32) }, []string{"userWithAuth is set beside a policy"}},
		{"two of them", func(p *tpm2.TPMTPublic) { asScheme(p); p.ObjectAttributes.NoDA = false }, []string{"noDA is clear", "scheme is fixed"}},
		{"none of them", func(*tpm2.TPMTPublic) {}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			template := ecdsaTemplate()
			tt.change(&template)
			file := createForeign(t, on, template)
			key, err := on.LoadKey(t.Context(), file, tpm.LoadOptions{})
			if err != nil {
				t.Fatal(err)
			}
			checkSigns(t, key)
			reported := strings.Join(key.Deviations(), "\n")
			if got := len(key.Deviations()); got != len(tt.want) {
				t.Errorf("%d deviations: %s", got, reported)
			}
			_ = key.Close() // always nil
			only, err := on.LoadKey(t.Context(), file, tpm.LoadOptions{SignOnly: true})
			if tt.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				_ = only.Close() // always nil
				return
			}
			fails(t, err, tpm.ErrAttributes)
			for _, want := range tt.want {
				if !strings.Contains(reported, want) || err != nil && !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in %q or not in %v", want, reported, err)
				}
			}
			if left := transients(t, on); len(left) != 0 {
				t.Errorf("%x stayed loaded", left)
			}
		})
	}
}

// However lax the caller: a key that may leave, that came from outside, or that is no free signing
// key is none of ours.
func TestKeysThatAreNotTheTPMsOwnAreAlwaysRefused(t *testing.T) {
	t.Parallel()
	on := tpmtest.Connect(t, tpmtest.Bare(t).Device())
	foreign := func(change func(*tpm2.TPMTPublic)) *tpm.KeyFile {
		template := ecdsaTemplate()
		change(&template)
		return createForeign(t, on, template)
	}
	for _, tt := range []struct {
		name string
		file *tpm.KeyFile
		want string
	}{
		{"it may be duplicated", foreign(func(p *tpm2.TPMTPublic) { p.ObjectAttributes.FixedTPM, p.ObjectAttributes.FixedParent = false, false }), "fixedTPM is clear"},
		{"it was imported", imported(t, on), "sensitiveDataOrigin is clear"},
		{"it signs only what the TPM made", foreign(func(p *tpm2.TPMTPublic) { asScheme(p); p.ObjectAttributes.Restricted = true }), "restricted is set"},
		{"it does not sign", foreign(func(p *tpm2.TPMTPublic) { p.ObjectAttributes.SignEncrypt, p.ObjectAttributes.Decrypt = false, true }), "sign is clear"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, options := range []tpm.LoadOptions{{}, {SignOnly: true}} {
				_, err := on.LoadKey(t.Context(), tt.file, options)
				fails(t, err, tpm.ErrExportable)
				if err != nil && !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%v does not say that %s", err, tt.want)
				}
			}
			if left := transients(t, on); len(left) != 0 {
				t.Errorf("%x stayed loaded", left)
			}
		})
	}
}

// imported makes a key in software and has the TPM import it (TPM 2.0 Part 3, 13.3).
func imported(t *testing.T, on *tpm.TPM) *tpm.KeyFile {
	t.Helper()
	soft, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public := ecdsaTemplate()
	public.ObjectAttributes.FixedTPM, public.ObjectAttributes.FixedParent, public.ObjectAttributes.SensitiveDataOrigin = false, false, false
	parameter := func(b []byte) tpm2.TPM2BECCParameter { return tpm2.TPM2BECCParameter{Buffer: b} }
	point, err := soft.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	d, err := soft.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	private := parameter(d)
	public.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: parameter(point[1:33]), Y: parameter(point[33:])})
	sensitive := tpm2.Marshal(tpm2.New2B(tpm2.TPMTSensitive{
		SensitiveType: tpm2.TPMAlgECC, Sensitive: tpm2.NewTPMUSensitiveComposite(tpm2.TPMAlgECC, &private),
	}))
	var file *tpm.KeyFile
	do(t, on, func(c transport.TPM) error {
		root, done := storageRoot(t, c)
		defer done()
		rsp, err := tpm2.Import{
			ParentHandle: root, ObjectPublic: tpm2.New2B(public), Duplicate: tpm2.TPM2BPrivate{Buffer: sensitive},
			Symmetric: tpm2.TPMTSymDef{Algorithm: tpm2.TPMAlgNull},
		}.Execute(c)
		if err != nil {
			return err
		}
		file = &tpm.KeyFile{Parent: tpm2.TPMRHOwner, EmptyAuth: true, Public: tpm2.Marshal(tpm2.New2B(public)), Private: tpm2.Marshal(rsp.OutPrivate)}
		return nil
	})
	return file
}
