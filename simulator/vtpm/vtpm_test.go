package vtpm_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"go.uber.org/goleak"

	"github.com/keyagent/keyagent/attest/collect"
	"github.com/keyagent/keyagent/simulator/vtpm"
	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func do(t *testing.T, on *tpm.TPM, f func(transport.TPM) error) {
	t.Helper()
	if err := on.Do(t.Context(), f); err != nil {
		t.Fatal(err)
	}
}

func createPrimary(c transport.TPM) error {
	_, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(c)
	return err
}

func startSession(c transport.TPM) error {
	_, _, err := tpm2.HMACSession(c, tpm2.TPMAlgSHA256, 16)
	return err
}

// A client that dies, even by kill -9, must not take the TPM's slots with it.
func TestObjectsOfAClosedConnectionAreFlushed(t *testing.T) {
	t.Parallel()
	v := tpmtest.Bare(t)
	for range 4 { // each client finds all slots free, at once
		on, err := tpm.Open(t.Context(), tpm.Config{Device: v.Device()})
		if err != nil {
			t.Fatal(err)
		}
		do(t, on, func(c transport.TPM) error {
			return errors.Join(createPrimary(c), createPrimary(c), createPrimary(c), startSession(c), startSession(c), startSession(c))
		})
		if err := on.Close(); err != nil {
			t.Fatal(err)
		}
	}
	tpmtest.CreateKey(t, tpmtest.Connect(t, v.Device()))
}

func handles(t *testing.T, c transport.TPM, from uint32) []tpm2.TPMHandle {
	t.Helper()
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: from, PropertyCount: 64}.Execute(c)
	if err != nil {
		t.Fatal(err)
	}
	list, err := rsp.CapabilityData.Data.Handles()
	if err != nil {
		t.Fatal(err)
	}
	return list.Handle
}

// tpm2-tools hand a policy session from program to program like this, on the kernel's resource
// manager, too.
func TestASavedSessionOutlivesItsConnection(t *testing.T) {
	t.Parallel()
	v := tpmtest.Bare(t)
	var context tpm2.TPMSContext
	on, err := tpm.Open(t.Context(), tpm.Config{Device: v.Device()})
	if err != nil {
		t.Fatal(err)
	}
	do(t, on, func(c transport.TPM) error {
		s, _, err := tpm2.PolicySession(c, tpm2.TPMAlgSHA256, 16)
		if err != nil {
			return err
		}
		rsp, err := tpm2.ContextSave{SaveHandle: s.Handle()}.Execute(c)
		if err == nil {
			context = rsp.Context
		}
		return err
	})
	if err := on.Close(); err != nil {
		t.Fatal(err)
	}
	on = tpmtest.Connect(t, v.Device())
	do(t, on, func(c transport.TPM) error {
		_, err := tpm2.ContextLoad{Context: context}.Execute(c)
		return err
	})
}

func TestOneConnectionsEndLeavesAnothersObjects(t *testing.T) {
	t.Parallel()
	v := tpmtest.Bare(t)
	stays := tpmtest.Connect(t, v.Device())
	goes, err := tpm.Open(t.Context(), tpm.Config{Device: v.Device()})
	if err != nil {
		t.Fatal(err)
	}
	do(t, goes, createPrimary)
	do(t, stays, createPrimary)
	if err := goes.Close(); err != nil {
		t.Fatal(err)
	}
	do(t, stays, createPrimary)
	do(t, stays, createPrimary)
	if n := len(handles(t, v, 0x80000000)); n != 3 {
		t.Errorf("%d objects are loaded, want the 3 of the connection that is open", n)
	}
}

func TestAConnectionCannotUseAnothersObjects(t *testing.T) {
	t.Parallel()
	v := tpmtest.Bare(t)
	owner, other := tpmtest.Connect(t, v.Device()), tpmtest.Connect(t, v.Device())
	do(t, owner, createPrimary)
	const loaded = 0x80000000
	use := func(on *tpm.TPM) error { _, _, err := on.ReadPublic(t.Context(), loaded); return err }
	flush := func(on *tpm.TPM) error {
		return on.Do(t.Context(), func(c transport.TPM) error {
			_, err := tpm2.FlushContext{FlushHandle: tpm2.TPMHandle(loaded)}.Execute(c)
			return err
		})
	}
	if err := use(other); !errors.Is(err, tpm2.TPMRCReferenceH0) {
		t.Errorf("using it: %v", err)
	}
	if err := flush(other); !errors.Is(err, tpm2.TPMRCHandle) {
		t.Errorf("flushing it: %v", err)
	}
	if err := errors.Join(use(owner), flush(owner)); err != nil {
		t.Error(err)
	}
}

