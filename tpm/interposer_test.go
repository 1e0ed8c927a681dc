package tpm_test

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// This file sits between the agent and the TPM and does there what it likes.

// Where in TPM2_Sign with one session what begins (TPM 2.0 Part 3, 20.2).
const (
	signHandle     = 10
	signAttributes = signHandle + 4 + 4 + 4 + 2 + 16
	signDigest     = signHandle + 4 + 4 + 57 + 2
	signScheme     = signDigest + 32
)

// responseMAC is the size of the HMAC at the end of a response.
const responseMAC = 32

// azureThroughProxy opens a machine with a storage root and an attestation key, behind a proxy.
func azureThroughProxy(t *testing.T, cfg tpm.Config) (*tpm.TPM, *tpmtest.Proxy) {
	t.Helper()
	p := tpmtest.NewProxy(t, tpmtest.Simulator(t).Device())
	cfg.Device = p.Device()
	return tpmtest.ConnectWith(t, cfg), p
}

// stay loads a key of another program, which stays.
func stay(t *testing.T, on *tpm.TPM, template tpm2.TPMTPublic) tpm2.TPMHandle {
	t.Helper()
	file := createForeign(t, on, template)
	var at tpm2.TPMHandle
	do(t, on, func(c transport.TPM) error { at = loadRaw(t, c, file).Handle; return nil })
	return at
}

func ecdsaTemplate() tpm2.TPMTPublic {
	template := tpm.BindingKeyTemplate()
	template.Type = tpm2.TPMAlgECC
	template.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256})
	return template
}

func TestAnInterposerCannotChangeTheDigest(t *testing.T) {
	t.Parallel()
	on, proxy := azureThroughProxy(t, tpm.Config{})
	foreign := stay(t, on, ecdsaTemplate())
	key := newKey(t, on)
	for _, tt := range []struct {
		name   string
		change func(command []byte)
	}{
		{"another program's key", func(c []byte) { binary.BigEndian.PutUint32(c[signHandle:], uint32(foreign)) }},
		{"the attestation key", func(c []byte) { binary.BigEndian.PutUint32(c[signHandle:], uint32(handleAK)) }},
		{"the storage root", func(c []byte) { binary.BigEndian.PutUint32(c[signHandle:], uint32(tpm.HandleSRK)) }},
		{"the digest", func(c []byte) { c[signDigest] ^= 1 }},
		{"the scheme", func(c []byte) { binary.BigEndian.PutUint16(c[signScheme:], uint16(tpm2.TPMAlgECSchnorr)) }},
		{"the hash", func(c []byte) { binary.BigEndian.PutUint16(c[signScheme+2:], uint16(tpm2.TPMAlgSHA384)) }},
		{"that the digest is encrypted", func(c []byte) { c[signAttributes] &^= 1 << 5 }},
		{"that the session goes on", func(c []byte) { c[signAttributes] &^= 1 }},
		{"the session for a password", func(c []byte) { binary.BigEndian.PutUint32(c[signHandle+8:], uint32(tpm2.TPMRSPW)) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			checkSigns(t, key) // the session is a good one
			var signed atomic.Int32
			proxy.Handle(func(command []byte, forward tpmtest.Forward) ([]byte, error) {
				if codeOf(command) != tpm2.TPMCCSign {
					return forward(command)
				}
				tt.change(command)
				rsp, err := forward(command)
				if err == nil && answered(rsp) == tpm2.TPMRCSuccess {
					signed.Add(1)
				}
				return rsp, err
			})
			_, err := sign(t, key)
			proxy.Handle(nil)
			if err == nil {
				t.Error("it was taken")
			}
			if n := signed.Load(); n != 0 {
				t.Errorf("the TPM signed %d times", n)
			}
			checkSigns(t, key)
		})
	}
}

// step says how far to go in an answer: slowly where structure is.
func step(i, length int, code tpm2.TPMCC) int {
	switch {
	case length < 200 || i < 20:
		return 1
	case code == tpm2.TPMCCCreatePrimary:
		return 31
	case i >= length-60:
		return 1
	}
	return 8
}

