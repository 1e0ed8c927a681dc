package tpm_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/internal/tooltest"
	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// countedKey is a key without noDA, as other programs make them.
func countedKey(t *testing.T, on *tpm.TPM, value string) *tpm.KeyFile {
	t.Helper()
	template := ecdsaTemplate()
	template.ObjectAttributes.NoDA = false
	return createForeignWith(t, on, template, tpm2.TPMSSensitiveCreate{UserAuth: tpm2.TPM2BAuth{Buffer: []byte(value)}})
}

func lockout(t *testing.T, on *tpm.TPM) tpm.Lockout {
	t.Helper()
	state, err := on.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return state.Lockout
}

// Nobody gives a wrong password here: the TPM loses its power, a few times, after a key without
// noDA was used.
func TestPowerThatIsLostLocksKeysWithoutNoDA(t *testing.T) {
	t.Parallel()
	m := tpmtest.SwtpmMachine(t)
	var counted, ours *tpm.KeyFile
	onceOpen(t, m, func(on *tpm.TPM) {
		counted, ours = countedKey(t, on, ""), create(t, on, tpm.KeyOptions{})
		if l := lockout(t, on); l.Active || l.Tries != 0 || l.Most != 3 || l.Forgets != 1000*time.Second {
			t.Errorf("at first: %+v", l)
		}
	})
	for i := range uint32(3) {
		onceOpen(t, m, func(on *tpm.TPM) {
			if l := lockout(t, on); l.Tries != i || l.Active {
				t.Errorf("after %d losses: %+v", i, l)
			}
			if err := tryLoaded(t, on, counted); err != nil {
				t.Error(err)
			}
		})
		m.Reboot(t) // without an orderly shutdown
	}
	onceOpen(t, m, func(on *tpm.TPM) {
		if l := lockout(t, on); !l.Active || l.Tries != 3 {
			t.Errorf("%+v", l)
		}
		err := tryLoaded(t, on, counted)
		fails(t, err, tpm2.TPMRCLockout)
		fails(t, err, tpm.ErrState)
		for _, want := range []string{"lost its power without an orderly shutdown", "wait until the recovery time is over", "tpm2_dictionarylockout --clear-lockout"} {
			if err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%v does not say %q", err, want)
			}
		}
		if err := tryLoaded(t, on, ours); err != nil {
			t.Errorf("our own: %v", err)
		}
	})
	tpmtest.NewTools(t, m).Run(t, tooltest.Tool(t, "tpm2_dictionarylockout"), "--clear-lockout") // as the error says
	onceOpen(t, m, func(on *tpm.TPM) {
		if l := lockout(t, on); l.Active || l.Tries != 0 {
			t.Errorf("after it was cleared: %+v", l)
		}
		if err := tryLoaded(t, on, counted); err != nil {
			t.Error(err)
		}
	})
}

// Power that is lost while only our own keys are in use counts for nothing.
func TestPowerThatIsLostDoesNotCountWithOurKeys(t *testing.T) {
	t.Parallel()
	m := tpmtest.SwtpmMachine(t)
	var plain, valued *tpm.KeyFile
	onceOpen(t, m, func(on *tpm.TPM) {
		plain, valued = create(t, on, tpm.KeyOptions{}), create(t, on, tpm.KeyOptions{AuthValue: secret.New("value")})
	})
	for range 4 {
		onceOpen(t, m, func(on *tpm.TPM) {
			if err := tryLoaded(t, on, plain); err != nil {
				t.Error(err)
			}
			fails(t, tryLoaded(t, on, valued), tpm.ErrAuthValue)
		})
		m.Reboot(t)
	}
	onceOpen(t, m, func(on *tpm.TPM) {
		if l := lockout(t, on); l.Active || l.Tries != 0 {
			t.Errorf("%+v", l)
		}
	})
}