func TestAzureLayout(t *testing.T) {
	t.Parallel()
	v := tpmtest.Simulator(t)
	on := tpmtest.Connect(t, v.Device())
	area, _, err := on.ReadPublic(t.Context(), collect.HandleAK)
	if err != nil {
		t.Fatal(err)
	}
	want := []byte{0, 1, 0, 0x0b, 0, 5, 4, 0x72, 0, 0, 0, 0x10, 0, 0x14, 0, 0x0b, 8, 0, 0, 0, 0, 0, 1, 0}
	if len(area) != 280 || !bytes.HasPrefix(area, want) || !bytes.Equal(area, v.AKPublic()) {
		t.Errorf("the attestation key's public area has %d bytes and begins % x", len(area), area[:24])
	}
	root, err := on.StorageRoot(t.Context())
	if err != nil || root.Handle != 0x81000001 || root.Algorithm != "RSA-2048" {
		t.Errorf("storage root %+v, %v", root, err)
	}
	if _, err := on.ReadNV(t.Context(), collect.NVAKCertificate); !errors.Is(err, tpm.ErrNoNVIndex) {
		t.Errorf("AK certificate before there is one: %v", err)
	}
}

// qualifiedSigner of a statement is made of the hierarchy's handle: this is how a verifier knows an
// endorsement primary.
func TestTheAttestationKeyIsAnEndorsementPrimary(t *testing.T) {
	t.Parallel()
	v := tpmtest.Simulator(t)
	rsp, err := tpm2.ReadPublic{ObjectHandle: collect.HandleAK}.Execute(v)
	if err != nil {
		t.Fatal(err)
	}
	h := tpm2.HandleName(tpm2.TPMRHEndorsement)
	digest := sum(append(h.Buffer, rsp.Name.Buffer...))
	if !bytes.Equal(rsp.QualifiedName.Buffer, append([]byte{0, 0x0b}, digest...)) {
		t.Errorf("qualified name %x", rsp.QualifiedName.Buffer)
	}
}

func TestResetKeepsWhatARebootKeeps(t *testing.T) {
	t.Parallel()
	v := tpmtest.Simulator(t)
	on := tpmtest.Connect(t, v.Device())
	ak := v.AKPublic()
	if err := v.SetAKCertificate(t.Context(), []byte("certificate")); err != nil {
		t.Fatal(err)
	}
	key := tpmtest.CreateKey(t, on)
	extend(t, on)
	before, err := on.Quote(t.Context(), collect.HandleAK, []int{7}, nil)
	if err != nil {
		t.Fatal(err)
	}
	plant(t, on)
	if err := v.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(ak, v.AKPublic()) {
		t.Error("the attestation key changed")
	}
	if n := len(handles(t, v, 0x80000000)); n != 0 {
		t.Errorf("%d objects survived", n)
	}
	if _, err := on.Certify(t.Context(), key, collect.HandleAK, nil); err != nil {
		t.Errorf("after the reset, with something else planted at the attestation key's handle before it: %v", err)
	}
	after, err := on.Quote(t.Context(), collect.HandleAK, []int{7}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(before.PCRs[7], after.PCRs[7]) || !bytes.Equal(after.PCRs[7], make([]byte, 32)) {
		t.Errorf("PCR 7 was %x and is %x", before.PCRs[7], after.PCRs[7])
	}
	if der, err := on.ReadNV(t.Context(), collect.NVAKCertificate); err != nil || string(der) != "certificate" {
		t.Errorf("AK certificate %q, %v", der, err)
	}
}

func extend(t *testing.T, on *tpm.TPM) {
	t.Helper()
	do(t, on, func(c transport.TPM) error {
		_, err := tpm2.PCRExtend{
			PCRHandle: tpm2.AuthHandle{Handle: 7, Auth: tpm2.PasswordAuth(nil)},
			Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: make([]byte, 32)}}},
		}.Execute(c)
		return err
	})
}

