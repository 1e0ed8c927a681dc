package tpm_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// This file moves, frees and makes anew the storage keys that keys are under. No key may be called
// lost, or stop working, where its parent can be found.

// elsewhere is where a storage key is moved to.
const elsewhere tpm2.TPMHandle = 0x81000042

const ownersPassword = "the owner's own"

// machineOf is one whose storage root is the primary of a template, at a handle or, if that is 0,
// derived.
type machineOf struct {
	name     string
	template tpm2.TPMTPublic
	at       tpm2.TPMHandle
}

func keyFileRoot() tpm2.TPMTPublic {
	t := tpm2.ECCSRKTemplate
	t.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
	return t
}

func emptyRSARoot() tpm2.TPMTPublic {
	t := tpm2.RSASRKTemplate
	t.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{})
	return t
}

func without(noDA tpm2.TPMTPublic) tpm2.TPMTPublic {
	noDA.ObjectAttributes.NoDA = false
	return noDA
}

type machine interface {
	transport.TPM
	Device() string
}

func (m machineOf) start(t *testing.T) machine {
	t.Helper()
	bare := tpmtest.Bare(t)
	if m.at != 0 {
		putPrimary(t, bare, tpm2.TPMRHOwner, m.template, m.at, "")
	}
	return bare
}

func password(h tpm2.TPMHandle, value string) tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: h, Auth: tpm2.PasswordAuth([]byte(value))}
}

// putPrimary makes a primary persistent, as an owner with the password.
func putPrimary(t *testing.T, c transport.TPM, hierarchy tpm2.TPMHandle, template tpm2.TPMTPublic, at tpm2.TPMHandle, ownerAuth string) {
	t.Helper()
	auth := password(hierarchy, "")
	if hierarchy == tpm2.TPMRHOwner {
		auth = password(hierarchy, ownerAuth)
	}
	rsp, err := tpm2.CreatePrimary{PrimaryHandle: auth, InPublic: tpm2.New2B(template)}.Execute(c)
	if err != nil {
		t.Fatal(err)
	}
	defer flush(t, c, rsp.ObjectHandle)
	_, err = tpm2.EvictControl{
		Auth: password(tpm2.TPMRHOwner, ownerAuth), ObjectHandle: tpm2.NamedHandle{Handle: rsp.ObjectHandle, Name: rsp.Name}, PersistentHandle: at,
	}.Execute(c)
	if err != nil {
		t.Fatal(err)
	}
}

func free(t *testing.T, c transport.TPM, at tpm2.TPMHandle) {
	t.Helper()
	rsp, err := tpm2.ReadPublic{ObjectHandle: at}.Execute(c)
	if err != nil {
		t.Fatal(err)
	}
	_, err = tpm2.EvictControl{
		Auth: password(tpm2.TPMRHOwner, ""), ObjectHandle: tpm2.NamedHandle{Handle: at, Name: rsp.Name}, PersistentHandle: at,
	}.Execute(c)
	if err != nil {
		t.Fatal(err)
	}
}

func setOwnerPassword(t *testing.T, c transport.TPM) {
	t.Helper()
	_, err := tpm2.HierarchyChangeAuth{
		AuthHandle: password(tpm2.TPMRHOwner, ""), NewAuth: tpm2.TPM2BAuth{Buffer: []byte(ownersPassword)},
	}.Execute(c)
	if err != nil {
		t.Fatal(err)
	}
}

// switchOff disables a hierarchy until the next boot (TPM2_HierarchyControl, TPM 2.0 Part 3, 24.2).
func switchOff(t *testing.T, c transport.TPM, hierarchy tpm2.TPMHandle) {
	t.Helper()
	b := []byte{0x80, 0x02, 0, 0, 0, 0}
	for _, word := range []uint32{uint32(tpm2.TPMCCHierarchyControl), uint32(tpm2.TPMRHPlatform), 9, 0x40000009} {
		b = binary.BigEndian.AppendUint32(b, word)
	}
	b = append(b, 0, 0, 0, 0, 0)
	b = append(binary.BigEndian.AppendUint32(b, uint32(hierarchy)), 0)
	binary.BigEndian.PutUint32(b[2:], uint32(len(b)))
	rsp, err := c.Send(b)
	if err != nil || binary.BigEndian.Uint32(rsp[6:]) != 0 {
		t.Fatalf("%x, %v", rsp, err)
	}
}

// known opens a TPM as a later process does, which knows the storage root.
func known(t *testing.T, device string, root []byte) *tpm.TPM {
	t.Helper()
	return tpmtest.ConnectWith(t, tpm.Config{Device: device, StorageRoot: root})
}

