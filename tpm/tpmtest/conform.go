package tpmtest

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"errors"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/tpm"
)

// SimulatorMachine is [Simulator] for [Conform].
func SimulatorMachine(t testing.TB) Machine { return simulatedMachine{Simulator(t)} }

// BareMachine is [Bare] for [Conform].
func BareMachine(t testing.TB) Machine { return simulatedMachine{Bare(t)} }

// SwtpmMachine is [Swtpm] for [Conform].
func SwtpmMachine(t testing.TB) Machine { return Swtpm(t) }

// Conform checks that package tpm works with a TPM as production will use it. Each subtest gets a fresh one.
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
	if n := loadedObjects(t, on); n != 0 {
		t.Errorf("%d objects are loaded", n)
	}
}

// shares keeps one of the three slots occupied: making a key takes the other two, so the loaded keys must give way.
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

func loadedObjects(t *testing.T, on *tpm.TPM) (n int) {
	t.Helper()
	err := on.Do(t.Context(), func(c transport.TPM) error {
		rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: 0x80000000, PropertyCount: 64}.Execute(c)
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
