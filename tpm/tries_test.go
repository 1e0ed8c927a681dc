package tpm_test

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// This file gives parents passwords where the TPM counts wrong ones, and is locked by a few.

// oddRoot is a storage key of a template that no program is known to use.
func oddRoot() tpm2.TPMTPublic {
	odd := keyFileRoot()
	odd.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: []byte("nobody knows")}})
	return odd
}

func triesOf(t *testing.T, device string) tpm.Lockout {
	t.Helper()
	s, err := tpmtest.Connect(t, device).State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s.Lockout
}

// asLockout sends a command that the lockout hierarchy authorizes, with parameters of four bytes.
func asLockout(t *testing.T, c transport.TPM, code tpm2.TPMCC, parameters ...uint32) {
	t.Helper()
	b := []byte{0x80, 0x02, 0, 0, 0, 0}
	for _, word := range []uint32{uint32(code), uint32(tpm2.TPMRHLockout), 9, uint32(tpm2.TPMRSPW)} {
		b = binary.BigEndian.AppendUint32(b, word)
	}
	b = append(b, 0, 0, 0, 0, 0)
	for _, word := range parameters {
		b = binary.BigEndian.AppendUint32(b, word)
	}
	binary.BigEndian.PutUint32(b[2:], uint32(len(b)))
	rsp, err := c.Send(b)
	if err != nil || binary.BigEndian.Uint32(rsp[6:]) != 0 {
		t.Fatalf("%x, %v", rsp, err)
	}
}

// lockAfter sets how many failed tries lock the TPM (TPM2_DictionaryAttackParameters, TPM 2.0 Part
// 3, 25.3).
func lockAfter(t *testing.T, c transport.TPM, most uint32) {
	t.Helper()
	asLockout(t, c, tpm2.TPMCCDictionaryAttackParameters, most, 1000, 1000)
}

// guess spends a failed try on a storage key.
func guess(t *testing.T, c transport.TPM, at tpm2.TPMHandle) {
	t.Helper()
	public, err := tpm2.ReadPublic{ObjectHandle: at}.Execute(c)
	if err != nil {
		t.Fatal(err)
	}
	_, err = tpm2.Create{
		ParentHandle: tpm2.AuthHandle{Handle: at, Name: public.Name, Auth: tpm2.PasswordAuth([]byte("a guess"))}, InPublic: tpm2.New2B(tpm.BindingKeyTemplate()),
	}.Execute(c)
	if !errors.Is(err, tpm2.TPMRCAuthFail) {
		t.Fatal(err)
	}
}

// A parent gets a password: the same key is made at the same handle again, with the same Name. Each
// command of an operator is a process of its own.
func TestAParentWithAPasswordDoesNotLockTheTPM(t *testing.T) {
	t.Parallel()
	const at tpm2.TPMHandle = 0x81000100
	odd := without(oddRoot())
	tools := without(emptyRSARoot())
	for name, tt := range map[string]struct {
		template tpm2.TPMTPublic
		before   func(t *testing.T, c transport.TPM)
		after    func(t *testing.T, c transport.TPM) // once the key is made
		loads    bool
		most     uint32 // tries that are spent
	}{
		"it can be made again without one, RSA": {template: tools, loads: true},
		"it can be made again without one, ECC": {template: without(keyFileRoot()), loads: true},
		"the owner has a password":              {template: tools, after: setOwnerPassword, most: 1},
		"nobody knows how it was made":          {template: odd, most: 1},
		"one try locks": {template: odd, before: func(t *testing.T, c transport.TPM) {
			lockAfter(t, c, 1)
		}},
		"a try is counted already": {template: odd, after: func(t *testing.T, c transport.TPM) { guess(t, c, at) }},
		"the owner has a password, and a try is counted already": {template: tools, after: func(t *testing.T, c transport.TPM) {
			guess(t, c, at)
			setOwnerPassword(t, c)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			v := tpmtest.Bare(t)
			putPrimary(t, v, tpm2.TPMRHOwner, keyFileRoot(), tpm.HandleSRK, "") // for sessions, also where the owner has a password
			putPrimary(t, v, tpm2.TPMRHOwner, tt.template, at, "")
			file := createUnder(t, v, at, "")
			free(t, v, at)
			putLocked(t, v, tt.template, at)
			for _, change := range []func(*testing.T, transport.TPM){tt.before, tt.after} {
				if change != nil {
					change(t, v)
				}
			}
			before := triesOf(t, v.Device())
			for _, parent := range [][]byte{file.ParentName, nil} {
				for range 3 {
					on := tpmtest.Connect(t, v.Device())
					for range 2 {
						key, err := on.LoadKey(t.Context(), file, tpm.LoadOptions{Parent: parent})
						if tt.loads {
							if err != nil {
								t.Error(err)
								continue
							}
							checkSigns(t, key)
							_ = key.Close() // always nil
						} else if unknownParent(t, err); !strings.Contains(err.Error(), "password") {
							t.Errorf("got %v", err)
						}
					}
				}
			}
			if now := triesOf(t, v.Device()); now.Active || now.Tries > before.Tries+tt.most {
				t.Errorf("%d tries were counted, now %d of %d, locked: %v", before.Tries, now.Tries, now.Most, now.Active)
			}
		})
	}
}