// Two keys of ours: what one is asked for, the other does not sign.
func TestAnInterposerCannotExchangeOurKeys(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		plain bool
	}{
		{"with sessions they cannot be exchanged", false},
		{"with passwords they can be, so the attempt is a real one", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			on, proxy := azureThroughProxy(t, tpm.Config{PlainSessions: tt.plain})
			a := newKey(t, on)
			at := transients(t, on)[0]
			b := newKey(t, on)
			checkSigns(t, a)
			checkSigns(t, b)
			digest := sha256.Sum256([]byte("message"))
			exchange := func(command []byte, forward tpmtest.Forward) ([]byte, error) {
				if codeOf(command) == tpm2.TPMCCSign {
					binary.BigEndian.PutUint32(command[signHandle:], uint32(at))
				}
				return forward(command)
			}
			proxy.Handle(exchange)
			sig, err := b.Sign(t.Context(), tpm2.TPMAlgECDSA, crypto.SHA256, digest[:])
			proxy.Handle(nil)
			switch {
			case !tt.plain && err == nil:
				t.Error("a signature came back")
			case tt.plain && (err != nil || !verifies(a.PublicKey(), crypto.SHA256, digest[:], sig)):
				t.Errorf("the other key did not sign: %v", err)
			}
			checkSigns(t, b)
		})
	}
}

// Each byte of each answer that something hangs on, one bit of it changed, wherever it is: header,
// handle, sizes, parameters, session areas. A bit is changed in all answers of one attempt, so that
// repeating does not help. Of the inside of long answers, over which one HMAC goes, it is each
// eighth byte, and fewer where an attempt makes an RSA key.
func TestNoBitOfAnAnswerCanBeChanged(t *testing.T) {
	t.Parallel()
	on, proxy := azureThroughProxy(t, tpm.Config{})
	file := create(t, on, tpm.KeyOptions{})
	key := load(t, on, file, tpm.LoadOptions{})
	decryption := newDecryptionKey(t, on)
	ciphertext := encryptTo(t, decryption, []byte("a message of thirty-two bytes..."))
	for _, tt := range []struct {
		name string
		code tpm2.TPMCC
		tail int // bytes after the HMAC
		run  func() error
	}{
		{"TPM2_RSA_Decrypt", tpm2.TPMCCRSADecrypt, 0, func() error {
			_, err := decryption.Decrypt(t.Context(), ciphertext)
			if errors.Is(err, tpm.ErrKeyGone) { // with its connection
				decryption = newDecryptionKey(t, on)
				ciphertext = encryptTo(t, decryption, []byte("a message of thirty-two bytes..."))
			}
			return err
		}},
		{"TPM2_CreatePrimary of a decryption key", tpm2.TPMCCCreatePrimary, 0, func() error {
			k, err := on.NewDecryptionKey(t.Context(), []int{7})
			if err != nil {
				return err
			}
			return k.Close()
		}},
		{"TPM2_Sign", tpm2.TPMCCSign, 0, func() error { _, err := sign(t, key); return err }},
		{"TPM2_Load", tpm2.TPMCCLoad, 0, func() error {
			k, err := on.LoadKey(t.Context(), file, tpm.LoadOptions{})
			if err != nil {
				return err
			}
			return k.Close()
		}},
		{"TPM2_Create", tpm2.TPMCCCreate, 0, func() error {
			_, err := on.CreateKey(t.Context(), tpm.KeyOptions{Algorithm: tpm.ECDSAP256})
			return err
		}},
		{"TPM2_Certify", tpm2.TPMCCCertify, 5, func() error {
			_, err := on.Certify(t.Context(), key, handleAK, []byte("nonce"))
			return err
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			attempt := func(i int) (length int, err error) {
				proxy.Handle(func(command []byte, forward tpmtest.Forward) ([]byte, error) {
					rsp, err := forward(command)
					if err != nil || codeOf(command) != tt.code || answered(rsp) != tpm2.TPMRCSuccess {
						return rsp, err
					}
					length = len(rsp)
					if i < 0 {
						return rsp, nil
					}
					rsp[i] ^= 1 << (i % 8)
					if 2 <= i && i < 6 { // the size: nobody shall wait for what does not come
						return rsp, tpmtest.ErrHangUp
					}
					return rsp, nil
				})
				err = tt.run()
				proxy.Handle(nil)
				return length, err
			}
			length, err := attempt(-1)
			if err != nil {
				t.Fatal(err)
			}
			for i := 0; i < length; i += step(i, length, tt.code) {
				if 6 <= i && i <= 14 {
					proxy.Disconnect() // a handle that we were not told is nothing that we could flush
				}
				if _, err := attempt(i); err == nil {
					t.Errorf("byte %d of %d: it was taken", i, length)
				} else if i >= length-tt.tail-responseMAC && i < length-tt.tail && !errors.Is(err, tpm.ErrTampered) {
					t.Errorf("byte %d of %d: %v", i, length, err)
				}
			}
			checkSigns(t, key)
			if n := len(transients(t, on)); n > 2 {
				t.Errorf("%d objects are loaded", n)
			}
		})
	}
}

