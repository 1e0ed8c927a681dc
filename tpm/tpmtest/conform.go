package tpmtest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/tpm"
)

// SimulatorMachine is [Simulator] for [Conform].
func SimulatorMachine(t testing.TB) Machine { return simulatedMachine{Simulator(t)} }

// BareMachine is [Bare] for [Conform].
func BareMachine(t testing.TB) Machine { return simulatedMachine{Bare(t)} }

// SwtpmMachine is [Swtpm] for [Conform].
func SwtpmMachine(t testing.TB) Machine { return Swtpm(t) }

// Conform checks that package tpm works with a TPM as production will use it. Each subtest gets a
// fresh one.
func Conform(t *testing.T, start func(testing.TB) Machine) {
	for _, tt := range []struct {
		name  string
		check func(*testing.T, Machine, *tpm.TPM)
	}{
		{"it says what it is", describes},
		{"it signs with every hash and padding", signs},
		{"a key survives a reboot and keeps its Name", survives},
		{"a key file survives encoding", reloads},
		{"a public area is reported with its Name", reports},
		{"the storage root is the same after a reboot", staysRooted},
		{"an NV index that is not there is told apart", missesNV},
		{"nothing is left loaded", tidies},
		{"another client's transient objects do not matter", shares},
		{"commands go through one session, which ends with the connection", usesASession},
		{"commands go with passwords, where that is wanted", usesPasswords},
		{"it signs on an elliptic curve", signsECDSA},
		{"a key with an authorization value wants it", wantsItsValue},
		{"a key that is bound to PCRs signs while they hold", holdsPCRs},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := start(t)
			tt.check(t, m, Connect(t, m.Device()))
		})
	}
}

func describes(t *testing.T, _ Machine, on *tpm.TPM) {
	p, err := on.Properties(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if p.Manufacturer == "" || len(p.FirmwareVersion) != 18 || !p.RSAPSS || len(p.Hashes) == 0 || p.Hashes[0] != crypto.SHA256 {
		t.Errorf("%+v", p)
	}
}

func signs(t *testing.T, _ Machine, on *tpm.TPM) {
	k := CreateKey(t, on)
	public := k.PublicKey().(*rsa.PublicKey)
	for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		digest := h.New().Sum(nil)
		sig, err := k.Sign(t.Context(), tpm2.TPMAlgRSASSA, h, digest)
		if err == nil {
			err = rsa.VerifyPKCS1v15(public, h, digest, sig)
		}
		if err != nil {
			t.Errorf("PKCS #1 v1.5 with %v: %v", h, err)
		}
		sig, err = k.Sign(t.Context(), tpm2.TPMAlgRSAPSS, h, digest)
		if err == nil {
			err = rsa.VerifyPSS(public, h, digest, sig, &rsa.PSSOptions{SaltLength: h.Size()})
		}
		if err != nil {
			t.Errorf("PSS with %v: %v", h, err)
		}
	}
}

func sign(t *testing.T, k *tpm.Key) {
	t.Helper()
	digest := crypto.SHA256.New().Sum(nil)
	sig, err := k.Sign(t.Context(), tpm2.TPMAlgRSASSA, crypto.SHA256, digest)
	if err == nil {
		err = rsa.VerifyPKCS1v15(k.PublicKey().(*rsa.PublicKey), crypto.SHA256, digest, sig)
	}
	if err != nil {
		t.Error(err)
	}
}