// Once somebody has ended the count, a running agent does not begin it anew.
func TestARefusalOfAParentIsRemembered(t *testing.T) {
	t.Parallel()
	v := tpmtest.Bare(t)
	putPrimary(t, v, tpm2.TPMRHOwner, without(oddRoot()), elsewhere, "")
	file := createUnder(t, v, elsewhere, "")
	free(t, v, elsewhere)
	putLocked(t, v, without(oddRoot()), elsewhere)
	on := tpmtest.Connect(t, v.Device())
	for i := range 3 {
		_, err := on.LoadKey(t.Context(), file, tpm.LoadOptions{Parent: file.ParentName})
		unknownParent(t, err)
		if tries := triesOf(t, v.Device()).Tries; i > 0 && tries != 0 {
			t.Errorf("%d tries are counted", tries)
		}
		asLockout(t, v, tpm2.TPMCCDictionaryAttackLockReset)
	}
}

// A parent without a password, where wrong ones would count, is used as often as keys need it.
func TestAParentThatWasUsedIsUsedAgainThoughTriesAreCounted(t *testing.T) {
	t.Parallel()
	v := tpmtest.Bare(t)
	putPrimary(t, v, tpm2.TPMRHOwner, without(oddRoot()), elsewhere, "")
	file := createUnder(t, v, elsewhere, "")
	on := tpmtest.Connect(t, v.Device())
	checkLoads(t, on, file)
	guess(t, v, putOther(t, v))
	checkLoads(t, on, file)
}

// putOther makes a storage key of another program persistent, with a password.
func putOther(t *testing.T, c transport.TPM) tpm2.TPMHandle {
	t.Helper()
	const at tpm2.TPMHandle = 0x81000077
	putLocked(t, c, without(keyFileRoot()), at)
	return at
}

// What the TPM says of the right parent, where it is not that the key is another's, is no reason to
// call the key another's.
func TestTheErrorOfTheRightParentIsReported(t *testing.T) {
	t.Parallel()
	for _, code := range []tpm2.TPMRC{
		tpm2.TPMRCMemory, tpm2.TPMRCObjectMemory, tpm2.TPMRCFailure, tpm2.TPMRCNVUnavailable, tpm2.TPMRCLockout, tpm2.TPMRCValue, tpm2.TPMRCCommandCode,
	} {
		t.Run(code.Error(), func(t *testing.T) {
			v := tpmtest.Bare(t)
			putPrimary(t, v, tpm2.TPMRHOwner, oddRoot(), elsewhere, "")
			file := createUnder(t, v, elsewhere, "")
			file.Parent = tpm.HandleSRK // where it was when the file was written
			proxy := tpmtest.NewProxy(t, v.Device())
			on := tpmtest.Connect(t, proxy.Device())
			checkLoads(t, on, file)
			proxy.Handle(func(command []byte, forward tpmtest.Forward) ([]byte, error) {
				if codeOf(command) == tpm2.TPMCCLoad && binary.BigEndian.Uint32(command[10:]) == uint32(elsewhere) {
					return tpmtest.Response(uint32(code)), nil
				}
				return forward(command)
			})
			for _, parent := range [][]byte{file.ParentName, nil} {
				_, err := on.LoadKey(t.Context(), file, tpm.LoadOptions{Parent: parent})
				if err == nil || errors.Is(err, tpm.ErrForeignTPM) || errors.Is(err, tpm.ErrStorageRoot) {
					t.Errorf("got %v", err)
				}
				if name, _, _ := strings.Cut(code.Error(), ":"); err != nil && !strings.Contains(err.Error(), name) {
					t.Errorf("%v does not say %s", err, name)
				}
			}
		})
	}
}

// A failed try may be spent only where none is counted, and where one does not lock.
func TestWhenAFailedTryMayBeSpent(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		lockout tpm.Lockout
		want    bool
	}{
		{tpm.Lockout{Most: 3}, true},
		{tpm.Lockout{Most: 2}, true},
		{tpm.Lockout{Most: 1}, false},
		{tpm.Lockout{Most: 0}, false},
		{tpm.Lockout{Most: 32, Tries: 1}, false},
		{tpm.Lockout{Most: 32, Active: true}, false},
	} {
		if got := tt.lockout.Spare(); got != tt.want {
			t.Errorf("%+v: %v", tt.lockout, got)
		}
	}
}
