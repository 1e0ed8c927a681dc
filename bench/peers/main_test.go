package peers_test

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/bench/peers"
	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// A padding is what a signer is asked for. The salt is left to the signer, because that is all that each of them takes.
type padding struct {
	name string
	opts crypto.SignerOpts
}

func paddings() []padding {
	return []padding{
		{"PKCS1", crypto.SHA256},
		{"PSS", &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto, Hash: crypto.SHA256}},
	}
}

func (p padding) isPSS() bool {
	_, ok := p.opts.(*rsa.PSSOptions)
	return ok
}

// verify judges a signature as a peer of TLS would: the salt must be as long as the hash.
func (p padding) verify(public crypto.PublicKey, signature []byte) error {
	key := public.(*rsa.PublicKey)
	if p.isPSS() {
		return rsa.VerifyPSS(key, crypto.SHA256, digest(), signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
	}
	return rsa.VerifyPKCS1v15(key, crypto.SHA256, digest(), signature)
}

func digest() []byte {
	d := sha256.Sum256([]byte("benchmark"))
	return d[:]
}

// A machine is a TPM with a key file of ours. Peers that can read one sign with the same key as we.
type machine struct {
	device  string
	keyFile string // path
}

// start starts a TPM and makes the key file.
func start(tb testing.TB) machine {
	tb.Helper()
	dir := filepath.Join(tb.TempDir(), "state")
	if err := os.Mkdir(dir, 0o700); err != nil {
		tb.Fatal(err)
	}
	m := machine{device: tpmtest.Simulator(tb).Device(), keyFile: filepath.Join(dir, "binding.pem")}
	on := tpmtest.Connect(tb, m.device)
	key, err := signer.Open(tb.Context(), signer.Config{TPM: on, KeyFile: m.keyFile})
	if err != nil {
		tb.Fatal(err)
	}
	mustClose(tb, key) // peers need its slot
	return m
}

func (m machine) socket() string { return strings.TrimPrefix(m.device, "unix:") }

// dial connects a peer to the TPM.
func (m machine) dial(tb testing.TB) net.Conn {
	tb.Helper()
	conn, err := net.Dial("unix", m.socket())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { conn.Close() })
	return conn
}

// openOurs opens our signer. It comes after the peer, who may need all slots to make a key.
func openOurs(tb testing.TB, m machine, f peers.Form) crypto.Signer {
	tb.Helper()
	f.Config.Device = m.device
	on, err := tpm.Open(tb.Context(), f.Config)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { mustClose(tb, on) })
	key, err := signer.Open(tb.Context(), signer.Config{TPM: on, KeyFile: m.keyFile})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { mustClose(tb, key) })
	return key
}

func mustClose(tb testing.TB, c interface{ Close() error }) {
	tb.Helper()
	if err := c.Close(); err != nil {
		tb.Error(err)
	}
}

// check has a signer sign and verifies what it made.
func check(tb testing.TB, s crypto.Signer, p padding) {
	tb.Helper()
	public, ok := s.Public().(*rsa.PublicKey)
	if !ok || public.N.BitLen() != 2048 {
		tb.Fatalf("the key is %T, not RSA-2048", s.Public())
	}
	signature, err := s.Sign(nil, digest(), p.opts)
	if err == nil {
		err = p.verify(public, signature)
	}
	if err != nil {
		tb.Fatal(err)
	}
}