// checkLoads loads a file with and without a note of its parent, and signs.
func checkLoads(t *testing.T, on *tpm.TPM, file *tpm.KeyFile) {
	t.Helper()
	derived, err := on.PrimaryName(t.Context(), 0)
	if err != nil {
		t.Logf("the derived primary cannot be made here: %v", err)
	}
	for name, parent := range map[string][]byte{"noted parent": file.ParentName, "unknown parent": nil, "wrong note": append([]byte{0, 0x0b}, make([]byte, 32)...),
		"the note of another that is there": derived} {
		key, err := on.LoadKey(t.Context(), file, tpm.LoadOptions{Parent: parent})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		checkSigns(t, key)
		_ = key.Close() // always nil
	}
}

func TestAKeyIsLoadedWhereverItsParentIs(t *testing.T) {
	t.Parallel()
	const srk = tpm.HandleSRK
	roots := []machineOf{
		{"RSA at the handle, as on Azure", tpm2.RSASRKTemplate, srk},
		{"RSA with an empty unique field at the handle", emptyRSARoot(), srk},
		{"ECC at the handle", keyFileRoot(), srk},
		{"ECC with zeros in the unique field at the handle", tpm2.ECCSRKTemplate, srk},
		{"derived", keyFileRoot(), 0},
	}
	for name, change := range map[string]func(t *testing.T, c transport.TPM, m machineOf){
		"it is freed": func(t *testing.T, c transport.TPM, m machineOf) {
			if m.at != 0 {
				free(t, c, m.at)
			}
		},
		"it gets a password of its own": func(t *testing.T, c transport.TPM, m machineOf) {
			if m.at != 0 {
				free(t, c, m.at)
			}
			putLocked(t, c, m.template, srk)
		},
		"it is moved, and the owner gets a password": func(t *testing.T, c transport.TPM, m machineOf) {
			putPrimary(t, c, tpm2.TPMRHOwner, m.template, elsewhere, "")
			if m.at != 0 {
				free(t, c, m.at)
			}
			setOwnerPassword(t, c)
		},
		"it is moved, and another's is in its place": func(t *testing.T, c transport.TPM, m machineOf) {
			putPrimary(t, c, tpm2.TPMRHOwner, m.template, elsewhere, "")
			if m.at != 0 {
				free(t, c, m.at)
			}
			putPrimary(t, c, tpm2.TPMRHOwner, without(emptyRSARoot()), srk, "")
		},
		"the owner gets a password, and it is made persistent": func(t *testing.T, c transport.TPM, m machineOf) {
			setOwnerPassword(t, c)
			if m.at == 0 {
				putPrimary(t, c, tpm2.TPMRHOwner, m.template, srk, ownersPassword)
			}
		},
	} {
		for _, m := range roots {
			t.Run(m.name+", "+name, func(t *testing.T) {
				v := m.start(t)
				before := tpmtest.Connect(t, v.Device())
				file := create(t, before, tpm.KeyOptions{})
				running := load(t, before, file, tpm.LoadOptions{})
				checkSigns(t, running)
				change(t, v, m)
				checkSigns(t, running)
				on := known(t, v.Device(), file.ParentName)
				checkLoads(t, on, file)
				checkLoads(t, on, create(t, on, tpm.KeyOptions{}))
				checkLoads(t, before, file)
			})
		}
	}
}

// A key that was adopted may be under any storage key.
func TestAnAdoptedKeyIsLoadedWhereverItsParentIs(t *testing.T) {
	t.Parallel()
	for name, template := range map[string]tpm2.TPMTPublic{
		"RSA of tpm2-tools": without(emptyRSARoot()), "ECC of tpm2-tools": without(keyFileRoot()), "of the TCG": tpm2.RSASRKTemplate,
	} {
		t.Run(name, func(t *testing.T) {
			v := tpmtest.Simulator(t)
			const first tpm2.TPMHandle = 0x81000005
			putPrimary(t, v, tpm2.TPMRHOwner, template, first, "")
			file := createUnder(t, v, first, "")
			on := tpmtest.Connect(t, v.Device())
			checkLoads(t, on, file)
			putPrimary(t, v, tpm2.TPMRHOwner, template, elsewhere, "")
			free(t, v, first)
			checkLoads(t, on, file)
			free(t, v, elsewhere)
			checkLoads(t, on, file)
			wrong := *file
			wrong.Parent = tpm2.TPMRHOwner // what tpm2_encodeobject writes for any transient parent
			checkLoads(t, on, &wrong)
		})
	}
}

