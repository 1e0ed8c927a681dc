package tpm_test

import (
	"bytes"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// Another program puts another attestation key to the handle while this process has the first one
// in mind: the TPM refuses the Name of the first, and is asked again.
func TestAFormerObjectAtAHandleDoesNotSpoilTheNextOne(t *testing.T) {
	t.Parallel()
	v := tpmtest.Simulator(t)
	wire := new(traffic)
	proxy := tpmtest.NewProxy(t, v.Device())
	proxy.Handle(wire.under(nil))
	on := tpmtest.Connect(t, proxy.Device())
	key := newKey(t, on)
	certify := func() (questions int) {
		t.Helper()
		before := wire.count(tpm2.TPMCCReadPublic)
		if _, err := on.Certify(t.Context(), key, handleAK, nil); err != nil {
			t.Error(err)
		}
		return wire.count(tpm2.TPMCCReadPublic) - before
	}
	if first, second := certify(), certify(); first != 1 || second != 0 {
		t.Errorf("the TPM was asked %d times, and then %d times more", first, second)
	}
	_, was, err := on.ReadPublic(t.Context(), handleAK)
	if err != nil {
		t.Fatal(err)
	}
	exchangeAK(t, tpmtest.Connect(t, v.Device()))
	if n := certify(); n == 0 {
		t.Error("the TPM was not asked about the key that is there now")
	}
	if _, is, err := on.ReadPublic(t.Context(), handleAK); err != nil || bytes.Equal(is, was) {
		t.Errorf("the key was not exchanged: %v", err)
	}
}

// exchangeAK puts another restricted signing key to the attestation key's handle.
func exchangeAK(t *testing.T, on *tpm.TPM) {
	t.Helper()
	do(t, on, func(c transport.TPM) error {
		area, err := tpm2.ReadPublic{ObjectHandle: handleAK}.Execute(c)
		if err != nil {
			return err
		}
		public, err := area.OutPublic.Contents()
		if err != nil {
			return err
		}
		template := *public
		template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: bytes.Repeat([]byte{1}, 256)})
		made, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(template)}.Execute(c)
		if err != nil {
			return err
		}
		defer flush(t, c, made.ObjectHandle)
		for _, from := range []tpm2.NamedHandle{{Handle: handleAK, Name: area.Name}, {Handle: made.ObjectHandle, Name: made.Name}} {
			_, err := tpm2.EvictControl{Auth: tpm2.TPMRHOwner, ObjectHandle: &from, PersistentHandle: handleAK}.Execute(c)
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// Another owner puts a storage key that wants a password to the root's handle, and puts the root
// back. What the other one refused is not held against the root.
func TestARootThatWasExchangedForAWhileIsUsedAgain(t *testing.T) {
	t.Parallel()
	v := tpmtest.Simulator(t)
	wire := new(traffic)
	proxy := tpmtest.NewProxy(t, v.Device())
	proxy.Handle(wire.under(nil))
	on, other := tpmtest.Connect(t, proxy.Device()), tpmtest.Connect(t, v.Device())
	create := func() (primaries int) {
		t.Helper()
		before := wire.count(tpm2.TPMCCCreatePrimary)
		if _, err := on.CreateKey(t.Context(), tpm.KeyOptions{Algorithm: tpm.ECDSAP256}); err != nil {
			t.Error(err)
		}
		return wire.count(tpm2.TPMCCCreatePrimary) - before
	}
	create()
	create()
	counted := tpm2.RSASRKTemplate
	counted.ObjectAttributes.NoDA = false // a wrong password is counted
	evict(t, other)
	persist(t, other, counted)
	create()
	evict(t, other)
	persist(t, other, tpm2.RSASRKTemplate)
	create() // finds out that it is back
	if n := create(); n != 0 {
		t.Errorf("%d primaries were made while the root is at its handle", n)
	}
	if state, err := other.State(t.Context()); err != nil || state.Lockout.Tries > 1 {
		t.Errorf("the TPM counts %d failed tries, %v", state.Lockout.Tries, err)
	}
}
