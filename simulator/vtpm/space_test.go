package vtpm_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/simulator/vtpm"
	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// primary makes a primary key that differs from others by its seed, and returns handle and Name.
func primary(t *testing.T, on *tpm.TPM, seed byte) *tpm2.CreatePrimaryResponse {
	t.Helper()
	template := tpm2.ECCSRKTemplate
	template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: bytes.Repeat([]byte{seed}, 32)}})
	var made *tpm2.CreatePrimaryResponse
	do(t, on, func(c transport.TPM) error {
		var err error
		made, err = tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(template)}.Execute(c)
		return err
	})
	return made
}

// checkNames checks that what each handle names on a connection is what was made there.
func checkNames(t *testing.T, on *tpm.TPM, made ...*tpm2.CreatePrimaryResponse) {
	t.Helper()
	for _, m := range made {
		_, name, err := on.ReadPublic(t.Context(), m.ObjectHandle)
		if err != nil || !bytes.Equal(name, m.Name.Buffer) {
			t.Errorf("%#x: Name %x, %v, want %x", m.ObjectHandle, name, err, m.Name.Buffer)
		}
	}
}

func flush(c transport.TPM, h tpm2.TPMHandle) error {
	_, err := tpm2.FlushContext{FlushHandle: h}.Execute(c)
	return err
}

func two(t *testing.T) (v *vtpm.TPM, one, other *tpm.TPM) {
	t.Helper()
	v = tpmtest.Bare(t)
	return v, tpmtest.Connect(t, v.Device()), tpmtest.Connect(t, v.Device())
}

// An agent keeps its keys loaded, and programs beside it find all slots free.
func TestEachConnectionHasAllSlotsForItself(t *testing.T) {
	t.Parallel()
	_, one, other := two(t)
	var ones, others []*tpm2.CreatePrimaryResponse
	for i := range byte(3) {
		ones = append(ones, primary(t, one, i))
		others = append(others, primary(t, other, 0x80+i))
	}
	for range 2 {
		checkNames(t, one, ones...)
		checkNames(t, other, others...)
	}
	err := one.Do(t.Context(), createPrimary)
	if !errors.Is(err, tpm2.TPMRCObjectMemory) {
		t.Errorf("a fourth object on one connection: %v", err)
	}
}

func TestHandlesStayTheSameWhileOthersHaveTheirTurn(t *testing.T) {
	t.Parallel()
	_, one, other := two(t)
	a, b, c := primary(t, one, 1), primary(t, one, 2), primary(t, one, 3)
	do(t, one, func(tpm transport.TPM) error { return flush(tpm, a.ObjectHandle) })
	others := primary(t, other, 4)
	checkNames(t, one, b, c) // which the TPM gives other handles than before
	d := primary(t, one, 5)
	checkNames(t, other, others)
	checkNames(t, one, b, c, d)
	if _, _, err := other.ReadPublic(t.Context(), c.ObjectHandle); !errors.Is(err, tpm2.TPMRCReferenceH0) {
		t.Errorf("one's object on the other's connection: %v", err)
	}
}

func TestAConnectionSeesItsOwnObjects(t *testing.T) {
	t.Parallel()
	_, one, other := two(t)
	a, b := primary(t, one, 1), primary(t, one, 2)
	do(t, one, func(tpm transport.TPM) error { return flush(tpm, a.ObjectHandle) })
	primary(t, other, 3)
	see := func(on *tpm.TPM, want ...tpm2.TPMHandle) {
		t.Helper()
		do(t, on, func(c transport.TPM) error {
			if got := handles(t, c, 0x80000000); !slices.Equal(got, want) {
				t.Errorf("sees %x, want %x", got, want)
			}
			return nil
		})
	}
	see(other, 0x80000000)
	see(one, b.ObjectHandle)
	do(t, one, func(c transport.TPM) error {
		if got := handles(t, c, 0x40000000); len(got) == 0 {
			t.Error("the permanent handles are gone")
		}
		return flush(c, b.ObjectHandle)
	})
	see(one)
}