// createUnder makes a key under a persistent storage key with go-tpm alone.
func createUnder(t *testing.T, c transport.TPM, parent tpm2.TPMHandle, auth string) *tpm.KeyFile {
	t.Helper()
	public, err := tpm2.ReadPublic{ObjectHandle: parent}.Execute(c)
	if err != nil {
		t.Fatal(err)
	}
	rsp, err := tpm2.Create{
		ParentHandle: tpm2.AuthHandle{Handle: parent, Name: public.Name, Auth: tpm2.PasswordAuth([]byte(auth))}, InPublic: tpm2.New2B(tpm.BindingKeyTemplate()),
	}.Execute(c)
	if err != nil {
		t.Fatal(err)
	}
	return &tpm.KeyFile{Parent: parent, EmptyAuth: true, Public: tpm2.Marshal(rsp.OutPublic), Private: tpm2.Marshal(rsp.OutPrivate), ParentName: public.Name.Buffer}
}

// unknownParent expects that a key is not called lost, and returns what is said.
func unknownParent(t *testing.T, err error) *tpm.ParentError {
	t.Helper()
	parent, ok := errors.AsType[*tpm.ParentError](err)
	if !ok || parent.Lost() || errors.Is(err, tpm.ErrForeignTPM) || errors.Is(err, tpm.ErrStorageRoot) || !errors.Is(err, tpm.ErrParentUnknown) {
		t.Fatalf("got %v", err)
	}
	return parent
}

func TestAParentThatCouldNotBeLookedForIsNotLost(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change   func(t *testing.T, c transport.TPM)
		says     string
		password bool
	}{
		"the owner has a password":   {func(t *testing.T, c transport.TPM) { free(t, c, tpm.HandleSRK); setOwnerPassword(t, c) }, "has a password", true},
		"the owner hierarchy is off": {func(t *testing.T, c transport.TPM) { switchOff(t, c, tpm2.TPMRHOwner) }, "TPM_RC_HIERARCHY", false},
		"the endorsement hierarchy is off, and the TPM has other seeds": {func(t *testing.T, c transport.TPM) {
			if _, err := (tpm2.Clear{AuthHandle: password(tpm2.TPMRHPlatform, "")}).Execute(c); err != nil {
				t.Fatal(err)
			}
			switchOff(t, c, tpm2.TPMRHEndorsement)
		}, "endorsement hierarchy", false},
	} {
		t.Run(name, func(t *testing.T) {
			v := tpmtest.Simulator(t)
			file := create(t, tpmtest.Connect(t, v.Device()), tpm.KeyOptions{})
			tt.change(t, v)
			on := known(t, v.Device(), file.ParentName)
			_, rootErr := on.StorageRoot(t.Context())
			_, loadErr := on.LoadKey(t.Context(), file, tpm.LoadOptions{})
			for _, err := range []error{rootErr, loadErr} {
				parent := unknownParent(t, err)
				if !strings.Contains(err.Error(), tt.says) || parent.Password != tt.password || tt.password != (len(parent.Commands) == 2) {
					t.Errorf("%v\n%+v", err, parent)
				}
				for _, command := range parent.Commands {
					if strings.Contains(command, "0x81000001") {
						t.Errorf("a guess would stand where the platform keeps its root: %s", command)
					}
				}
			}
		})
	}
}

func TestTheOwnersPasswordMakesTheRootAnew(t *testing.T) {
	t.Parallel()
	for _, m := range []machineOf{{"RSA", tpm2.RSASRKTemplate, tpm.HandleSRK}, {"derived", keyFileRoot(), 0}} {
		t.Run(m.name, func(t *testing.T) {
			v := m.start(t)
			file := create(t, tpmtest.Connect(t, v.Device()), tpm.KeyOptions{})
			if m.at != 0 {
				free(t, v, m.at)
			}
			setOwnerPassword(t, v)
			proxy := tpmtest.NewProxy(t, v.Device())
			var wire traffic
			proxy.Handle(wire.under(nil))
			with := func(value secret.String, err error) *tpm.TPM {
				return tpmtest.ConnectWith(t, tpm.Config{Device: proxy.Device(), StorageRoot: file.ParentName,
					OwnerAuth: func() (secret.String, error) { return value, err }})
			}
			on := with(secret.New(ownersPassword), nil)
			checkLoads(t, on, file)
			key := load(t, on, file, tpm.LoadOptions{})
			if err := key.Persist(t.Context(), place); err != nil {
				t.Error(err)
			}
			if err := on.Unpersist(t.Context(), place, key.Name()); err != nil {
				t.Error(err)
			}
			if wire.shows([]byte(ownersPassword)) {
				t.Error("the password went over the wire")
			}
			_, err := with(secret.New("another"), nil).StorageRoot(t.Context())
			if unknownParent(t, err); !strings.Contains(err.Error(), "another one than was given") {
				t.Error(err)
			}
			_, err = with(secret.String{}, errors.New("no such credential")).StorageRoot(t.Context())
			if unknownParent(t, err); !strings.Contains(err.Error(), "no such credential") {
				t.Error(err)
			}
			if n := len(present(t, tpmtest.Connect(t, v.Device()), loadedSessions)); n > 2 {
				t.Errorf("%d sessions are loaded", n)
			}
		})
	}
}

