package tpm_test

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"go.uber.org/goleak"

	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

func TestMain(m *testing.M) {
	tpmtest.Relay()
	goleak.VerifyTestMain(m)
}

// checkSigns lets a key sign and verifies it.
func checkSigns(t testing.TB, k *tpm.Key) {
	t.Helper()
	digest := sha256.Sum256([]byte("message"))
	sig, err := k.Sign(t.Context(), tpm2.TPMAlgRSASSA, crypto.SHA256, digest[:])
	if err != nil {
		t.Error(err)
		return
	}
	if err := rsa.VerifyPKCS1v15(k.PublicKey().(*rsa.PublicKey), crypto.SHA256, digest[:], sig); err != nil {
		t.Error(err)
	}
}

// do runs commands and expects success.
func do(t testing.TB, on *tpm.TPM, f func(transport.TPM) error) {
	t.Helper()
	if err := on.Do(t.Context(), f); err != nil {
		t.Fatal(err)
	}
}

// transients lists the transient objects that are loaded.
func transients(t testing.TB, on *tpm.TPM) []tpm2.TPMHandle {
	t.Helper()
	var handles []tpm2.TPMHandle
	do(t, on, func(c transport.TPM) error {
		rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: 0x80000000, PropertyCount: 64}.Execute(c)
		if err != nil {
			return err
		}
		list, err := rsp.CapabilityData.Data.Handles()
		if err != nil {
			return err
		}
		handles = list.Handle
		return nil
	})
	return handles
}

// awaitTransients waits until this many transient objects are loaded.
func awaitTransients(t testing.TB, on *tpm.TPM, want int) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for {
		got := transients(t, on)
		if len(got) == want {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%x are loaded, want %d objects", got, want)
		}
	}
}

// fails expects an error that is target.
func fails(t testing.TB, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Errorf("got %v, want %v", err, target)
	}
}

// storageRoot makes the H-2 primary with go-tpm alone.
func storageRoot(t testing.TB, c transport.TPM) (tpm2.AuthHandle, func()) {
	t.Helper()
	template := tpm2.ECCSRKTemplate
	template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
	rsp, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(template)}.Execute(c)
	if err != nil {
		t.Fatal(err)
	}
	return tpm2.AuthHandle{Handle: rsp.ObjectHandle, Name: rsp.Name, Auth: tpm2.PasswordAuth(nil)}, func() { flush(t, c, rsp.ObjectHandle) }
}

func flush(t testing.TB, c transport.TPM, h tpm2.TPMHandle) {
	t.Helper()
	if _, err := (tpm2.FlushContext{FlushHandle: h}).Execute(c); err != nil {
		t.Error(err)
	}
}

// createForeign makes a key with any template with go-tpm alone, as another program might, and returns its file.
func createForeign(t testing.TB, on *tpm.TPM, template tpm2.TPMTPublic) *tpm.KeyFile {
	t.Helper()
	var file *tpm.KeyFile
	do(t, on, func(c transport.TPM) error {
		root, done := storageRoot(t, c)
		defer done()
		rsp, err := tpm2.Create{ParentHandle: root, InPublic: tpm2.New2B(template)}.Execute(c)
		if err != nil {
			return err
		}
		file = &tpm.KeyFile{Parent: tpm2.TPMRHOwner, EmptyAuth: true, Public: tpm2.Marshal(rsp.OutPublic), Private: tpm2.Marshal(rsp.OutPrivate)}
		return nil
	})
	return file
}

// loadRaw loads a key file under the H-2 primary with go-tpm alone. The caller flushes it.
func loadRaw(t testing.TB, c transport.TPM, file *tpm.KeyFile) tpm2.NamedHandle {
	t.Helper()
	root, done := storageRoot(t, c)
	defer done()
	rsp, err := tpm2.Load{
		ParentHandle: root,
		InPublic:     tpm2.BytesAs2B[tpm2.TPMTPublic](file.Public[2:]),
		InPrivate:    tpm2.TPM2BPrivate{Buffer: file.Private[2:]},
	}.Execute(c)
	if err != nil {
		t.Fatal(err)
	}
	return tpm2.NamedHandle{Handle: rsp.ObjectHandle, Name: rsp.Name}
}
