package tpm_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// This file sits between the agent and the TPM while a secret is decrypted there for the agent.

// Where in TPM2_RSA_Decrypt with one session what begins (TPM 2.0 Part 3, 14.3).
const (
	decryptHandle     = 10
	decryptAttributes = decryptHandle + 4 + 4 + 4 + 2 + 16
	decryptCiphertext = decryptHandle + 4 + 4 + 57 + 2
	decryptScheme     = decryptCiphertext + tpm.DecryptionKeyBytes
)

func newDecryptionKey(t testing.TB, on *tpm.TPM) *tpm.DecryptionKey {
	t.Helper()
	k, err := on.NewDecryptionKey(t.Context(), []int{0, 4, 7})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Close() }) // always nil
	return k
}

func encryptTo(t testing.TB, k *tpm.DecryptionKey, message []byte) []byte {
	t.Helper()
	area, err := tpm2.Unmarshal[tpm2.TPMTPublic](k.PublicArea())
	if err != nil {
		t.Fatal(err)
	}
	public, err := tpm2.Pub(*area)
	if err != nil {
		t.Fatal(err)
	}
	//lint:ignore SA1019 the service's envelope is RSAES-PKCS1-v1_5
	ciphertext, err := rsa.EncryptPKCS1v15(rand.Reader, public.(*rsa.PublicKey), message)
	if err != nil {
		t.Fatal(err)
	}
	return ciphertext
}

func checkDecrypts(t testing.TB, k *tpm.DecryptionKey) {
	t.Helper()
	want := []byte("a key that the service has made")
	if got, err := k.Decrypt(t.Context(), encryptTo(t, k, want)); err != nil || !bytes.Equal(got, want) {
		t.Errorf("decrypted %q, %v", got, err)
	}
}

// The policy is the one that the TPM computes for the present PCR values, and nothing else: an
// attestation service looks at it.
func TestADecryptionKeyIsWhatAttestationServicesExpect(t *testing.T) {
	t.Parallel()
	on, _ := azureThroughProxy(t, tpm.Config{})
	k := newDecryptionKey(t, on)
	area, err := tpm2.Unmarshal[tpm2.TPMTPublic](k.PublicArea())
	if err != nil {
		t.Fatal(err)
	}
	if got := binary.BigEndian.Uint32(k.PublicArea()[4:]); got != 0x00020432 {
		t.Errorf("attributes 0x%08x", got)
	}
	do(t, on, func(c transport.TPM) error {
		session, end, err := tpm2.PolicySession(c, tpm2.TPMAlgSHA256, 16, tpm2.Trial())
		if err != nil {
			return err
		}
		defer end()
		pcrs := tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(0, 4, 7)}}}
		if _, err := (tpm2.PolicyPCR{PolicySession: session.Handle(), Pcrs: pcrs}).Execute(c); err != nil {
			return err
		}
		rsp, err := tpm2.PolicyGetDigest{PolicySession: session.Handle()}.Execute(c)
		if err == nil && !bytes.Equal(rsp.PolicyDigest.Buffer, area.AuthPolicy.Buffer) {
			t.Errorf("policy %x, the TPM computes %x", area.AuthPolicy.Buffer, rsp.PolicyDigest.Buffer)
		}
		return err
	})
	if bytes.Equal(newDecryptionKey(t, on).PublicArea(), k.PublicArea()) {
		t.Error("the same key twice")
	}
	if _, err := on.NewDecryptionKey(t.Context(), nil); err == nil {
		t.Error("a key without PCRs was made")
	}
}

// With a session as other clients use it, unsalted, the same search finds the message and the
// ciphertext.
func TestNothingOfADecryptionIsOnTheWire(t *testing.T) {
	t.Parallel()
	on, proxy := azureThroughProxy(t, tpm.Config{})
	k := newDecryptionKey(t, on)
	message := []byte("a key that only the service and we know")
	ciphertext := encryptTo(t, k, message)
	var wire traffic
	proxy.Handle(wire.under(nil))
	if got, err := k.Decrypt(t.Context(), ciphertext); err != nil || !bytes.Equal(got, message) {
		t.Fatalf("decrypted %q, %v", got, err)
	}
	for what, secret := range map[string][]byte{
		"the message": message, "a part of the message": message[8:24],
		"the ciphertext": ciphertext, "a part of the ciphertext": ciphertext[100:116],
	} {
		if wire.shows(secret) {
			t.Errorf("%s is seen", what)
		}
	}
	decryptPlainly(t, on, transients(t, on)[0], ciphertext)
	if !wire.shows(message) || !wire.shows(ciphertext) {
		t.Error("the search finds nothing in a session without encryption either")
	}
}