// A storage key that only its owner knows how to make was freed. The noted root is still there, so
// that the TPM was not cleared, and the key is intact.
func TestAKeyWhoseParentWasFreedIsNotLost(t *testing.T) {
	t.Parallel()
	large := tpm2.ECCSRKTemplate // as of tpm2_createprimary -G ecc384
	large.Parameters = storageParameters(tpm2.TPMECCNistP384, 128)
	for name, template := range map[string]tpm2.TPMTPublic{
		"a unique field of its own": oddRoot(), "another curve": large, "another curve, without noDA": without(large),
	} {
		t.Run(name, func(t *testing.T) {
			v := tpmtest.Bare(t)
			putPrimary(t, v, tpm2.TPMRHOwner, template, elsewhere, "")
			file := createUnder(t, v, elsewhere, "")
			root, err := tpmtest.Connect(t, v.Device()).StorageRoot(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			checkLoads(t, known(t, v.Device(), root.Name), file)
			free(t, v, elsewhere)
			for note, parent := range map[string][]byte{"noted": file.ParentName, "not noted": nil} {
				on := known(t, v.Device(), root.Name)
				_, err := on.LoadKey(t.Context(), file, tpm.LoadOptions{Parent: parent})
				if got := unknownParent(t, err); !got.Gone || string(got.Name) != string(parent) {
					t.Errorf("%s: %+v", note, got)
				}
			}
			on := known(t, v.Device(), root.Name)
			putPrimary(t, v, tpm2.TPMRHOwner, template, elsewhere, "")
			checkLoads(t, on, file)
			if _, err := (tpm2.Clear{AuthHandle: password(tpm2.TPMRHPlatform, "")}).Execute(v); err != nil {
				t.Fatal(err)
			}
			_, err = known(t, v.Device(), root.Name).LoadKey(t.Context(), file, tpm.LoadOptions{Parent: file.ParentName})
			if parent, ok := errors.AsType[*tpm.ParentError](err); !ok || !parent.Lost() {
				t.Errorf("of a cleared TPM: %v", err)
			}
		})
	}
}

// A lost root is no finding about the key that cannot be used without it.
func TestAKeyWhoseRootIsBehindAPasswordIsNotSaidToHaveOne(t *testing.T) {
	t.Parallel()
	v := tpmtest.Bare(t)
	on := tpmtest.ConnectWith(t, tpm.Config{Device: v.Device(), SessionUses: 1})
	file := create(t, on, tpm.KeyOptions{Algorithm: tpm.ECDSAP256})
	key := load(t, on, file, tpm.LoadOptions{})
	checkSigns(t, key)
	setOwnerPassword(t, v)
	_, signErr := sign(t, key)
	_, loadErr := on.LoadKey(t.Context(), file, tpm.LoadOptions{})
	_, createErr := on.CreateKey(t.Context(), tpm.KeyOptions{})
	persistErr := key.Persist(t.Context(), place)
	for _, err := range []error{signErr, loadErr, createErr, persistErr} {
		unknownParent(t, err)
		if errors.Is(err, tpm.ErrAuthValue) || strings.Contains(err.Error(), "somebody changes") || strings.Contains(err.Error(), "does not make keys") {
			t.Errorf("got %v", err)
		}
	}
}

// Whoever put another storage root where the noted one was is not followed, and the noted one is
// not made anew behind the operator's back.
func TestAReplacedRootIsNamedWithWhatBringsItBack(t *testing.T) {
	t.Parallel()
	v := tpmtest.Simulator(t)
	file := create(t, tpmtest.Connect(t, v.Device()), tpm.KeyOptions{})
	free(t, v, tpm.HandleSRK)
	putPrimary(t, v, tpm2.TPMRHOwner, emptyRSARoot(), tpm.HandleSRK, "")
	on := known(t, v.Device(), file.ParentName)
	_, err := on.LoadKey(t.Context(), file, tpm.LoadOptions{})
	parent, ok := errors.AsType[*tpm.ParentError](err)
	if !errors.Is(err, tpm.ErrStorageRoot) || !ok || parent.Lost() || !parent.Found || len(parent.Commands) != 1 {
		t.Fatalf("got %v", err)
	}
	putPrimary(t, v, tpm2.TPMRHOwner, tpm2.RSASRKTemplate, 0x81000002, "") // as the command does
	if !strings.Contains(parent.Commands[0], "0x81000002") {
		t.Errorf("a handle that is not free: %s", parent.Commands[0])
	}
	checkLoads(t, on, file)
}

// After TPM2_Clear nothing brings a key back: that, and nothing less, is lost. Of a root in the
// endorsement hierarchy the Name stays.
func TestAKeyOfAClearedTPMIsLost(t *testing.T) {
	t.Parallel()
	clearTPM := func(t *testing.T, c transport.TPM) {
		if _, err := (tpm2.Clear{AuthHandle: password(tpm2.TPMRHPlatform, "")}).Execute(c); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("under a root of the owner", func(t *testing.T) {
		v := tpmtest.Simulator(t)
		file := create(t, tpmtest.Connect(t, v.Device()), tpm.KeyOptions{})
		clearTPM(t, v)
		on := known(t, v.Device(), file.ParentName)
		_, err := on.StorageRoot(t.Context())
		if parent, ok := errors.AsType[*tpm.ParentError](err); !ok || !parent.Lost() || !errors.Is(err, tpm.ErrStorageRoot) {
			t.Errorf("got %v", err)
		}
		_, err = tpmtest.Connect(t, v.Device()).LoadKey(t.Context(), file, tpm.LoadOptions{Parent: file.ParentName})
		fails(t, err, tpm.ErrForeignTPM)
	})
	t.Run("under a storage key of the endorsement hierarchy", func(t *testing.T) {
		v := tpmtest.Bare(t)
		putPrimary(t, v, tpm2.TPMRHEndorsement, tpm2.RSASRKTemplate, tpm.HandleSRK, "")
		file := createUnder(t, v, tpm.HandleSRK, "")
		checkLoads(t, known(t, v.Device(), file.ParentName), file) // as the agent once noted it
		free(t, v, tpm.HandleSRK)
		checkLoads(t, known(t, v.Device(), file.ParentName), file)
		clearTPM(t, v)
		on := known(t, v.Device(), file.ParentName)
		root, err := on.StorageRoot(t.Context())
		if err != nil || !bytes.Equal(root.Name, file.ParentName) {
			t.Fatalf("its Name did not outlive TPM2_Clear: %v", err)
		}
		_, err = on.LoadKey(t.Context(), file, tpm.LoadOptions{Parent: file.ParentName})
		if !errors.Is(err, tpm.ErrForeignTPM) || !strings.Contains(err.Error(), "outlives TPM2_Clear") {
			t.Errorf("got %v", err)
		}
	})
}

// A root must be one that keys can be made under, and of the hierarchy whose primaries a cleared
// TPM does not have any more.
func TestARootThatCannotBeUsedIsNotTaken(t *testing.T) {
	t.Parallel()
	locked := func(t *testing.T, c transport.TPM) { putLocked(t, c, tpm2.RSASRKTemplate, tpm.HandleSRK) }
	for name, tt := range map[string]struct {
		change func(t *testing.T, c transport.TPM)
		want   tpm2.TPMHandle
	}{
		"it has a password": {locked, tpm2.TPMRHOwner},
		"it has a password, which is no part of the Name that the derived one has, too": {func(t *testing.T, c transport.TPM) {
			putLocked(t, c, keyFileRoot(), tpm.HandleSRK)
		}, tpm2.TPMRHOwner},
		"it has a password, and so has the owner": {func(t *testing.T, c transport.TPM) {
			locked(t, c)
			putPrimary(t, c, tpm2.TPMRHOwner, emptyRSARoot(), elsewhere, "")
			setOwnerPassword(t, c)
		}, elsewhere},
		"it is not there, and the owner has a password": {func(t *testing.T, c transport.TPM) {
			putPrimary(t, c, tpm2.TPMRHOwner, keyFileRoot(), elsewhere, "")
			setOwnerPassword(t, c)
		}, elsewhere},
		"it is of the endorsement hierarchy": {func(t *testing.T, c transport.TPM) {
			putPrimary(t, c, tpm2.TPMRHEndorsement, tpm2.RSASRKTemplate, tpm.HandleSRK, "")
		}, tpm2.TPMRHOwner},
		"it is no primary": {func(t *testing.T, c transport.TPM) {
			putChild(t, c, tpm2.ECCSRKTemplate, tpm.HandleSRK)
		}, tpm2.TPMRHOwner},
		"it protects with another cipher": {func(t *testing.T, c transport.TPM) {
			strong := keyFileRoot()
			strong.Parameters = storageParameters(tpm2.TPMECCNistP256, 256)
			putPrimary(t, c, tpm2.TPMRHOwner, strong, tpm.HandleSRK, "")
		}, tpm2.TPMRHOwner},
		"it is without noDA": {func(t *testing.T, c transport.TPM) {
			putPrimary(t, c, tpm2.TPMRHOwner, without(emptyRSARoot()), tpm.HandleSRK, "")
		}, tpm2.TPMRHOwner},
	} {
		t.Run(name, func(t *testing.T) {
			v := tpmtest.Bare(t)
			tt.change(t, v)
			on := tpmtest.Connect(t, v.Device())
			root, err := on.TryStorageRoot(t.Context())
			if err != nil || root.Handle != tt.want {
				t.Fatalf("%+v, %v", root, err)
			}
			file := create(t, on, tpm.KeyOptions{})
			checkLoads(t, on, file)
			checkLoads(t, known(t, v.Device(), root.Name), file)
		})
	}
	t.Run("there is no other", func(t *testing.T) {
		v := tpmtest.Bare(t)
		locked(t, v)
		setOwnerPassword(t, v)
		_, err := tpmtest.Connect(t, v.Device()).CreateKey(t.Context(), tpm.KeyOptions{})
		if parent := unknownParent(t, err); !parent.Password || len(parent.Commands) != 2 {
			t.Errorf("got %v, %+v", err, parent)
		}
	})
	t.Run("it was noted all the same, and can be made anew", func(t *testing.T) {
		v := tpmtest.Bare(t)
		name := putLocked(t, v, tpm2.RSASRKTemplate, tpm.HandleSRK)
		on := known(t, v.Device(), name)
		if root, err := on.TryStorageRoot(t.Context()); err != nil || root.Restore == "" {
			t.Errorf("%+v, %v", root, err)
		}
		file := create(t, on, tpm.KeyOptions{})
		checkLoads(t, on, file)
		checkLoads(t, known(t, v.Device(), name), file)
	})
	t.Run("it was noted all the same, and cannot be made anew", func(t *testing.T) {
		v := tpmtest.Bare(t)
		name := putLocked(t, v, tpm2.RSASRKTemplate, tpm.HandleSRK)
		setOwnerPassword(t, v)
		on := known(t, v.Device(), name)
		for range 2 {
			_, err := on.TryStorageRoot(t.Context())
			unknownParent(t, err)
			_, createErr := on.CreateKey(t.Context(), tpm.KeyOptions{Algorithm: tpm.ECDSAP256})
			unknownParent(t, createErr)
			for _, err := range []error{err, createErr} {
				if !strings.Contains(err.Error(), "has a password of its own") {
					t.Errorf("got %v", err)
				}
			}
		}
	})
}

func storageParameters(curve tpm2.TPMECCCurve, aes tpm2.TPMKeyBits) tpm2.TPMUPublicParms {
	return tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
		Symmetric: tpm2.TPMTSymDefObject{
			Algorithm: tpm2.TPMAlgAES, KeyBits: tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, aes), Mode: tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
		},
		CurveID: curve,
	})
}