func TestASessionOutlivesTheTurnsOfOthers(t *testing.T) {
	t.Parallel()
	_, one, other := two(t)
	var s tpm2.Session
	do(t, one, func(c transport.TPM) error {
		var err error
		s, _, err = tpm2.HMACSession(c, tpm2.TPMAlgSHA256, 16, tpm2.AESEncryption(128, tpm2.EncryptOut))
		return errors.Join(err, startSession(c), startSession(c))
	})
	for range 3 {
		do(t, other, startSession)
		do(t, one, func(c transport.TPM) error {
			_, err := tpm2.GetRandom{BytesRequested: 8}.Execute(c, s)
			return err
		})
	}
}

// What ends by itself frees its slot, and its handle may come again.
func TestEndedSessionsAndSequencesDoNotComeBack(t *testing.T) {
	t.Parallel()
	v, one, other := two(t)
	var sequence tpm2.TPMHandle
	do(t, one, func(c transport.TPM) error {
		rsp, err := tpm2.HashSequenceStart{HashAlg: tpm2.TPMAlgSHA256}.Execute(c)
		if err != nil {
			return err
		}
		sequence = rsp.SequenceHandle
		_, err = tpm2.SequenceComplete{
			SequenceHandle: tpm2.AuthHandle{Handle: sequence, Auth: tpm2.PasswordAuth(nil)}, Hierarchy: tpm2.TPMRHNull,
		}.Execute(c)
		return err
	})
	a := primary(t, one, 1) // at the place of the sequence
	primary(t, other, 2)
	checkNames(t, one, a)
	if n := len(handles(t, v, 0x80000000)); n != 1 {
		t.Errorf("%d objects are loaded, want 1", n)
	}
	if err := v.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := one.ReadPublic(t.Context(), a.ObjectHandle); !errors.Is(err, tpm2.TPMRCReferenceH0) {
		t.Errorf("after a reset: %v", err)
	}
	b := primary(t, one, 3)
	primary(t, other, 4)
	checkNames(t, one, b)
}

// A connection can flush another one's session, as on a real machine; its owner then gets an error.
func TestASessionThatAnotherFlushedIsForgotten(t *testing.T) {
	t.Parallel()
	_, one, other := two(t)
	var s tpm2.Session
	do(t, one, func(c transport.TPM) error {
		var err error
		s, _, err = tpm2.HMACSession(c, tpm2.TPMAlgSHA256, 16, tpm2.AESEncryption(128, tpm2.EncryptOut))
		return err
	})
	do(t, other, func(c transport.TPM) error { return flush(c, s.Handle()) })
	err := one.Do(t.Context(), func(c transport.TPM) error {
		_, err := tpm2.GetRandom{BytesRequested: 8}.Execute(c, s)
		return err
	})
	if err == nil {
		t.Error("it is still there")
	}
	primary(t, one, 1)
}

// What was loaded directly in the TPM, past the connections, keeps its slots. A client that finds
// none free gets an error, and loses nothing.
func TestAClientIsToldThatNoSlotIsFree(t *testing.T) {
	t.Parallel()
	v, one, other := two(t)
	a := primary(t, one, 1)
	primary(t, other, 2)
	do(t, other, func(c transport.TPM) error { return flush(c, 0x80000000) })
	for range 3 {
		if err := createPrimary(v); err != nil {
			t.Fatal(err)
		}
	}
	err := one.Do(t.Context(), startSession)
	if !errors.Is(err, tpm2.TPMRCObjectMemory) {
		t.Errorf("got %v", err)
	}
	for _, h := range handles(t, v, 0x80000000) {
		if err := flush(v, h); err != nil {
			t.Fatal(err)
		}
	}
	checkNames(t, one, a)
}

// Without a resource manager, what one connection has loaded is missing to the others.
func TestSharedSlotsAreMissingToOthers(t *testing.T) {
	v := tpmtest.Shared(t)
	one, other := tpmtest.Connect(t, v.Device()), tpmtest.Connect(t, v.Device())
	for i := range byte(3) {
		primary(t, one, i)
	}
	err := other.Do(t.Context(), func(c transport.TPM) error {
		_, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(c)
		return err
	})
	if !errors.Is(err, tpm2.TPMRCObjectMemory) {
		t.Errorf("got %v, want TPM_RC_OBJECT_MEMORY", err)
	}
}
