package pki

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Keys gives the RSA keys of authorities, a different one at each call; nil generates them.
// Generating one takes most of the time in which a platform starts: tests that start many take them
// from a pool, or from files.
type Keys func() (*rsa.PrivateKey, error)

// Next returns the next key.
func (k Keys) Next() (*rsa.PrivateKey, error) {
	if k == nil {
		return rsa.GenerateKey(rand.Reader, 2048)
	}
	return k()
}

// KeysIn returns the keys of one platform that are kept in files of dir, which is made if it does
// not exist: PKCS #8 in PEM, 1.pem, 2.pem and so on. Missing keys are generated. Several processes
// may use one directory at the same time, and then have the same keys.
func KeysIn(dir string) Keys {
	var given int
	return func() (*rsa.PrivateKey, error) {
		given++
		path := filepath.Join(dir, fmt.Sprintf("%d.pem", given))
		key, err := readKey(path)
		if !errors.Is(err, fs.ErrNotExist) {
			return key, err
		}
		if key, err = Keys(nil).Next(); err != nil {
			return nil, err
		}
		if err := writeKey(path, key); err != nil {
			return nil, fmt.Errorf("keeping a simulated authority's key: %w", err)
		}
		return readKey(path) // another process may have been faster
	}
}

func readKey(path string) (*rsa.PrivateKey, error) {
	data, err := os.ReadFile(path) // #nosec G304 -- the directory is the user's choice
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s is not PEM", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	key, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s is not an RSA key", path)
	}
	return key, nil
}

// writeKey writes the file as a whole or not at all. One that is there stays.
func writeKey(path string, key *rsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".key-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // a leftover is no harm
	if err := errors.Join(pem.Encode(f, &pem.Block{Type: "PRIVATE KEY", Bytes: der}), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}