func survives(t *testing.T, m Machine, on *tpm.TPM) {
	k := CreateKey(t, on)
	other := CreateKey(t, on)
	for range 2 {
		m.Reboot(t)
		sign(t, k)
		sign(t, other)
	}
	file, err := on.CreateKey(t.Context(), tpm.KeyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	before := LoadKey(t, on, file).Name()
	m.Reboot(t)
	if after := LoadKey(t, on, file).Name(); !bytes.Equal(before, after) {
		t.Errorf("Name %x became %x", before, after)
	}
}

func reloads(t *testing.T, _ Machine, on *tpm.TPM) {
	file, err := on.CreateKey(t.Context(), tpm.KeyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	decoded, err := tpm.DecodeKeyFile(file.Encode())
	if err != nil {
		t.Fatal(err)
	}
	sign(t, LoadKey(t, on, decoded))
}

func reports(t *testing.T, _ Machine, on *tpm.TPM) {
	k := CreateKey(t, on)
	area := k.PublicArea()
	digest := crypto.SHA256.New()
	digest.Write(area)
	if want := digest.Sum([]byte{0x00, 0x0b}); !bytes.Equal(k.Name(), want) {
		t.Errorf("Name %x, the public area's is %x", k.Name(), want)
	}
	if _, _, err := on.ReadPublic(t.Context(), 0x81000123); !errors.Is(err, tpm2.TPMRCHandle) {
		t.Errorf("an empty handle: %v", err)
	}
}

func staysRooted(t *testing.T, m Machine, on *tpm.TPM) {
	before, err := on.StorageRoot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m.Reboot(t)
	after, err := on.StorageRoot(t.Context())
	if err != nil || !bytes.Equal(before.Name, after.Name) || before.Handle != after.Handle {
		t.Errorf("%+v became %+v, %v", before, after, err)
	}
}

func missesNV(t *testing.T, _ Machine, on *tpm.TPM) {
	if _, err := on.ReadNV(t.Context(), 0x01400123); !errors.Is(err, tpm.ErrNoNVIndex) {
		t.Error(err)
	}
}

func tidies(t *testing.T, _ Machine, on *tpm.TPM) {
	for range 5 {
		k := CreateKey(t, on)
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	}
	if n := count(t, on, transients); n != 0 {
		t.Errorf("%d objects are loaded", n)
	}
}

// shares keeps one of the three slots occupied: making a key takes the other two, so the loaded
// keys must give way.
func shares(t *testing.T, _ Machine, on *tpm.TPM) {
	err := on.Do(t.Context(), func(c transport.TPM) error {
		_, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(c)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	a, b, c := CreateKey(t, on), CreateKey(t, on), CreateKey(t, on)
	for range 2 {
		sign(t, a)
		sign(t, b)
		sign(t, c)
	}
}

// ecdsaKey makes and loads a key on P-256.
func ecdsaKey(t *testing.T, on *tpm.TPM, options tpm.KeyOptions, load tpm.LoadOptions) *tpm.Key {
	t.Helper()
	options.Algorithm = tpm.ECDSAP256
	file, err := on.CreateKey(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	load.PCRValues = file.PCRValues
	k, err := on.LoadKey(t.Context(), file, load)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Close() }) // always nil
	return k
}

// signECDSA signs, and returns the TPM's error. A signature that does not verify is one of the
// test.
func signECDSA(t *testing.T, k *tpm.Key) error {
	t.Helper()
	digest := crypto.SHA256.New().Sum(nil)
	sig, err := k.Sign(t.Context(), tpm2.TPMAlgECDSA, crypto.SHA256, digest)
	if err == nil && !ecdsa.VerifyASN1(k.PublicKey().(*ecdsa.PublicKey), digest, sig) {
		t.Error("the signature does not verify")
	}
	return err
}

func signsECDSA(t *testing.T, _ Machine, on *tpm.TPM) {
	k := ecdsaKey(t, on, tpm.KeyOptions{}, tpm.LoadOptions{SignOnly: true})
	for range 5 {
		if err := signECDSA(t, k); err != nil {
			t.Error(err)
		}
	}
}

func usesASession(t *testing.T, m Machine, on *tpm.TPM) {
	k := ecdsaKey(t, on, tpm.KeyOptions{}, tpm.LoadOptions{})
	for range 5 {
		if err := signECDSA(t, k); err != nil {
			t.Error(err)
		}
	}
	if n := count(t, on, loadedSessions); n != 1 {
		t.Errorf("%d sessions are loaded", n)
	}
	m.Reboot(t)
	if err := signECDSA(t, k); err != nil {
		t.Error(err)
	}
	if err := on.Close(); err != nil {
		t.Fatal(err)
	}
	if n := count(t, Connect(t, m.Device()), loadedSessions); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
}

func usesPasswords(t *testing.T, m Machine, on *tpm.TPM) {
	if err := on.Close(); err != nil { // it may be that the TPM takes one connection only
		t.Fatal(err)
	}
	on = ConnectWith(t, tpm.Config{Device: m.Device(), PlainSessions: true})
	sign(t, CreateKey(t, on))
	value := secret.New("value")
	if err := signECDSA(t, ecdsaKey(t, on, tpm.KeyOptions{AuthValue: value}, tpm.LoadOptions{AuthValue: value})); err != nil {
		t.Error(err)
	}
	if n := count(t, on, loadedSessions); n != 0 {
		t.Errorf("%d sessions are loaded", n)
	}
}

func wantsItsValue(t *testing.T, _ Machine, on *tpm.TPM) {
	value := secret.New("\x00va\x00lue")
	options := tpm.KeyOptions{AuthValue: value}
	if err := signECDSA(t, ecdsaKey(t, on, options, tpm.LoadOptions{AuthValue: value})); err != nil {
		t.Error(err)
	}
	for _, wrong := range []secret.String{{}, secret.New("other")} {
		k := ecdsaKey(t, on, options, tpm.LoadOptions{AuthValue: wrong})
		if err := signECDSA(t, k); !errors.Is(err, tpm.ErrAuthValue) {
			t.Errorf("another value: %v", err)
		}
	}
}

// holdsPCRs uses PCR 23, which is there to be played with.
func holdsPCRs(t *testing.T, _ Machine, on *tpm.TPM) {
	k := ecdsaKey(t, on, tpm.KeyOptions{PCRs: tpm.PCRSelection{PCRs: []int{0, 23}}}, tpm.LoadOptions{})
	for range 2 {
		if err := signECDSA(t, k); err != nil {
			t.Error(err)
		}
	}
	err := on.Do(t.Context(), func(c transport.TPM) error {
		_, err := tpm2.PCRExtend{
			PCRHandle: tpm2.AuthHandle{Handle: 23, Auth: tpm2.PasswordAuth(nil)},
			Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: make([]byte, 32)}}},
		}.Execute(c)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	err = signECDSA(t, k)
	var changed *tpm.PCRError
	if !errors.Is(err, tpm.ErrPCRsChanged) || !errors.As(err, &changed) || !slices.Equal(changed.Changed, []int{23}) {
		t.Errorf("PCR 23 is another: %v", err)
	}
}

// Kinds of handles, as TPM2_GetCapability counts them (TPM 2.0 Part 2, 7.2).
const (
	loadedSessions = 0x02000000
	transients     = 0x80000000
)

// count counts the handles of a kind.
func count(t *testing.T, on *tpm.TPM, kind uint32) (n int) {
	t.Helper()
	err := on.Do(t.Context(), func(c transport.TPM) error {
		rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: kind, PropertyCount: 64}.Execute(c)
		if err != nil {
			return err
		}
		list, err := rsp.CapabilityData.Data.Handles()
		if err != nil {
			return err
		}
		n = len(list.Handle)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}
