package tpm_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

func TestConformance(t *testing.T) {
	t.Run("simulator, laid out as on Azure", func(t *testing.T) { tpmtest.Conform(t, tpmtest.SimulatorMachine) })
	t.Run("simulator, empty", func(t *testing.T) { tpmtest.Conform(t, tpmtest.BareMachine) })
	t.Run("swtpm", func(t *testing.T) { tpmtest.Conform(t, tpmtest.SwtpmMachine) })
}

// After a reset the handles start anew, so that a key's old handle may name another key now.
func TestKeysAreNotConfusedAfterAReset(t *testing.T) {
	t.Parallel()
	v := tpmtest.Bare(t)
	on := tpmtest.Connect(t, v.Device())
	a, b := tpmtest.CreateKey(t, on), tpmtest.CreateKey(t, on)
	for range 3 {
		if err := v.Reset(t.Context()); err != nil {
			t.Fatal(err)
		}
		// In the opposite order: b gets the handle that a had.
		checkSigns(t, b)
		checkSigns(t, a)
	}
}

// The same, but the handle went to another program's object in our space.
func TestAKeyIsNotConfusedWithAnObjectOfACaller(t *testing.T) {
	t.Parallel()
	v := tpmtest.Bare(t)
	on := tpmtest.Connect(t, v.Device())
	key := tpmtest.CreateKey(t, on)
	if err := v.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	file := createForeign(t, on, tpm.BindingKeyTemplate())
	do(t, on, func(c transport.TPM) error { loadRaw(t, c, file); return nil }) // stays loaded
	checkSigns(t, key)
}

func TestAKeyIsLoadedAgainAfterTheTransportWasReplaced(t *testing.T) {
	t.Parallel()
	for name, device := range map[string]func(testing.TB) string{
		"with a resource manager that flushed it": func(t testing.TB) string { return tpmtest.Bare(t).Device() },
		"without one, so that it is still there":  func(t testing.TB) string { return tpmtest.Swtpm(t).Device() },
	} {
		t.Run(name, func(t *testing.T) {
			proxy := tpmtest.NewProxy(t, device(t))
			on := tpmtest.Connect(t, proxy.Device())
			key := tpmtest.CreateKey(t, on)
			for range 5 { // more often than there are slots
				proxy.Disconnect()
				checkSigns(t, key)
			}
			awaitTransients(t, on, 1) // a connection that went is tidied up behind our back
		})
	}
}

// A bare TPM keeps what lost connections loaded. It must still give way.
func TestKeysOfALostConnectionMakeRoom(t *testing.T) {
	t.Parallel()
	proxy := tpmtest.NewProxy(t, tpmtest.Swtpm(t).Device())
	on := tpmtest.Connect(t, proxy.Device())
	keys := []*tpm.Key{tpmtest.CreateKey(t, on), tpmtest.CreateKey(t, on), tpmtest.CreateKey(t, on)} // all slots
	proxy.Disconnect()
	keys = append(keys, tpmtest.CreateKey(t, on))
	for _, k := range keys {
		checkSigns(t, k)
	}
}

