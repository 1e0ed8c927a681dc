package keystore_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/keyagent/keyagent/internal/statefile"
	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/signer/certreq"
	"github.com/keyagent/keyagent/signer/internal/signertest"
	"github.com/keyagent/keyagent/signer/keystore"
	"github.com/keyagent/keyagent/tpm"
)

// ecOptions are those of a key that is quickly made.
func ecOptions() keystore.KeyOptions {
	return keystore.KeyOptions{KeyOptions: tpm.KeyOptions{Algorithm: tpm.ECDSAP256}}
}

// shelf is a store under test, with its TPM and its log.
type shelf struct {
	*keystore.Store
	t   testing.TB
	on  *tpm.TPM
	dir string
	log *bytes.Buffer
}

func newShelf(t testing.TB, on *tpm.TPM) *shelf {
	t.Helper()
	return openShelf(t, on, filepath.Join(t.TempDir(), "keys"))
}

func openShelf(t testing.TB, on *tpm.TPM, dir string) *shelf {
	t.Helper()
	log := new(bytes.Buffer)
	if err := statefile.EnsureDir(dir); err != nil {
		t.Fatal(err)
	}
	store, err := keystore.Open(keystore.Config{StateDir: filepath.Dir(dir), Logger: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return &shelf{store, t, on, dir, log}
}

func (s *shelf) file(elements ...string) string {
	return filepath.Join(append([]string{s.dir}, elements...)...)
}

func (s *shelf) reach(context.Context) (*tpm.TPM, error) { return s.on, nil }

func (s *shelf) create(name string, options keystore.KeyOptions) keystore.Entry {
	s.t.Helper()
	e, err := s.Create(s.t.Context(), s.on, name, options)
	if err != nil {
		s.t.Fatal(err)
	}
	return e
}

func (s *shelf) begin(name string, options keystore.KeyOptions) keystore.Entry {
	s.t.Helper()
	e, err := s.BeginRotation(s.t.Context(), s.on, name, options)
	if err != nil {
		s.t.Fatal(err)
	}
	return e
}

func (s *shelf) finish(e keystore.Entry, prove keystore.Prove) error {
	s.t.Helper()
	k := s.open(e)
	defer k.Close() // a TPM has three places
	return s.FinishRotation(s.t.Context(), e, k, prove)
}

func (s *shelf) current(name string) keystore.Entry {
	s.t.Helper()
	e, err := s.Current(name)
	if err != nil {
		s.t.Fatal(err)
	}
	return e
}

func (s *shelf) open(e keystore.Entry) *signer.Key {
	s.t.Helper()
	k, err := s.Open(s.t.Context(), e, signer.Config{TPM: s.on})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = k.Close() })
	return k
}

// certify gives a generation a self-signed certificate.
func (s *shelf) certify(e keystore.Entry) []*x509.Certificate {
	s.t.Helper()
	k := s.open(e)
	defer k.Close()
	chain := []*x509.Certificate{selfSigned(s.t, k)}
	if err := s.put(s.t.Context(), e, k, chain); err != nil {
		s.t.Fatal(err)
	}
	return chain
}

// put imports a chain where it replaces nothing that is in use.
func (s *shelf) put(ctx context.Context, e keystore.Entry, k *signer.Key, chain []*x509.Certificate) error {
	_, err := s.Import(ctx, e, k, chain, false)
	return err
}

func selfSigned(t testing.TB, key crypto.Signer) *x509.Certificate {
	t.Helper()
	subject, err := certreq.ParseSubject("CN=app")
	if err != nil {
		t.Fatal(err)
	}
	der, err := certreq.SelfSign(key, certreq.SelfSignOptions{Names: certreq.Names{Subject: subject}})
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// works checks that a generation's key signs, and that its certificate, if it has one, is that
// key's.
func (s *shelf) works(e keystore.Entry) (certified bool) {
	s.t.Helper()
	k := s.open(e)
	defer k.Close()
	if _, err := k.Sign(rand.Reader, signertest.Digest(crypto.SHA256, "m"), crypto.SHA256); err != nil {
		s.t.Errorf("generation %d does not sign: %v", e.Generation, err)
	}
	chain, err := s.Certificates(e)
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	if err == nil {
		err = s.put(s.t.Context(), e, k, chain) // it checks
	}
	if err != nil {
		s.t.Errorf("generation %d: %v", e.Generation, err)
	}
	return true
}

func (s *shelf) files(name string) []string {
	s.t.Helper()
	entries, err := os.ReadDir(s.file(name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func believe(context.Context, *signer.Key, []*x509.Certificate) error { return nil }