// decryptPlainly decrypts with go-tpm alone, in an unsalted session.
func decryptPlainly(t *testing.T, on *tpm.TPM, at tpm2.TPMHandle, ciphertext []byte) {
	t.Helper()
	do(t, on, func(c transport.TPM) error {
		public, err := tpm2.ReadPublic{ObjectHandle: at}.Execute(c)
		if err != nil {
			return err
		}
		session, end, err := tpm2.PolicySession(c, tpm2.TPMAlgSHA256, 16)
		if err != nil {
			return err
		}
		defer end()
		pcrs := tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(0, 4, 7)}}}
		if _, err := (tpm2.PolicyPCR{PolicySession: session.Handle(), Pcrs: pcrs}).Execute(c); err != nil {
			return err
		}
		_, err = tpm2.RSADecrypt{
			KeyHandle:  tpm2.AuthHandle{Handle: at, Name: public.Name, Auth: session},
			CipherText: tpm2.TPM2BPublicKeyRSA{Buffer: ciphertext},
			InScheme:   tpm2.TPMTRSADecrypt{Scheme: tpm2.TPMAlgRSAES},
		}.Execute(c)
		return err
	})
}

func TestAnInterposerCannotChangeThePlaintext(t *testing.T) {
	t.Parallel()
	on, proxy := azureThroughProxy(t, tpm.Config{})
	k := newDecryptionKey(t, on)
	mine := transients(t, on)
	newDecryptionKey(t, on)
	other := slices.DeleteFunc(transients(t, on), func(h tpm2.TPMHandle) bool { return slices.Contains(mine, h) })[0]
	ciphertext := encryptTo(t, k, []byte("message"))
	for _, tt := range []struct {
		name   string
		change func(command []byte)
	}{
		{"another key of the same kind", func(c []byte) { binary.BigEndian.PutUint32(c[decryptHandle:], uint32(other)) }},
		{"the storage root", func(c []byte) { binary.BigEndian.PutUint32(c[decryptHandle:], uint32(tpm.HandleSRK)) }},
		{"the ciphertext", func(c []byte) { c[decryptCiphertext] ^= 1 }},
		{"the ciphertext's end", func(c []byte) { c[decryptScheme-1] ^= 1 }},
		{"the scheme", func(c []byte) { binary.BigEndian.PutUint16(c[decryptScheme:], uint16(tpm2.TPMAlgNull)) }},
		{"that the ciphertext is encrypted", func(c []byte) { c[decryptAttributes] &^= 1 << 5 }},
		{"that the message is encrypted", func(c []byte) { c[decryptAttributes] &^= 1 << 6 }},
		{"that the session goes on", func(c []byte) { c[decryptAttributes] &^= 1 }},
		{"the session for a password", func(c []byte) { binary.BigEndian.PutUint32(c[decryptHandle+8:], uint32(tpm2.TPMRSPW)) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			checkDecrypts(t, k)
			var decrypted atomic.Int32
			proxy.Handle(func(command []byte, forward tpmtest.Forward) ([]byte, error) {
				if codeOf(command) != tpm2.TPMCCRSADecrypt {
					return forward(command)
				}
				tt.change(command)
				rsp, err := forward(command)
				if err == nil && answered(rsp) == tpm2.TPMRCSuccess {
					decrypted.Add(1)
				}
				return rsp, err
			})
			_, err := k.Decrypt(t.Context(), ciphertext)
			proxy.Handle(nil)
			if err == nil {
				t.Error("it was taken")
			}
			if n := decrypted.Load(); n != 0 {
				t.Errorf("the TPM decrypted %d times", n)
			}
			checkDecrypts(t, k)
		})
	}
}