// putChild makes a storage key under another, which is gone then, persistent.
func putChild(t *testing.T, c transport.TPM, template tpm2.TPMTPublic, at tpm2.TPMHandle) {
	t.Helper()
	putPrimary(t, c, tpm2.TPMRHOwner, oddRoot(), at, "")
	above, err := tpm2.ReadPublic{ObjectHandle: at}.Execute(c)
	if err != nil {
		t.Fatal(err)
	}
	parent := tpm2.AuthHandle{Handle: at, Name: above.Name, Auth: tpm2.PasswordAuth(nil)}
	made, err := tpm2.Create{ParentHandle: parent, InPublic: tpm2.New2B(template)}.Execute(c)
	if err != nil {
		t.Fatal(err)
	}
	child, err := tpm2.Load{ParentHandle: parent, InPrivate: made.OutPrivate, InPublic: made.OutPublic}.Execute(c)
	if err != nil {
		t.Fatal(err)
	}
	defer flush(t, c, child.ObjectHandle)
	free(t, c, at)
	_, err = tpm2.EvictControl{
		Auth: password(tpm2.TPMRHOwner, ""), ObjectHandle: tpm2.NamedHandle{Handle: child.ObjectHandle, Name: child.Name}, PersistentHandle: at,
	}.Execute(c)
	if err != nil {
		t.Fatal(err)
	}
}