func TestAnAnswerIsGoodOnce(t *testing.T) {
	t.Parallel()
	on, proxy := throughProxy(t)
	key := newKey(t, on)
	var old []byte
	keep := func(command []byte, forward tpmtest.Forward) ([]byte, error) {
		rsp, err := forward(command)
		if codeOf(command) == tpm2.TPMCCSign {
			old = bytes.Clone(rsp)
		}
		return rsp, err
	}
	for _, tt := range []struct {
		name   string
		answer func(command []byte, forward tpmtest.Forward) ([]byte, error)
	}{
		{"it is replayed, the TPM is not asked", func([]byte, tpmtest.Forward) ([]byte, error) { return old, nil }},
		{"it is replayed, the TPM is asked", func(command []byte, forward tpmtest.Forward) ([]byte, error) {
			_, err := forward(command)
			return old, err
		}},
		{"its parameters are replayed in a new answer", func(command []byte, forward tpmtest.Forward) ([]byte, error) {
			rsp, err := forward(command)
			const session = 2 + 16 + 1 + 2 + responseMAC
			return append(bytes.Clone(old[:len(old)-session]), rsp[len(rsp)-session:]...), err
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			proxy.Handle(keep)
			checkSigns(t, key)
			proxy.Handle(first(tpm2.TPMCCSign, tt.answer))
			_, err := sign(t, key)
			fails(t, err, tpm.ErrTampered)
			checkSigns(t, key)
		})
	}
}

func TestASuccessThatTheTPMDidNotAnswerIsRefused(t *testing.T) {
	t.Parallel()
	on, proxy := azureThroughProxy(t, tpm.Config{})
	file := create(t, on, tpm.KeyOptions{})
	key := load(t, on, file, tpm.LoadOptions{})
	ctx := t.Context()
	for name, run := range map[string]func() error{
		"signing":    func() error { _, err := sign(t, key); return err },
		"loading":    func() error { _, err := on.LoadKey(ctx, file, tpm.LoadOptions{}); return err },
		"creating":   func() error { _, err := on.CreateKey(ctx, tpm.KeyOptions{Algorithm: tpm.ECDSAP256}); return err },
		"certifying": func() error { _, err := on.Certify(ctx, key, handleAK, nil); return err },
		"quoting":    func() error { _, err := on.Quote(ctx, handleAK, []int{7}, nil); return err },
		"persisting": func() error { return key.Persist(ctx, 0x81010000) },
		"starting a session": func() error {
			proxy.Disconnect()
			_, err := sign(t, key)
			return err
		},
	} {
		for kind, body := range map[string][]byte{
			"nothing":                  nil,
			"zeros":                    make([]byte, 200),
			"no parameters, a session": append([]byte{0, 0, 0, 0, 0, 16}, append(make([]byte, 16), append([]byte{1, 0, 32}, make([]byte, 32)...)...)...),
			"no parameters, no HMAC":   {0, 0, 0, 0, 0, 0, 1, 0, 0},
		} {
			t.Run(name+", the answer has "+kind, func(t *testing.T) {
				proxy.Handle(func(command []byte, forward tpmtest.Forward) ([]byte, error) {
					switch codeOf(command) {
					case tpm2.TPMCCReadPublic, tpm2.TPMCCGetCapability, tpm2.TPMCCFlushContext:
						return forward(command)
					case tpm2.TPMCCStartAuthSession:
						if name != "starting a session" {
							return forward(command)
						}
					}
					return success(command, body), nil
				})
				err := run()
				proxy.Handle(nil)
				if err == nil {
					t.Error("it was taken")
				}
			})
		}
	}
	checkSigns(t, key)
}