// The message is exchanged in the answer, and its HMAC is made as for a session whose key is known.
func TestAMessageThatTheTPMDidNotDecryptIsRefused(t *testing.T) {
	t.Parallel()
	on, proxy := azureThroughProxy(t, tpm.Config{})
	k := newDecryptionKey(t, on)
	ciphertext := encryptTo(t, k, []byte("a message of thirty-two bytes..."))
	for name, forge := range map[string]func(command, rsp []byte) []byte{
		"an HMAC under the key of an unsalted session": func(command, rsp []byte) []byte {
			parameters := rsp[14 : 14+binary.BigEndian.Uint32(rsp[10:])]
			session := rsp[14+len(parameters):]
			copy(parameters[2:], bytes.Repeat([]byte{0x42}, 32))
			h := sha256.New()
			h.Write(binary.BigEndian.AppendUint32(make([]byte, 4), uint32(tpm2.TPMCCRSADecrypt)))
			h.Write(parameters)
			m := hmac.New(sha256.New, nil)
			m.Write(h.Sum(nil))
			m.Write(session[2:18])                                // nonceTPM
			m.Write(command[decryptHandle+14 : decryptHandle+30]) // nonceCaller
			m.Write(session[18:19])
			copy(session[21:], m.Sum(nil))
			return rsp
		},
		"no HMAC": func(command, _ []byte) []byte {
			return success(command, append([]byte{0, 0, 0, 34, 0, 32}, append(make([]byte, 32), 0, 0, 1, 0, 0)...))
		},
		"no session": func(command, _ []byte) []byte {
			return success(command, append([]byte{0, 0, 0, 34, 0, 32}, make([]byte, 32)...))
		},
		"nothing": func(command, _ []byte) []byte { return success(command, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			proxy.Handle(func(command []byte, forward tpmtest.Forward) ([]byte, error) {
				rsp, err := forward(command)
				if err == nil && codeOf(command) == tpm2.TPMCCRSADecrypt {
					return forge(command, rsp), nil
				}
				return rsp, err
			})
			got, err := k.Decrypt(t.Context(), ciphertext)
			proxy.Handle(nil)
			if err == nil {
				t.Errorf("%x was taken", got)
			}
			checkDecrypts(t, k)
		})
	}
}

func TestADecryptedMessageIsGoodOnce(t *testing.T) {
	t.Parallel()
	on, proxy := azureThroughProxy(t, tpm.Config{})
	k := newDecryptionKey(t, on)
	ciphertext := encryptTo(t, k, []byte("a message of thirty-two bytes..."))
	var old []byte
	for name, answer := range map[string]tpmtest.Handler{
		"the TPM is not asked": func([]byte, tpmtest.Forward) ([]byte, error) { return old, nil },
		"the TPM is asked": func(command []byte, forward tpmtest.Forward) ([]byte, error) {
			_, err := forward(command)
			return old, err
		},
		"its parameters in a new answer": func(command []byte, forward tpmtest.Forward) ([]byte, error) {
			rsp, err := forward(command)
			const session = 2 + 16 + 1 + 2 + responseMAC
			return append(bytes.Clone(old[:len(old)-session]), rsp[len(rsp)-session:]...), err
		},
	} {
		t.Run(name, func(t *testing.T) {
			proxy.Handle(first(tpm2.TPMCCRSADecrypt, func(command []byte, forward tpmtest.Forward) ([]byte, error) {
				rsp, err := forward(command)
				old = bytes.Clone(rsp)
				return rsp, err
			}))
			if _, err := k.Decrypt(t.Context(), ciphertext); err != nil {
				t.Fatal(err)
			}
			proxy.Handle(first(tpm2.TPMCCRSADecrypt, answer))
			_, err := k.Decrypt(t.Context(), ciphertext)
			fails(t, err, tpm.ErrTampered)
			proxy.Handle(nil)
			checkDecrypts(t, k)
		})
	}
}

// A bad ciphertext is told apart, and costs neither key nor slot.
func TestABadCiphertextIsNamed(t *testing.T) {
	t.Parallel()
	on, _ := azureThroughProxy(t, tpm.Config{})
	k := newDecryptionKey(t, on)
	for _, ciphertext := range [][]byte{make([]byte, 256), append([]byte{1}, make([]byte, 255)...), bytes.Repeat([]byte{0xff}, 256)} {
		_, err := k.Decrypt(t.Context(), ciphertext)
		fails(t, err, tpm.ErrCiphertext)
		var code tpm2.TPMRC
		if errors.As(err, &code) {
			t.Errorf("the TPM's code is in the error: %v", err)
		}
	}
	if _, err := k.Decrypt(t.Context(), make([]byte, 255)); err == nil || errors.Is(err, tpm.ErrCiphertext) {
		t.Errorf("a short ciphertext: %v", err)
	}
	checkDecrypts(t, k)
	checkLoaded(t, on, 1, 2)
}