// putLocked makes a primary with a password persistent.
func putLocked(t *testing.T, c transport.TPM, template tpm2.TPMTPublic, at tpm2.TPMHandle) []byte {
	t.Helper()
	rsp, err := tpm2.CreatePrimary{
		PrimaryHandle: password(tpm2.TPMRHOwner, ""), InPublic: tpm2.New2B(template),
		InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{UserAuth: tpm2.TPM2BAuth{Buffer: []byte("its own")}}},
	}.Execute(c)
	if err != nil {
		t.Fatal(err)
	}
	defer flush(t, c, rsp.ObjectHandle)
	_, err = tpm2.EvictControl{
		Auth: password(tpm2.TPMRHOwner, ""), ObjectHandle: tpm2.NamedHandle{Handle: rsp.ObjectHandle, Name: rsp.Name}, PersistentHandle: at,
	}.Execute(c)
	if err != nil {
		t.Fatal(err)
	}
	return rsp.Name.Buffer
}

// The TPM counts wrong passwords for a storage key without noDA, and is locked by three.
func TestTheSearchCostsNoAttempts(t *testing.T) {
	t.Parallel()
	v := tpmtest.Bare(t)
	on := tpmtest.Connect(t, v.Device())
	file := create(t, on, tpm.KeyOptions{})
	file.Private[len(file.Private)-1] ^= 1
	putLocked(t, v, without(emptyRSARoot()), tpm.HandleSRK) // one that can be made, without the password
	for range 3 {
		_, err := on.LoadKey(t.Context(), file, tpm.LoadOptions{})
		fails(t, err, tpm.ErrForeignTPM)
	}
	odd := without(keyFileRoot())
	odd.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: []byte("nobody knows")}})
	putLocked(t, v, odd, elsewhere)
	for range 3 {
		_, err := on.LoadKey(t.Context(), file, tpm.LoadOptions{})
		if parent := unknownParent(t, err); len(parent.Unseen) != 1 || !strings.Contains(err.Error(), "0x81000042 was not tried") {
			t.Errorf("got %v", err)
		}
	}
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: uint32(tpm2.TPMPTLockoutCounter), PropertyCount: 1}.Execute(v)
	if err != nil {
		t.Fatal(err)
	}
	list, err := rsp.CapabilityData.Data.TPMProperties()
	if err != nil || list.TPMProperty[0].Value != 0 {
		t.Errorf("counted: %+v, %v", list, err)
	}
}