// A failed try of a key that counts is said to have been counted, and which program writes such
// files.
func TestAFailedTryIsSaidToBeCounted(t *testing.T) {
	t.Parallel()
	on := tpmtest.Connect(t, tpmtest.Bare(t).Device())
	file := countedKey(t, on, "value")
	file.EmptyAuth = true // as tpm2_encodeobject -p writes it
	err := tryLoaded(t, on, file)
	fails(t, err, tpm.ErrAuthValue)
	for _, want := range []string{"tpm2_encodeobject -p", "the TPM counts such tries"} {
		if err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
	if l := lockout(t, on); l.Tries != 1 {
		t.Errorf("one try was counted as %d", l.Tries)
	}
	exempt := create(t, on, tpm.KeyOptions{AuthValue: secret.New("value")})
	if err := tryLoaded(t, on, exempt); err == nil || strings.Contains(err.Error(), "counts such tries") {
		t.Errorf("of a key that is exempt: %v", err)
	}
}

func TestTheStateOfTheOwnerHierarchy(t *testing.T) {
	t.Parallel()
	m := tpmtest.SwtpmMachine(t)
	w := tpmtest.NewTools(t, m)
	for _, tt := range []struct {
		args []string
		want bool
	}{
		{nil, false},
		{[]string{"-c", "e", "another's"}, false},
		{[]string{"-c", "o", "pw"}, true},
		{[]string{"-c", "o", "-p", "pw"}, false},
	} {
		if tt.args != nil {
			w.Run(t, tooltest.Tool(t, "tpm2_changeauth"), tt.args...)
		}
		onceOpen(t, m, func(on *tpm.TPM) {
			state, err := on.State(t.Context())
			if err != nil || state.OwnerPassword != tt.want {
				t.Errorf("after %v: %+v, %v", tt.args, state, err)
			}
		})
	}
}

func TestTheStateListsStorageKeys(t *testing.T) {
	t.Parallel()
	m := tpmtest.SwtpmMachine(t)
	w := tpmtest.NewTools(t, m)
	primary := tooltest.Tool(t, "tpm2_createprimary")
	w.CreateRoot(t)
	w.Run(t, tooltest.Tool(t, "tpm2_evictcontrol"), "-Q", "-C", "o", "-c", "root.ctx", "0x81000001")
	w.Run(t, primary, "-Q", "-C", "o", "-G", "rsa", "-c", "other.ctx")
	w.Run(t, tooltest.Tool(t, "tpm2_evictcontrol"), "-Q", "-C", "o", "-c", "other.ctx", "0x81000002")
	w.Run(t, primary, "-Q", "-C", "o", "-G", "ecc256:ecdsa-sha256:null", "-c", "signer.ctx", "-a", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign")
	w.Run(t, tooltest.Tool(t, "tpm2_evictcontrol"), "-Q", "-C", "o", "-c", "signer.ctx", "0x81000003")
	w.Run(t, tooltest.Tool(t, "tpm2_evictcontrol"), "-Q", "-C", "o", "-c", "root.ctx", "0x81010009")
	onceOpen(t, m, func(on *tpm.TPM) {
		state, err := on.State(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		k := state.StorageKeys
		if len(k) != 2 || k[0].Handle != 0x81000001 || k[0].Fault != nil || k[1].Handle != 0x81000002 || k[1].Fault == nil {
			t.Errorf("%+v", k)
		}
		root, err := on.StorageRoot(t.Context())
		if err != nil || len(k) == 0 || string(root.Name) != string(k[0].Name) {
			t.Errorf("the root is %+v, %v", root, err)
		}
	})
}

// What the banks are can be asked beforehand.
func TestTheStateOfBanks(t *testing.T) {
	t.Parallel()
	m := tpmtest.SwtpmMachine(t)
	allocate(t, m, "sha1:none+sha384:4,5")
	onceOpen(t, m, func(on *tpm.TPM) {
		state, err := on.State(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]int{}
		for _, b := range state.Banks {
			got[b.Name] = len(b.PCRs)
		}
		if got["sha1"] != 0 || got["sha256"] != 24 || got["sha384"] != 2 || got["sha512"] != 24 {
			t.Errorf("banks %v", got)
		}
	})
}