// success makes a response to a command, with what is given after the header.
func success(command, body []byte) []byte {
	b := bytes.Clone(command[:2]) // with sessions or without, as it was asked
	b = binary.BigEndian.AppendUint32(b, uint32(10+len(body)))
	return append(binary.BigEndian.AppendUint32(b, 0), body...)
}

// All that goes over the wire is searched for what should be nobody else's. With plain sessions the
// same search finds it.
func TestNothingSecretIsOnTheWire(t *testing.T) {
	t.Parallel()
	const password = "correct horse battery staple"
	digest := sha256.Sum256([]byte("a message that only we know"))
	for _, tt := range []struct {
		name  string
		plain bool
	}{
		{"with sessions nothing is seen", false},
		{"with passwords all is seen, so the search is a real one", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			on, proxy := azureThroughProxy(t, tpm.Config{PlainSessions: tt.plain})
			var wire traffic
			proxy.Handle(wire.under(nil))
			file := create(t, on, tpm.KeyOptions{AuthValue: secret.New(password)})
			key := load(t, on, file, tpm.LoadOptions{AuthValue: secret.New(password)})
			sig, err := key.Sign(t.Context(), tpm2.TPMAlgECDSA, crypto.SHA256, digest[:])
			if err != nil || !verifies(key.PublicKey(), crypto.SHA256, digest[:], sig) {
				t.Fatal(err)
			}
			nonce := []byte("a challenge that only we know")
			if _, err := on.Certify(t.Context(), key, handleAK, nonce); err != nil {
				t.Fatal(err)
			}
			public := file.Public[len(file.Public)-32:] // y of the point
			if !wire.shows(public) {
				t.Error("the public key is not seen: the search finds nothing at all")
			}
			for what, bytes := range map[string][]byte{
				"the authorization value": []byte(password), "the digest": digest[:], "the challenge": nonce,
				"the private area": file.Private[2:], "a part of the private area": file.Private[40:56],
			} {
				if seen := wire.shows(bytes); seen != tt.plain {
					t.Errorf("%s: seen is %v", what, seen)
				}
			}
		})
	}
}