// What works costs no more commands than if nothing were ever searched for.
func TestAParentThatIsInItsPlaceCostsNoSearch(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		machine machineOf
		root    map[tpm2.TPMCC]int
	}{
		{machineOf{"at the handle", tpm2.RSASRKTemplate, tpm.HandleSRK}, map[tpm2.TPMCC]int{tpm2.TPMCCReadPublic: 1}},
		{machineOf{"derived", keyFileRoot(), 0}, map[tpm2.TPMCC]int{tpm2.TPMCCReadPublic: 1, tpm2.TPMCCCreatePrimary: 1, tpm2.TPMCCFlushContext: 1}},
	} {
		t.Run(tt.machine.name, func(t *testing.T) {
			v := tt.machine.start(t)
			file := create(t, tpmtest.Connect(t, v.Device()), tpm.KeyOptions{})
			for _, parent := range [][]byte{nil, file.ParentName} {
				proxy := tpmtest.NewProxy(t, v.Device())
				on := known(t, proxy.Device(), file.ParentName)
				var wire traffic
				proxy.Handle(wire.under(nil))
				if _, err := on.StorageRoot(t.Context()); err != nil {
					t.Fatal(err)
				}
				for code, n := range tt.root {
					if wire.count(code) != n {
						t.Errorf("finding the root: %d of command %v, want %d", wire.count(code), code, n)
					}
				}
				load(t, on, file, tpm.LoadOptions{Parent: parent})
				create, reads, capabilities := wire.count(tpm2.TPMCCCreatePrimary), wire.count(tpm2.TPMCCReadPublic), wire.count(tpm2.TPMCCGetCapability)
				if tt.machine.at != 0 && create != 0 || create > 3 || reads > 4 || capabilities != 0 {
					t.Errorf("loading: %d CreatePrimary, %d ReadPublic, %d GetCapability", create, reads, capabilities)
				}
			}
		})
	}
}