func TestADecryptionKeyStopsWhenAPCRMoves(t *testing.T) {
	t.Parallel()
	on, _ := azureThroughProxy(t, tpm.Config{})
	k := newDecryptionKey(t, on)
	ciphertext := encryptTo(t, k, make([]byte, 32))
	do(t, on, func(c transport.TPM) error {
		_, err := tpm2.PCRExtend{
			PCRHandle: tpm2.AuthHandle{Handle: 4, Auth: tpm2.PasswordAuth(nil)},
			Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: make([]byte, 32)}}},
		}.Execute(c)
		return err
	})
	for range 5 { // a session leaked by each would exhaust the TPM
		_, err := k.Decrypt(t.Context(), ciphertext)
		fails(t, err, tpm.ErrPCRsChanged)
	}
	checkLoaded(t, on, 1, 2)
}

// It cannot be loaded again, so it does not give way, and is gone where its slot is.
func TestADecryptionKeyStaysUntilItIsClosedOrGone(t *testing.T) {
	t.Parallel()
	t.Run("other keys give way to each other", func(t *testing.T) {
		on := tpmtest.Connect(t, tpmtest.Swtpm(t).Device())
		k := newDecryptionKey(t, on)
		keys := []*tpm.Key{newKey(t, on), newKey(t, on), newKey(t, on)}
		for _, other := range append(keys, keys...) {
			checkSigns(t, other)
			checkDecrypts(t, k)
		}
		for range 2 {
			_ = k.Close() // always nil
		}
		_, err := k.Decrypt(t.Context(), make([]byte, 256))
		fails(t, err, tpm.ErrClosed)
		for _, other := range keys {
			_ = other.Close() // always nil
		}
		checkLoaded(t, on, 0, 2)
	})
	t.Run("a bare TPM keeps it over a lost connection", func(t *testing.T) {
		on, proxy, _ := swtpmThroughProxy(t, tpm.Config{})
		k := newDecryptionKey(t, on)
		proxy.Disconnect()
		checkDecrypts(t, k)
		checkLoaded(t, on, 1, 2)
	})
	t.Run("after a reset it is gone", func(t *testing.T) {
		machine := tpmtest.Swtpm(t)
		on := tpmtest.Connect(t, machine.Device())
		k := newDecryptionKey(t, on)
		machine.Reboot(t)
		_, err := k.Decrypt(t.Context(), make([]byte, 256))
		fails(t, err, tpm.ErrKeyGone)
		checkLoaded(t, on, 0, 2)
	})
	t.Run("after a reset that the connection does not show, too", func(t *testing.T) {
		v := tpmtest.Bare(t)
		on := tpmtest.Connect(t, v.Device())
		k := newDecryptionKey(t, on)
		checkDecrypts(t, k)
		if err := v.Reset(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, err := k.Decrypt(t.Context(), make([]byte, 256))
		fails(t, err, tpm.ErrKeyGone)
		_ = k.Close() // always nil
		checkLoaded(t, on, 0, 2)
	})
}

func TestCancelledDecryptionsLeaveNothing(t *testing.T) {
	t.Parallel()
	on, proxy, machine := swtpmThroughProxy(t, tpm.Config{SessionUses: 3})
	k := newDecryptionKey(t, on)
	ciphertext := encryptTo(t, k, []byte("message"))
	for nth, more := 1, true; more; nth++ {
		for _, late := range []bool{true, false} {
			var fresh *tpm.DecryptionKey
			more = cancelAt(t, proxy, nth, late, func(ctx context.Context) (err error) {
				if fresh, err = on.NewDecryptionKey(ctx, []int{7}); err == nil {
					_, err = k.Decrypt(ctx, ciphertext)
				}
				return err
			})
			if fresh != nil {
				_ = fresh.Close() // always nil; not before, for nobody waits for what it sends
			}
		}
		checkLoaded(t, on, 1, 2)
	}
	_ = k.Close() // always nil
	if err := on.Close(); err != nil {
		t.Fatal(err)
	}
	checkLoaded(t, tpmtest.Connect(t, machine.Device()), 0, 0)
}