// While the connection is gone, another program puts its key where ours was on a bare TPM.
func TestAnotherProgramsKeyIsNotTakenForOurs(t *testing.T) {
	t.Parallel()
	machine := tpmtest.Swtpm(t)
	proxy := tpmtest.NewProxy(t, machine.Device())
	on := tpmtest.Connect(t, proxy.Device())
	key := tpmtest.CreateKey(t, on)
	proxy.Disconnect()

	other, err := tpm.Open(t.Context(), tpm.Config{Device: machine.Device()})
	if err != nil {
		t.Fatal(err)
	}
	file := createForeign(t, other, tpm.BindingKeyTemplate())
	ours := transients(t, other)
	do(t, other, func(c transport.TPM) error {
		for _, h := range ours {
			flush(t, c, h)
		}
		root, done := storageRoot(t, c)
		defer done()
		_, err := tpm2.Load{
			ParentHandle: root, InPublic: tpm2.BytesAs2B[tpm2.TPMTPublic](file.Public[2:]), InPrivate: tpm2.TPM2BPrivate{Buffer: file.Private[2:]},
		}.Execute(c)
		return err
	})
	if now := transients(t, other); len(ours) != 1 || !slices.Contains(now, ours[0]) {
		t.Fatalf("our key was at %x, the other program's is at %x", ours, now)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	checkSigns(t, key)
}

func TestAClosedKeySignsNoMore(t *testing.T) {
	t.Parallel()
	on := tpmtest.Connect(t, tpmtest.Bare(t).Device())
	key := tpmtest.CreateKey(t, on)
	for range 2 {
		if err := key.Close(); err != nil {
			t.Error(err)
		}
	}
	if left := transients(t, on); len(left) != 0 {
		t.Errorf("%x stayed loaded", left)
	}
	digest := sha256.Sum256(nil)
	_, err := key.Sign(t.Context(), tpm2.TPMAlgRSASSA, crypto.SHA256, digest[:])
	fails(t, err, tpm.ErrClosed)
}

func TestSignRefusesWhatMakesNoSense(t *testing.T) {
	t.Parallel()
	key := tpmtest.CreateKey(t, tpmtest.Connect(t, tpmtest.Bare(t).Device()))
	for _, tt := range []struct {
		name   string
		scheme tpm2.TPMAlgID
		hash   crypto.Hash
		digest int
	}{
		{"a digest that is too short", tpm2.TPMAlgRSASSA, crypto.SHA256, 31},
		{"a digest that is too long", tpm2.TPMAlgRSASSA, crypto.SHA256, 33},
		{"no digest", tpm2.TPMAlgRSAPSS, crypto.SHA256, 0},
		{"SHA-1", tpm2.TPMAlgRSASSA, crypto.SHA1, 20},
		{"no hash", tpm2.TPMAlgRSASSA, 0, 32},
		{"an elliptic curve's scheme", tpm2.TPMAlgECDSA, crypto.SHA256, 32},
		{"no scheme", tpm2.TPMAlgNull, crypto.SHA256, 32},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := key.Sign(t.Context(), tt.scheme, tt.hash, make([]byte, tt.digest)); err == nil {
				t.Error("it was signed")
			}
		})
	}
}

func TestSignEndsWithItsContext(t *testing.T) {
	t.Parallel()
	on, proxy := throughProxy(t)
	key := tpmtest.CreateKey(t, on)
	ctx, cancel := context.WithCancel(t.Context())
	proxy.Handle(first(tpm2.TPMCCSign, func(command []byte, forward tpmtest.Forward) ([]byte, error) {
		cancel()
		return forward(command)
	}))
	digest := sha256.Sum256(nil)
	if _, err := key.Sign(ctx, tpm2.TPMAlgRSASSA, crypto.SHA256, digest[:]); err != nil {
		fails(t, err, context.Canceled) // or the answer was faster
	}
	_, err := key.Sign(ctx, tpm2.TPMAlgRSASSA, crypto.SHA256, digest[:])
	fails(t, err, context.Canceled)
	checkSigns(t, key)
}

func TestManySignAtOnce(t *testing.T) {
	t.Parallel()
	on := tpmtest.Connect(t, tpmtest.Bare(t).Device())
	keys := []*tpm.Key{tpmtest.CreateKey(t, on), tpmtest.CreateKey(t, on), tpmtest.CreateKey(t, on), tpmtest.CreateKey(t, on)}
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for range 5 {
				checkSigns(t, keys[i%len(keys)])
			}
		})
	}
	wg.Wait()
}

// The signature is over our digest with our scheme, whatever the response claims.
func TestADishonestSignatureResponseIsRefused(t *testing.T) {
	t.Parallel()
	on, proxy := throughProxy(t)
	key := tpmtest.CreateKey(t, on)
	digest := sha256.Sum256(nil)
	for _, tt := range []struct {
		name   string
		change func(rsp []byte) []byte
	}{
		{"another scheme", func(r []byte) []byte { r[15] = 0x16; return r }},
		{"another hash", func(r []byte) []byte { r[17] = 0x0c; return r }},
		{"a size beyond the response", func(r []byte) []byte { r[18] = 0xff; return r }},
		{"a parameter size beyond the response", func(r []byte) []byte { r[10] = 0xff; return r }},
		{"nothing", func([]byte) []byte { return tpmtest.Response(0) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			proxy.Handle(first(tpm2.TPMCCSign, func(command []byte, forward tpmtest.Forward) ([]byte, error) {
				rsp, err := forward(command)
				return tt.change(rsp), err
			}))
			if _, err := key.Sign(t.Context(), tpm2.TPMAlgRSASSA, crypto.SHA256, digest[:]); err == nil {
				t.Error("it was taken")
			}
		})
	}
}

