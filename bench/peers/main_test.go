package peers_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
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

// A scheme is a key and what it is asked for. PSS salts are left to the signer, because that is all
// that each of them takes.
type scheme struct {
	name string
	key  tpm.Algorithm
	opts crypto.SignerOpts
}

func schemes() []scheme {
	return []scheme{
		{"PKCS1", tpm.RSA2048, crypto.SHA256},
		{"PSS", tpm.RSA2048, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto, Hash: crypto.SHA256}},
		{"ECDSA", tpm.ECDSAP256, crypto.SHA256},
	}
}

func (s scheme) isPSS() bool {
	_, ok := s.opts.(*rsa.PSSOptions)
	return ok
}

func (s scheme) isECDSA() bool { return s.key == tpm.ECDSAP256 }

// verify checks a signature as a TLS peer does: the salt must be as long as the hash.
func (s scheme) verify(public crypto.PublicKey, signature []byte) error {
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		if !s.isECDSA() || key.Params().BitSize != 256 || !ecdsa.VerifyASN1(key, digest(), signature) {
			return errors.New("not an ECDSA signature of this P-256 key")
		}
		return nil
	case *rsa.PublicKey:
		if s.isECDSA() || key.N.BitLen() != 2048 {
			return errors.New("another key was asked for")
		}
		if s.isPSS() {
			return rsa.VerifyPSS(key, crypto.SHA256, digest(), signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		}
		return rsa.VerifyPKCS1v15(key, crypto.SHA256, digest(), signature)
	}
	return errors.New("neither RSA nor ECDSA")
}

func digest() []byte {
	d := sha256.Sum256([]byte("benchmark"))
	return d[:]
}

// A machine is a TPM with key files of ours. Peers that can read them sign with the same keys as
// we.
type machine struct{ device, dir string }

// start starts a TPM and makes the key files.
func start(tb testing.TB) machine {
	tb.Helper()
	m := machine{device: tpmtest.Shared(tb).Device(), dir: filepath.Join(tb.TempDir(), "state")}
	if err := os.Mkdir(m.dir, 0o700); err != nil {
		tb.Fatal(err)
	}
	on := tpmtest.Connect(tb, m.device)
	for _, s := range schemes() {
		mustClose(tb, openKey(tb, on, m, s))
	}
	mustClose(tb, on) // peers need the slots, which a key that is closed has until its connection finds the time
	return m
}

func (m machine) keyFile(s scheme) string { return filepath.Join(m.dir, string(s.key)+".pem") }

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

// openOurs opens our signer. It comes after the peer, which may need all slots to make a key.
func openOurs(tb testing.TB, m machine, f peers.Form, s scheme) crypto.Signer {
	tb.Helper()
	f.Config.Device = m.device
	key := openKey(tb, tpmtest.ConnectWith(tb, f.Config), m, s)
	tb.Cleanup(func() { mustClose(tb, key) })
	return key
}

func openKey(tb testing.TB, on *tpm.TPM, m machine, s scheme) *signer.Key {
	tb.Helper()
	key, err := signer.Open(tb.Context(), signer.Config{TPM: on, KeyFile: m.keyFile(s), Options: tpm.KeyOptions{Algorithm: s.key}})
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func mustClose(tb testing.TB, c interface{ Close() error }) {
	tb.Helper()
	if err := c.Close(); err != nil {
		tb.Error(err)
	}
}

// check has a signer sign and verifies what it made.
func check(tb testing.TB, by crypto.Signer, s scheme) {
	tb.Helper()
	signature, err := by.Sign(nil, digest(), s.opts)
	if err == nil {
		err = s.verify(by.Public(), signature)
	}
	if err != nil {
		tb.Fatal(err)
	}
}
