package collect_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"math/big"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/collect"
	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

func TestTransportKeyOpensAnAnswerAndLeavesNothingBehind(t *testing.T) {
	m := newVM(t)
	c := collect.New(m.config)
	ak, err := attest.ParseAK(m.sim.AKPublic())
	if err != nil {
		t.Fatal(err)
	}
	var last []byte
	for range 4 { // more often than the TPM has slots
		k, err := c.NewTransportKey(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := attest.VerifyTransportKey(ak, k.Certified()); err != nil {
			t.Error(err)
		}
		if string(k.Certified().Public) == string(last) {
			t.Error("the same key twice")
		}
		last = k.Certified().Public
		message, err := k.Decrypt(t.Context(), encryptTo(t, k, []byte("0123456789abcdef0123456789abcdef")))
		if err != nil || string(message) != "0123456789abcdef0123456789abcdef" {
			t.Errorf("decrypted %q, %v", message, err)
		}
		for range 2 {
			if err := k.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

func encryptTo(t *testing.T, k *collect.TransportKey, message []byte) []byte {
	t.Helper()
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](k.Certified().Public)
	if err != nil {
		t.Fatal(err)
	}
	unique, err := public.Unique.RSA()
	if err != nil {
		t.Fatal(err)
	}
	key := &rsa.PublicKey{E: 65537}
	key.N = new(big.Int).SetBytes(unique.Buffer)
	//lint:ignore SA1019 the service's envelope is RSAES-PKCS1-v1_5
	ciphertext, err := rsa.EncryptPKCS1v15(rand.Reader, key, message)
	if err != nil {
		t.Fatal(err)
	}
	return ciphertext
}

// What the service sends is opened by the TPM, and nobody between the TPM and this process reads it
// or puts their own in its place.
func TestThePlaintextIsNotOnTheWire(t *testing.T) {
	m := newVM(t)
	if err := m.tpm.Close(); err != nil {
		t.Fatal(err)
	}
	proxy := tpmtest.NewProxy(t, m.sim.Device())
	m.config.TPM = tpmtest.Connect(t, proxy.Device())
	k, err := collect.New(m.config).NewTransportKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	message := []byte("0123456789abcdef0123456789abcdef")
	ciphertext := encryptTo(t, k, message)
	var wire []byte
	decryptions := 0
	change := false
	proxy.Handle(func(command []byte, forward tpmtest.Forward) ([]byte, error) {
		wire = append(wire, command...)
		rsp, err := forward(command)
		wire = append(wire, rsp...)
		if tpm2.TPMCC(tpmtest.CommandCode(command)) == tpm2.TPMCCRSADecrypt {
			decryptions++
			if change {
				rsp[20] ^= 1
			}
		}
		return rsp, err
	})
	got, err := k.Decrypt(t.Context(), ciphertext)
	if err != nil || !bytes.Equal(got, message) || decryptions != 1 {
		t.Errorf("decrypted %q in %d commands, %v", got, decryptions, err)
	}
	if bytes.Contains(wire, message[:16]) {
		t.Error("the message is on the wire")
	}
	change = true
	if got, err := k.Decrypt(t.Context(), ciphertext); !errors.Is(err, tpm.ErrTampered) {
		t.Errorf("a changed message: %q, %v", got, err)
	}
}

func TestABadCiphertextIsNoOracle(t *testing.T) {
	m := newVM(t)
	k, err := collect.New(m.config).NewTransportKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, ciphertext := range [][]byte{make([]byte, 256), append([]byte{1}, make([]byte, 255)...), allOnes(256)} {
		message, err := k.Decrypt(t.Context(), ciphertext)
		if err != nil || len(message) != 32 {
			t.Errorf("%d bytes, %v; want 32 random bytes", len(message), err)
		}
	}
	if _, err := k.Decrypt(t.Context(), make([]byte, 255)); err == nil {
		t.Error("a short ciphertext was taken")
	}
}

func allOnes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = 0xff
	}
	return b
}

func TestTransportKeyDiesWithTheBoot(t *testing.T) {
	m := newVM(t)
	k, err := collect.New(m.config).NewTransportKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ciphertext := encryptTo(t, k, make([]byte, 32))
	if err := m.sim.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Decrypt(t.Context(), ciphertext); !errors.Is(err, tpm.ErrKeyGone) {
		t.Errorf("error %v, want ErrKeyGone", err)
	}
	if err := k.Close(); err != nil {
		t.Error(err)
	}
}

func TestTransportKeyStopsWhenAPCRMoves(t *testing.T) {
	m := newVM(t)
	k, err := collect.New(m.config).NewTransportKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ciphertext := encryptTo(t, k, make([]byte, 32))
	extend := tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: 4, Auth: tpm2.PasswordAuth(nil)},
		Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: make([]byte, 32)}}},
	}
	err = m.tpm.Do(t.Context(), func(dev transport.TPM) error { _, err := extend.Execute(dev); return err })
	if err != nil {
		t.Fatal(err)
	}
	for range 5 { // a session leaked by each would exhaust the TPM
		if _, err := k.Decrypt(t.Context(), ciphertext); err == nil || !strings.Contains(err.Error(), "PCR") {
			t.Fatalf("error %v, want one that names the PCR", err)
		}
	}
}