// plant evicts the attestation key and puts another key in its place, as root in the guest can.
func plant(t *testing.T, on *tpm.TPM) {
	t.Helper()
	_, name, err := on.ReadPublic(t.Context(), collect.HandleAK)
	if err != nil {
		t.Fatal(err)
	}
	do(t, on, func(c transport.TPM) error {
		_, err := tpm2.EvictControl{Auth: tpm2.TPMRHOwner, PersistentHandle: collect.HandleAK,
			ObjectHandle: tpm2.NamedHandle{Handle: collect.HandleAK, Name: tpm2.TPM2BName{Buffer: name}}}.Execute(c)
		if err != nil {
			return err
		}
		rsp, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(c)
		if err != nil {
			return err
		}
		_, err = tpm2.EvictControl{Auth: tpm2.TPMRHOwner, PersistentHandle: collect.HandleAK,
			ObjectHandle: tpm2.NamedHandle{Handle: rsp.ObjectHandle, Name: rsp.Name}}.Execute(c)
		return err
	})
}

func TestThePlatformHierarchyIsClosed(t *testing.T) {
	t.Parallel()
	v := tpmtest.Simulator(t)
	err := tpmtest.Connect(t, v.Device()).Do(t.Context(), func(c transport.TPM) error {
		_, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHPlatform, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(c)
		return err
	})
	if !errors.Is(err, tpm2.TPMRCHierarchy) {
		t.Errorf("the guest's attempt: %v", err)
	}
}

func TestSetAKCertificate(t *testing.T) {
	t.Parallel()
	v := tpmtest.Simulator(t)
	on := tpmtest.Connect(t, v.Device())
	for _, size := range []int{1, 1024, 1612, 2048, 5} {
		want := bytes.Repeat([]byte{byte(size)}, size)
		if err := v.SetAKCertificate(t.Context(), want); err != nil {
			t.Fatal(err)
		}
		got, err := on.ReadNV(t.Context(), collect.NVAKCertificate)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: read %d, %v", size, len(got), err)
		}
	}
	for _, size := range []int{0, 2049} {
		if v.SetAKCertificate(t.Context(), make([]byte, size)) == nil {
			t.Errorf("%d bytes were taken", size)
		}
	}
	// The guest may read it, and nothing else: the index' authorization value is not empty.
	do(t, on, func(c transport.TPM) error {
		public, err := tpm2.NVReadPublic{NVIndex: collect.NVAKCertificate}.Execute(c)
		if err != nil {
			return err
		}
		index := tpm2.AuthHandle{Handle: collect.NVAKCertificate, Name: public.NVName, Auth: tpm2.PasswordAuth(nil)}
		named := tpm2.NamedHandle{Handle: collect.NVAKCertificate, Name: public.NVName}
		if _, err := (tpm2.NVWrite{AuthHandle: index, NVIndex: named, Data: tpm2.TPM2BMaxNVBuffer{Buffer: []byte{1}}}).Execute(c); err == nil {
			t.Error("the guest wrote the AK certificate")
		}
		if _, err := (tpm2.NVUndefineSpace{AuthHandle: tpm2.TPMRHOwner, NVIndex: named}).Execute(c); err == nil {
			t.Error("the guest removed the AK certificate")
		}
		return nil
	})
}

func TestStartWaitsForTheOtherTPM(t *testing.T) {
	t.Parallel()
	first := tpmtest.Bare(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	cfg := vtpm.Config{Socket: filepath.Join(filepath.Dir(first.Device()[len("unix:"):]), "second.sock")}
	if _, err := vtpm.Start(ctx, cfg); !errors.Is(err, context.Canceled) {
		t.Errorf("a second TPM at the same time: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := vtpm.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := second.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := second.Reset(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("reset of a closed TPM: %v", err)
	}
}

func TestACommandThatIsNoneEndsItsConnectionOnly(t *testing.T) {
	t.Parallel()
	v := tpmtest.Bare(t)
	for _, b := range [][]byte{[]byte("GET / HTTP/1.1\r\n\r\n"), {0x80, 1, 0, 0, 0, 9, 0, 0, 0, 0}, {0x80, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}} {
		conn, err := net.Dial("unix", v.Device()[len("unix:"):])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(b); err != nil {
			t.Fatal(err)
		}
		if n, err := conn.Read(make([]byte, 1)); err == nil {
			t.Errorf("answered with %d bytes", n)
		}
		_ = conn.Close()
	}
	tpmtest.CreateKey(t, tpmtest.Connect(t, v.Device()))
}
