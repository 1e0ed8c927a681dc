package signer

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"

	"github.com/keyagent/keyagent/internal/statefile"
)

// SoftwareKey is an RSA-2048 key in this process's memory, and in a file in the clear. It is for
// development against the agent on a machine without a TPM and protects nothing: [Info.Strength]
// says so wherever it is shown. It is safe for concurrent use.
type SoftwareKey struct {
	*rsa.PrivateKey
	info Info
}

// OpenSoftware reads the key at path, or makes one and writes it there.
func OpenSoftware(path string) (*SoftwareKey, error) {
	created := false
	text, err := statefile.Read(path, maxKeyFileBytes)
	if errors.Is(err, fs.ErrNotExist) {
		if err := writeSoftwareKey(path); err != nil {
			return nil, fmt.Errorf("creating software key: %w", err)
		}
		created = true
		text, err = statefile.Read(path, maxKeyFileBytes)
	}
	if err != nil {
		return nil, err
	}
	key, err := parseSoftwareKey(text)
	if err != nil {
		return nil, fmt.Errorf("software key %q: %w; move it away to get a new one", path, err)
	}
	return &SoftwareKey{key, Info{
		Algorithm: algorithmName(&key.PublicKey), Strength: StrengthSoftware,
		PSSSaltLength: crypto.SHA256.Size(), Created: created, KeyFile: path,
	}}, nil
}

func writeSoftwareKey(path string) error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	err = statefile.WriteNew(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	if errors.Is(err, fs.ErrExist) {
		return nil // another process wrote one first
	}
	return err
}

func parseSoftwareKey(text []byte) (*rsa.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("it is not a PEM block of type PRIVATE KEY")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(*rsa.PrivateKey)
	if !ok || key.N.BitLen() != 2048 {
		return nil, errors.New("it is not an RSA-2048 key")
	}
	return key, nil
}

// Info describes the key.
func (k *SoftwareKey) Info() Info { return k.info }

// SignatureSchemes lists what the key can sign in TLS.
func (k *SoftwareKey) SignatureSchemes() []tls.SignatureScheme {
	return []tls.SignatureScheme{
		tls.PSSWithSHA256, tls.PSSWithSHA384, tls.PSSWithSHA512,
		tls.PKCS1WithSHA256, tls.PKCS1WithSHA384, tls.PKCS1WithSHA512,
	}
}

// ProvenSchemes is SignatureSchemes.
func (k *SoftwareKey) ProvenSchemes() []tls.SignatureScheme { return k.SignatureSchemes() }

// WithContext returns the key itself: software does not wait.
func (k *SoftwareKey) WithContext(context.Context) crypto.Signer { return k.PrivateKey }

// Close does nothing.
func (k *SoftwareKey) Close() error { return nil }