func TestAKeyWithAPasswordSaysSo(t *testing.T) {
	t.Parallel()
	on := tpmtest.Connect(t, tpmtest.Bare(t).Device())
	file := createForeignWith(t, on, tpm.BindingKeyTemplate(), tpm2.TPMSSensitiveCreate{UserAuth: tpm2.TPM2BAuth{Buffer: []byte("pw")}})
	digest := sha256.Sum256(nil)
	_, err := tpmtest.LoadKey(t, on, file).Sign(t.Context(), tpm2.TPMAlgRSASSA, crypto.SHA256, digest[:])
	if !errors.Is(err, tpm2.TPMRCBadAuth) || !strings.Contains(err.Error(), "has a password") {
		t.Errorf("got %v", err)
	}
}

func TestParents(t *testing.T) {
	t.Parallel()
	t.Run("the persistent storage root is preferred", func(t *testing.T) {
		on := tpmtest.Open(t)
		root, err := on.StorageRoot(t.Context())
		if err != nil || root.Handle != tpm.HandleSRK || root.Algorithm != "RSA-2048" {
			t.Errorf("%+v, %v", root, err)
		}
	})
	t.Run("one that is no storage root is passed over", func(t *testing.T) {
		v := tpmtest.Bare(t)
		on := tpmtest.Connect(t, v.Device())
		derived, err := on.StorageRoot(t.Context())
		if err != nil || derived.Handle != tpm2.TPMRHOwner || derived.Algorithm != "ECC-P256" {
			t.Fatalf("%+v, %v", derived, err)
		}
		for name, change := range map[string]func(*tpm2.TPMTPublic){
			"signs": func(p *tpm2.TPMTPublic) {
				p.ObjectAttributes.Decrypt, p.ObjectAttributes.SignEncrypt = false, true
				asSigner(p)
			},
			"is not noDA":     func(p *tpm2.TPMTPublic) { p.ObjectAttributes.NoDA = false },
			"has a policy":    func(p *tpm2.TPMTPublic) { p.AuthPolicy.Buffer = make([]byte, 32) },
			"is not fixedTPM": func(p *tpm2.TPMTPublic) { p.ObjectAttributes.FixedTPM, p.ObjectAttributes.FixedParent = false, false },
		} {
			t.Run("it "+name, func(t *testing.T) {
				template := tpm2.ECCSRKTemplate
				change(&template)
				persist(t, on, template)
				defer evict(t, on)
				root, err := on.StorageRoot(t.Context())
				if err != nil || !bytes.Equal(root.Name, derived.Name) || root.Handle != tpm2.TPMRHOwner {
					t.Errorf("%+v, %v", root, err)
				}
			})
		}
	})
	t.Run("a parent that is no storage root's handle is refused", func(t *testing.T) {
		on := tpmtest.Open(t)
		file, err := on.CreateKey(t.Context(), tpm.KeyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range []tpm2.TPMHandle{tpm2.TPMRHNull, tpm2.TPMRHEndorsement, tpm2.TPMRHPlatform, 0x80000000, 0x01400001, 0} {
			wrong := *file
			wrong.Parent = h
			if _, err := on.LoadKey(t.Context(), &wrong, tpm.LoadOptions{}); err == nil {
				t.Errorf("parent 0x%08x was taken", uint32(h))
			}
		}
	})
}

func asSigner(p *tpm2.TPMTPublic) {
	p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
		Scheme: tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA,
			Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})},
		CurveID: tpm2.TPMECCNistP256,
	})
}

// persist puts a primary with this template where the storage root is expected.
func persist(t *testing.T, on *tpm.TPM, template tpm2.TPMTPublic) {
	t.Helper()
	do(t, on, func(c transport.TPM) error { return persistAt(t, c, template, tpm.HandleSRK) })
}

func persistAt(t *testing.T, c transport.TPM, template tpm2.TPMTPublic, at tpm2.TPMHandle) error {
	t.Helper()
	rsp, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(template)}.Execute(c)
	if err != nil {
		return err
	}
	defer flush(t, c, rsp.ObjectHandle)
	_, err = tpm2.EvictControl{
		Auth: tpm2.TPMRHOwner, ObjectHandle: tpm2.NamedHandle{Handle: rsp.ObjectHandle, Name: rsp.Name}, PersistentHandle: at,
	}.Execute(c)
	return err
}

func evict(t *testing.T, on *tpm.TPM) {
	t.Helper()
	_, name, err := on.ReadPublic(t.Context(), tpm.HandleSRK)
	if err != nil {
		t.Fatal(err)
	}
	do(t, on, func(c transport.TPM) error {
		_, err := tpm2.EvictControl{
			Auth: tpm2.TPMRHOwner, ObjectHandle: tpm2.NamedHandle{Handle: tpm.HandleSRK, Name: tpm2.TPM2BName{Buffer: name}},
			PersistentHandle: tpm.HandleSRK,
		}.Execute(c)
		return err
	})
}
