package tpm_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// bothWays runs a test with sessions and with passwords.
func bothWays(t *testing.T, run func(t *testing.T, plain bool)) {
	t.Helper()
	t.Run("in sessions", func(t *testing.T) { run(t, false) })
	t.Run("as passwords", func(t *testing.T) { run(t, true) })
}

func TestAuthorizationValues(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, plain bool) {
		on, _ := azureThroughProxy(t, tpm.Config{PlainSessions: plain})
		for _, tt := range []struct{ name, value string }{
			{"one byte", "x"},
			{"text", "correct horse battery staple"},
			{"a zero byte inside", "ab\x00cd"},
			{"a zero byte at the beginning", "\x00abcd"},
			{"zero bytes and one more", "\x00\x00\x00\x01"},
			{"all that a TPM takes", strings.Repeat("x", 32)},
			{"bytes that are no text", "\xff\x00\xfe\x80"},
		} {
			t.Run(tt.name, func(t *testing.T) {
				value := secret.New(tt.value)
				file := create(t, on, tpm.KeyOptions{AuthValue: value})
				if file.EmptyAuth {
					t.Error("the file says that the key has no password")
				}
				file, err := tpm.DecodeKeyFile(file.Encode())
				if err != nil {
					t.Fatal(err)
				}
				key := load(t, on, file, tpm.LoadOptions{AuthValue: value})
				checkSigns(t, key)
				if _, err := on.Certify(t.Context(), key, handleAK, nil); err != nil {
					t.Error(err)
				}
			})
		}
	})
}

func TestAuthorizationValuesThatATPMWouldChangeAreRefused(t *testing.T) {
	t.Parallel()
	on := tpmtest.Connect(t, tpmtest.Bare(t).Device())
	for _, tt := range []struct{ name, value, want string }{
		{"one byte too many", strings.Repeat("secret!!", 4) + "x", "33 bytes"},
		{"a zero byte at the end", "secret!!\x00", "ends with a zero byte"},
		{"a zero byte and nothing else", "\x00", "ends with a zero byte"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := on.CreateKey(t.Context(), tpm.KeyOptions{Algorithm: tpm.ECDSAP256, AuthValue: secret.New(tt.value)})
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "secret!!") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// The key is made noDA: a wrong value is refused and not counted, however often it is tried.
func TestAWrongAuthorizationValue(t *testing.T) {
	t.Parallel()
	const right = "the right one"
	bothWays(t, func(t *testing.T, plain bool) {
		on, proxy := azureThroughProxy(t, tpm.Config{PlainSessions: plain})
		file := create(t, on, tpm.KeyOptions{AuthValue: secret.New(right)})
		for _, tt := range []struct{ name, value string }{
			{"none", ""},
			{"another", "the other one"},
			{"a part of it", right[:5]},
			{"more than it", right + "!"},
			{"a zero byte in it", "the right\x00one"},
		} {
			t.Run(tt.name, func(t *testing.T) {
				key := load(t, on, file, tpm.LoadOptions{AuthValue: secret.New(tt.value)})
				var wire traffic
				proxy.Handle(wire.under(nil))
				defer func() {
					proxy.Handle(nil)
					if n := wire.count(tpm2.TPMCCSign); n > 10 { // once more each with a fresh session, whose nonces are right
						t.Errorf("5 signatures were tried %d times", n)
					}
				}()
				for range 5 {
					_, signErr := sign(t, key)
					_, certifyErr := on.Certify(t.Context(), key, handleAK, nil)
					for _, err := range []error{signErr, certifyErr} {
						fails(t, err, tpm.ErrAuthValue)
						fails(t, err, tpm2.TPMRCBadAuth)
						if err != nil && tt.value != "" && strings.Contains(err.Error(), tt.value) {
							t.Errorf("the error shows the value: %v", err)
						}
					}
				}
			})
		}
		do(t, on, func(c transport.TPM) error {
			if n, err := property(c, tpm2.TPMPTLockoutCounter); err != nil || n != 0 {
				t.Errorf("%d failures were counted, %v", n, err)
			}
			return nil
		})
		checkSigns(t, load(t, on, file, tpm.LoadOptions{AuthValue: secret.New(right)}))
		if n := len(present(t, on, loadedSessions)); n > 1 {
			t.Errorf("%d sessions are loaded", n)
		}
	})
}

// property reads one property.
func property(c transport.TPM, p tpm2.TPMPT) (uint32, error) {
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: uint32(p), PropertyCount: 1}.Execute(c)
	if err != nil {
		return 0, err
	}
	list, err := rsp.CapabilityData.Data.TPMProperties()
	if err != nil || len(list.TPMProperty) != 1 {
		return 0, errors.Join(err, errors.New("not one property"))
	}
	return list.TPMProperty[0].Value, nil
}

// A password of the attestation key is not a password of ours.
func TestAnAttestationKeyWithAPasswordIsSaidToHaveOne(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, plain bool) {
		on := tpmtest.ConnectWith(t, tpm.Config{Device: tpmtest.Bare(t).Device(), PlainSessions: plain})
		template := ecdsaTemplate()
		template.ObjectAttributes.Restricted = true
		asSigner(&template)
		const at tpm2.TPMHandle = 0x81010004
		do(t, on, func(c transport.TPM) error {
			rsp, err := tpm2.CreatePrimary{
				PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(template),
				InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{UserAuth: tpm2.TPM2BAuth{Buffer: []byte("pw")}}},
			}.Execute(c)
			if err != nil {
				return err
			}
			defer flush(t, c, rsp.ObjectHandle)
			_, err = tpm2.EvictControl{
				Auth: tpm2.TPMRHOwner, ObjectHandle: tpm2.NamedHandle{Handle: rsp.ObjectHandle, Name: rsp.Name}, PersistentHandle: at,
			}.Execute(c)
			return err
		})
		key := newKey(t, on)
		_, err := on.Certify(t.Context(), key, at, nil)
		if err == nil || errors.Is(err, tpm.ErrAuthValue) || !strings.Contains(err.Error(), "attestation key has a password") {
			t.Errorf("got %v", err)
		}
		checkSigns(t, key)
	})
}