// Neither a TPM in lockout nor one that is not there says anything about a key.
func TestAKeyIsNotLostWhileTheTPMDoesNotServe(t *testing.T) {
	t.Parallel()
	const adoptedUnder tpm2.TPMHandle = 0x81000005
	odd := without(keyFileRoot()) // one that is counted for, and cannot be made again
	odd.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: []byte("nobody knows")}})
	for name, change := range map[string]func(t *testing.T, c transport.TPM, proxy *tpmtest.Proxy) error{
		"in lockout": func(t *testing.T, c transport.TPM, _ *tpmtest.Proxy) error {
			public, err := tpm2.ReadPublic{ObjectHandle: adoptedUnder}.Execute(c)
			if err != nil {
				t.Fatal(err)
			}
			for range 40 {
				_, err = tpm2.Create{
					ParentHandle: tpm2.AuthHandle{Handle: adoptedUnder, Name: public.Name, Auth: tpm2.PasswordAuth([]byte("a guess"))},
					InPublic:     tpm2.New2B(tpm.BindingKeyTemplate()),
				}.Execute(c)
				if errors.Is(err, tpm2.TPMRCLockout) {
					return tpm.ErrState
				}
			}
			t.Fatal(err)
			return nil
		},
		"not there": func(_ *testing.T, _ transport.TPM, proxy *tpmtest.Proxy) error {
			proxy.Handle(func([]byte, tpmtest.Forward) ([]byte, error) { return nil, errors.New("gone") })
			return tpm.ErrUnavailable
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := tpmtest.Bare(t)
			putPrimary(t, v, tpm2.TPMRHOwner, odd, adoptedUnder, "")
			file := createUnder(t, v, adoptedUnder, "")
			proxy := tpmtest.NewProxy(t, v.Device())
			on := tpmtest.Connect(t, proxy.Device())
			checkLoads(t, on, file)
			want := change(t, v, proxy)
			for _, parent := range [][]byte{nil, file.ParentName} {
				_, err := on.LoadKey(t.Context(), file, tpm.LoadOptions{Parent: parent})
				if !errors.Is(err, want) || errors.Is(err, tpm.ErrForeignTPM) || errors.Is(err, tpm.ErrStorageRoot) {
					t.Errorf("got %v", err)
				}
			}
		})
	}
}

// A search makes all primaries that are known, which takes some TPMs long. One that finds nothing
// is not repeated at each call, unless something changes.
func TestASearchInVainIsNotRepeatedAtOnce(t *testing.T) {
	t.Parallel()
	all := len(tpm.KnownPrimaries())
	for name, find := range map[string]func(t *testing.T, v machine, device string) (*tpm.TPM, func() error, func()){
		"the parent of a key": func(t *testing.T, v machine, device string) (*tpm.TPM, func() error, func()) {
			putPrimary(t, v, tpm2.TPMRHOwner, oddRoot(), elsewhere, "")
			file := createUnder(t, v, elsewhere, "")
			free(t, v, elsewhere)
			on := tpmtest.Connect(t, device)
			return on, func() error {
				_, err := on.LoadKey(t.Context(), file, tpm.LoadOptions{Parent: file.ParentName})
				return err
			}, func() { putPrimary(t, v, tpm2.TPMRHOwner, oddRoot(), elsewhere, "") }
		},
		"the storage root": func(t *testing.T, v machine, device string) (*tpm.TPM, func() error, func()) {
			putPrimary(t, v, tpm2.TPMRHOwner, oddRoot(), elsewhere, "")
			public, err := tpm2.ReadPublic{ObjectHandle: elsewhere}.Execute(v)
			if err != nil {
				t.Fatal(err)
			}
			free(t, v, elsewhere)
			on := known(t, device, public.Name.Buffer)
			return on, func() error { _, err := on.StorageRoot(t.Context()); return err },
				func() { putPrimary(t, v, tpm2.TPMRHOwner, oddRoot(), elsewhere, "") }
		},
		"the parent of a damaged key": func(t *testing.T, v machine, device string) (*tpm.TPM, func() error, func()) {
			on := tpmtest.Connect(t, device)
			file := create(t, on, tpm.KeyOptions{Algorithm: tpm.ECDSAP256})
			file.Private[len(file.Private)-1] ^= 1
			return on, func() error { _, err := on.LoadKey(t.Context(), file, tpm.LoadOptions{}); return err }, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := tpmtest.Bare(t)
			proxy := tpmtest.NewProxy(t, v.Device())
			on, find, restore := find(t, v, proxy.Device())
			now := time.Now()
			on.SetClock(func() time.Time { return now })
			made := func() int {
				var wire traffic
				proxy.Handle(wire.under(nil))
				if err := find(); err == nil {
					t.Error("it was found")
				}
				return wire.count(tpm2.TPMCCCreatePrimary)
			}
			if n := made(); n < all || n > all+2 { // the derived one also for a session, and the root for the verdict
				t.Errorf("the search made %d primaries", n)
			}
			for range 3 {
				if n := made(); n != 0 {
					t.Errorf("made %d primaries again", n)
				}
			}
			now = now.Add(time.Minute)
			if n := made(); n < all {
				t.Errorf("after a pause, it made %d primaries only", n)
			}
			if restore == nil {
				return
			}
			restore()
			if err := find(); err != nil {
				t.Errorf("what came back was not found: %v", err)
			}
		})
	}
}
