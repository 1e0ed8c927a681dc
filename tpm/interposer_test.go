package tpm_test

import (
	"crypto"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

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

func TestAnInterposerCannotChangeWhatIsSigned(t *testing.T) {
	t.Parallel()
	on, proxy := azureThroughProxy(t, tpm.Config{})
	foreign := stay(t, on, ecdsaTemplate())
	key := newKey(t, on)
	for _, tt := range []struct {
		name   string
		change func(command []byte)
	}{
		{"another program's key", func(c []byte) { binary.BigEndian.PutUint32(c[signHandle:], uint32(foreign)) }},
		{"the attestation key", func(c []byte) { binary.BigEndian.PutUint32(c[signHandle:], uint32(tpm.HandleAK)) }},
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
func step(i, length int) int {
	if length < 200 || i < 20 || i >= length-60 {
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

// Each byte of each answer that something hangs on, one bit of it changed, wherever it is: header, handle, sizes, parameters,
// session areas. A bit is changed in all answers of one attempt, so that repeating does not help. Of the inside of long answers,
// over which one HMAC goes, it is each eighth byte.
func TestNoBitOfAnAnswerCanBeChanged(t *testing.T) {
	t.Parallel()
	on, proxy := azureThroughProxy(t, tpm.Config{})
	file := create(t, on, tpm.KeyOptions{})
	key := load(t, on, file, tpm.LoadOptions{})
	for _, tt := range []struct {
		name string
		code tpm2.TPMCC
		tail int // bytes after the HMAC
		run  func() error
	}{
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
			_, err := on.Certify(t.Context(), key, tpm.HandleAK, []byte("nonce"))
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
			for i := 0; i < length; i += step(i, length) {
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
			if n := len(transients(t, on)); n > 1 {
				t.Errorf("%d objects are loaded", n)
			}
		})
	}
}