// An interposer may refuse what they like, for as long as they like. Each call comes to its end,
// after a bounded number of commands, with an error that has their code or says why.
func TestRefusalsWithoutEndAreNotRepeatedWithoutEnd(t *testing.T) {
	t.Parallel()
	on, proxy := azureThroughProxy(t, tpm.Config{})
	file := create(t, on, tpm.KeyOptions{})
	key := load(t, on, file, tpm.LoadOptions{})
	bound := load(t, on, create(t, on, tpm.KeyOptions{PCRs: tpm.PCRSelection{PCRs: []int{7}}}), tpm.LoadOptions{})
	const session1, parameter1, handle1 = 0x900, 0x1c0, 0x100
	codes := []tpm2.TPMRC{
		tpm2.TPMRCBadAuth | session1, tpm2.TPMRCAuthFail | session1, tpm2.TPMRCHandle | session1, tpm2.TPMRCValue | session1,
		tpm2.TPMRCHandle | handle1, tpm2.TPMRCValue | parameter1, tpm2.TPMRCReferenceH0, tpm2.TPMRCReferenceS0, tpm2.TPMRCContextGap,
		tpm2.TPMRCSessionMemory, tpm2.TPMRCSessionHandles, tpm2.TPMRCObjectMemory, tpm2.TPMRCObjectHandles, tpm2.TPMRCLockout,
		tpm2.TPMRCFailure, tpm2.TPMRCInitialize, tpm2.TPMRCPolicyFail | session1, tpm2.TPMRCPCRChanged, tpm2.TPMRCIntegrity | parameter1,
		tpm2.TPMRCCommandCode, 0xffffffff, 1,
	}
	for _, tt := range []struct {
		name    string
		refused []tpm2.TPMCC
		run     func() error
	}{
		{"TPM2_Sign", []tpm2.TPMCC{tpm2.TPMCCSign}, func() error { _, err := sign(t, key); return err }},
		{"TPM2_Sign with a policy", []tpm2.TPMCC{tpm2.TPMCCSign}, func() error { _, err := sign(t, bound); return err }},
		{"TPM2_PolicyPCR", []tpm2.TPMCC{tpm2.TPMCCPolicyPCR}, func() error { _, err := sign(t, bound); return err }},
		{"TPM2_Load", []tpm2.TPMCC{tpm2.TPMCCLoad}, func() error { _, err := on.LoadKey(t.Context(), file, tpm.LoadOptions{}); return err }},
		{"TPM2_Create", []tpm2.TPMCC{tpm2.TPMCCCreate}, func() error {
			_, err := on.CreateKey(t.Context(), tpm.KeyOptions{Algorithm: tpm.ECDSAP256})
			return err
		}},
		{"TPM2_Certify", []tpm2.TPMCC{tpm2.TPMCCCertify}, func() error { _, err := on.Certify(t.Context(), key, handleAK, nil); return err }},
		{"TPM2_Quote", []tpm2.TPMCC{tpm2.TPMCCQuote}, func() error { _, err := on.Quote(t.Context(), handleAK, []int{7}, nil); return err }},
		{"TPM2_EvictControl", []tpm2.TPMCC{tpm2.TPMCCEvictControl}, func() error { return key.Persist(t.Context(), 0x81010000) }},
		{"signing and starting sessions", []tpm2.TPMCC{tpm2.TPMCCSign, tpm2.TPMCCStartAuthSession}, func() error { _, err := sign(t, key); return err }},
		{"all but reading what the TPM is", []tpm2.TPMCC{
			tpm2.TPMCCSign, tpm2.TPMCCStartAuthSession, tpm2.TPMCCLoad, tpm2.TPMCCReadPublic, tpm2.TPMCCCreatePrimary, tpm2.TPMCCFlushContext,
		}, func() error { _, err := sign(t, key); return err }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, code := range codes {
				checkSigns(t, key) // both are loaded and have their sessions
				checkSigns(t, bound)
				var wire traffic
				proxy.Handle(wire.under(refusing(-1, code, tt.refused...)))
				err := tt.run()
				proxy.Handle(nil)
				if wire.count(tpm2.TPMCCFlushContext) > 0 && slices.Contains(tt.refused, tpm2.TPMCCFlushContext) {
					proxy.Disconnect() // what may not be flushed stays until then
				}
				if err == nil {
					t.Errorf("%v: it was taken for a success", code)
				}
				// Looking for a parent goes through all places once, and a session is started anew
				// once for each.
				if n := wire.all(); n > 120 {
					t.Errorf("%v: %d commands", code, n)
				}
			}
			checkSigns(t, key)
			checkSigns(t, bound)
			if n := len(transients(t, on)); n > 2 {
				t.Errorf("%d objects are loaded", n)
			}
			if n := len(present(t, on, loadedSessions)); n > 2 {
				t.Errorf("%d sessions are loaded", n)
			}
		})
	}
}