// Somebody's wrong passwords lock the TPM for keys that count them. Ours do not, and go on.
func TestOurKeysSignWhileTheTPMIsLockedOut(t *testing.T) {
	t.Parallel()
	for name, machine := range map[string]func(testing.TB) tpmtest.Machine{"simulator": tpmtest.BareMachine, "swtpm": tpmtest.SwtpmMachine} {
		t.Run(name, func(t *testing.T) {
			on := tpmtest.Connect(t, machine(t).Device())
			key := newKey(t, on)
			withValue := load(t, on, create(t, on, tpm.KeyOptions{AuthValue: secret.New("pw")}), tpm.LoadOptions{AuthValue: secret.New("pw")})
			template := ecdsaTemplate()
			template.ObjectAttributes.NoDA = false
			counted := createForeignWith(t, on, template, tpm2.TPMSSensitiveCreate{UserAuth: tpm2.TPM2BAuth{Buffer: []byte("pw")}})

			foreign := load(t, on, counted, tpm.LoadOptions{AuthValue: secret.New("pw")})
			checkSigns(t, foreign)
			if len(foreign.Deviations()) == 0 {
				t.Error("a key that strangers can lock out is not reported")
			}
			guess := load(t, on, counted, tpm.LoadOptions{AuthValue: secret.New("guess")})
			var tries uint32
			for range 20 {
				_, err := sign(t, guess)
				if errors.Is(err, tpm2.TPMRCLockout) {
					break
				}
				fails(t, err, tpm2.TPMRCAuthFail)
				fails(t, err, tpm.ErrAuthValue)
				tries++
			}
			do(t, on, func(c transport.TPM) error {
				allowed, err := property(c, tpm2.TPMPTMaxAuthFail)
				if allowed != tries {
					t.Errorf("%d guesses, the TPM allows %d: a refused one was sent twice", tries, allowed)
				}
				return err
			})
			_, err := sign(t, foreign)
			fails(t, err, tpm2.TPMRCLockout)
			if err != nil && !strings.Contains(err.Error(), "tpm2_dictionarylockout") {
				t.Errorf("the error does not say what to do: %v", err)
			}
			checkSigns(t, key)
			checkSigns(t, withValue)
		})
	}
}

// What an operator can do is in the error, and the TPM's code stays in it for programs.
func TestErrorsSayWhatToDo(t *testing.T) {
	t.Parallel()
	on, proxy := throughProxy(t)
	key := newKey(t, on)
	for _, tt := range []struct {
		name    string
		code    tpm2.TPMRC
		refused tpm2.TPMCC
		want    string
	}{
		{"lockout", tpm2.TPMRCLockout, tpm2.TPMCCSign, "tpm2_dictionarylockout --clear-lockout"},
		{"lockout, and what may have caused it", tpm2.TPMRCLockout, tpm2.TPMCCSign, "without an orderly shutdown"},
		{"no slot for objects", tpm2.TPMRCObjectMemory, tpm2.TPMCCSign, "tpm2_flushcontext --transient-object; through unix: or tcp:, a running agent"},
		{"no slot for sessions", tpm2.TPMRCSessionMemory, tpm2.TPMCCStartAuthSession, "tpm2_flushcontext --loaded-session"},
		{"no session", tpm2.TPMRCSessionHandles, tpm2.TPMCCStartAuthSession, "tpm2_flushcontext --saved-session"},
		{"an old session", tpm2.TPMRCContextGap, tpm2.TPMCCStartAuthSession, "tpm2_flushcontext --saved-session"},
		{"failure mode", tpm2.TPMRCFailure, tpm2.TPMCCSign, "stop and start the VM"},
		{"NV memory cannot be written", tpm2.TPMRCNVUnavailable, tpm2.TPMCCSign, "try again later"},
		{"disabled", tpm2.TPMRCDisabled, tpm2.TPMCCSign, "owner has disabled"},
		{"no hierarchy", tpm2.TPMRCHierarchy, tpm2.TPMCCSign, "next boot"},
		{"NV memory is full", tpm2.TPMRCNVSpace, tpm2.TPMCCSign, "tpm2_getcap handles-persistent"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			proxy.Disconnect() // no session is kept
			proxy.Handle(refusing(-1, tt.code, tt.refused))
			_, err := sign(t, key)
			proxy.Handle(nil)
			fails(t, err, tt.code)
			fails(t, err, tpm.ErrState)
			if err != nil && strings.Count(err.Error(), tt.want) != 1 {
				t.Errorf("%v does not say %q once", err, tt.want)
			}
		})
	}
}

// A key that the tools made with a value, and ours that they use: the value means the same.
func TestAValueThatAToolPaddedIsTheSame(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, plain bool) {
		on := tpmtest.ConnectWith(t, tpm.Config{Device: tpmtest.Bare(t).Device(), PlainSessions: plain})
		value := bytes.Repeat([]byte{'v'}, 20)
		file := createForeignWith(t, on, ecdsaTemplate(), tpm2.TPMSSensitiveCreate{UserAuth: tpm2.TPM2BAuth{Buffer: append(bytes.Clone(value), 0, 0)}})
		for _, given := range []string{string(value), string(value) + "\x00\x00"} {
			checkSigns(t, load(t, on, file, tpm.LoadOptions{AuthValue: secret.New(given)}))
		}
	})
}
