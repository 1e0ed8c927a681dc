package tpm_test

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
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

// Where the simulated Azure machine of tpmtest keeps what its platform gives it.
const (
	handleAK        tpm2.TPMHandle = 0x81000003
	nvHCLReport     tpm2.TPMHandle = 0x01400001
	nvAKCertificate tpm2.TPMHandle = 0x01C101D0
)

// checkSigns lets a key sign and verifies it.
func checkSigns(t testing.TB, k *tpm.Key) {
	t.Helper()
	if _, err := sign(t, k); err != nil {
		t.Error(err)
	}
}

// sign signs a digest with the usual scheme of the key. A signature that does not verify is an
// error of the test.
func sign(t testing.TB, k *tpm.Key) ([]byte, error) {
	t.Helper()
	digest := sha256.Sum256([]byte("message"))
	_, elliptic := k.PublicKey().(*ecdsa.PublicKey)
	scheme := tpm2.TPMAlgRSASSA
	if elliptic {
		scheme = tpm2.TPMAlgECDSA
	}
	sig, err := k.Sign(t.Context(), scheme, crypto.SHA256, digest[:])
	if err != nil {
		return nil, err
	}
	if !verifies(k.PublicKey(), crypto.SHA256, digest[:], sig) {
		t.Error("the signature does not verify")
	}
	return sig, nil
}

// verifies checks an ECDSA or PKCS #1 v1.5 signature.
func verifies(public crypto.PublicKey, hash crypto.Hash, digest, sig []byte) bool {
	if elliptic, ok := public.(*ecdsa.PublicKey); ok {
		return ecdsa.VerifyASN1(elliptic, digest, sig)
	}
	return rsa.VerifyPKCS1v15(public.(*rsa.PublicKey), hash, digest, sig) == nil
}

// create makes a key's file, on P-256 if the options do not say otherwise: it is made in a moment.
func create(t testing.TB, on *tpm.TPM, options tpm.KeyOptions) *tpm.KeyFile {
	t.Helper()
	options.Algorithm = cmp.Or(options.Algorithm, tpm.ECDSAP256)
	file, err := on.CreateKey(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// load loads a key file. The key is flushed when the test ends.
func load(t testing.TB, on *tpm.TPM, file *tpm.KeyFile, options tpm.LoadOptions) *tpm.Key {
	t.Helper()
	k, err := on.LoadKey(t.Context(), file, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Close() }) // always nil
	return k
}

// newKey makes and loads a key on P-256 that needs nothing.
func newKey(t testing.TB, on *tpm.TPM) *tpm.Key {
	t.Helper()
	return load(t, on, create(t, on, tpm.KeyOptions{}), tpm.LoadOptions{})
}

// do runs commands and expects success.
func do(t testing.TB, on *tpm.TPM, f func(transport.TPM) error) {
	t.Helper()
	if err := on.Do(t.Context(), f); err != nil {
		t.Fatal(err)
	}
}

// Kinds of handles, as TPM2_GetCapability counts them (TPM 2.0 Part 2, 7.2).
const (
	loadedSessions = 0x02000000
	savedSessions  = 0x03000000
	transient      = 0x80000000
	persistent     = 0x81000000
)

// handles lists the handles of a kind.
func handles(c transport.TPM, kind uint32) ([]tpm2.TPMHandle, error) {
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: kind, PropertyCount: 64}.Execute(c)
	if err != nil {
		return nil, err
	}
	list, err := rsp.CapabilityData.Data.Handles()
	if err != nil {
		return nil, err
	}
	return list.Handle, nil
}

// present lists the handles of a kind.
func present(t testing.TB, on *tpm.TPM, kind uint32) (list []tpm2.TPMHandle) {
	t.Helper()
	do(t, on, func(c transport.TPM) (err error) {
		list, err = handles(c, kind)
		return err
	})
	return list
}

// transients lists the transient objects that are loaded.
func transients(t testing.TB, on *tpm.TPM) []tpm2.TPMHandle {
	t.Helper()
	return present(t, on, transient)
}

// awaitTransients waits until this many transient objects are loaded.
func awaitTransients(t testing.TB, on *tpm.TPM, want int) {
	t.Helper()
	await(t, on, transient, want)
}

// await waits until there are this many handles of a kind.
func await(t testing.TB, on *tpm.TPM, kind uint32, want int) {
	t.Helper()
	var got []tpm2.TPMHandle
	until(t, func() bool { got = present(t, on, kind); return len(got) == want }, func() string {
		return fmt.Sprintf("%x are there, want %d", got, want)
	})
}

// until waits until something holds.
func until(t testing.TB, holds func() bool, complaint func() string) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal(complaint())
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

// createForeign makes a key with any template with go-tpm alone, as another program might, and
// returns its file.
func createForeign(t testing.TB, on *tpm.TPM, template tpm2.TPMTPublic) *tpm.KeyFile {
	t.Helper()
	return createForeignWith(t, on, template, tpm2.TPMSSensitiveCreate{})
}

func createForeignWith(t testing.TB, on *tpm.TPM, template tpm2.TPMTPublic, sensitive tpm2.TPMSSensitiveCreate) *tpm.KeyFile {
	t.Helper()
	var file *tpm.KeyFile
	do(t, on, func(c transport.TPM) error {
		root, done := storageRoot(t, c)
		defer done()
		rsp, err := tpm2.Create{
			ParentHandle: root, InPublic: tpm2.New2B(template), InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &sensitive},
		}.Execute(c)
		if err != nil {
			return err
		}
		file = &tpm.KeyFile{Parent: tpm2.TPMRHOwner, EmptyAuth: len(sensitive.UserAuth.Buffer) == 0, Public: tpm2.Marshal(rsp.OutPublic), Private: tpm2.Marshal(rsp.OutPrivate)}
		return nil
	})
	return file
}

// loadRaw loads a key file under the H-2 primary with go-tpm alone. The caller flushes it.
func loadRaw(t testing.TB, c transport.TPM, file *tpm.KeyFile) tpm2.NamedHandle {
	t.Helper()
	root, done := storageRoot(t, c)
	defer done()
	return loadUnder(t, c, root, file)
}

// loadUnder loads a key file under its parent with go-tpm alone. The caller flushes it.
func loadUnder(t testing.TB, c transport.TPM, parent tpm2.AuthHandle, file *tpm.KeyFile) tpm2.NamedHandle {
	t.Helper()
	rsp, err := tpm2.Load{
		ParentHandle: parent,
		InPublic:     tpm2.BytesAs2B[tpm2.TPMTPublic](file.Public[2:]),
		InPrivate:    tpm2.TPM2BPrivate{Buffer: file.Private[2:]},
	}.Execute(c)
	if err != nil {
		t.Fatal(err)
	}
	return tpm2.NamedHandle{Handle: rsp.ObjectHandle, Name: rsp.Name}
}
