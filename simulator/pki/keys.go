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
	"sync"
)

// Keys gives the RSA key that an authority or a service signs with, by what it is for ("vtpm-root").
// Making one takes a good part of a second, more than all else that a platform does at its start.
type Keys func(role string) (*rsa.PrivateKey, error)

// NewKey makes a key. It is the [Keys] of a platform that shares none.
func NewKey(string) (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) }

// KeptKeys returns keys that are made once in this process. It is safe for concurrent use.
func KeptKeys() Keys {
	var mu sync.Mutex
	kept := map[string]*rsa.PrivateKey{}
	return func(role string) (*rsa.PrivateKey, error) {
		mu.Lock()
		defer mu.Unlock()
		if kept[role] == nil {
			key, err := NewKey(role)
			if err != nil {
				return nil, err
			}
			kept[role] = key
		}
		return kept[role], nil
	}
}

// KeysIn returns keys that are kept in files of dir, which is made if it does not exist: PKCS #8 in PEM, role.pem. Several processes may
// use one directory at the same time.
func KeysIn(dir string) Keys {
	return func(role string) (*rsa.PrivateKey, error) {
		path := filepath.Join(dir, role+".pem")
		key, err := readKey(path)
		if !errors.Is(err, fs.ErrNotExist) {
			return key, err
		}
		if key, err = NewKey(role); err != nil {
			return nil, err
		}
		if err := writeKey(path, key); err != nil {
			return nil, fmt.Errorf("keeping the key of %s: %w", role, err)
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
