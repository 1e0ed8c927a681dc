package certs_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"math/big"
	"testing"

	"github.com/keyagent/keyagent/internal/certs"
)

func ofBits(bits uint) *rsa.PublicKey {
	return &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), int(bits)-1, 1), E: 65537} // #nosec G115 -- a few thousand
}

func TestKeysAreBounded(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		key  crypto.PublicKey
		ok   bool
	}{
		{"RSA-2048", ofBits(2048), true},
		{"the largest", ofBits(8192), true},
		{"one bit more", ofBits(8193), false},
		{"very large", ofBits(60_000), false},
		{"ECDSA P-521", key.Public(), true},
	} {
		if err := certs.CheckKey(tc.key); (err == nil) != tc.ok {
			t.Errorf("%s: %v", tc.name, err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(1)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, tc.key, key)
		if err != nil {
			t.Fatal(err)
		}
		if c, err := certs.Parse(der); (err == nil) != tc.ok || (c != nil) != tc.ok {
			t.Errorf("certificate over %s: %v", tc.name, err)
		}
	}
	if _, err := certs.Parse([]byte("none")); err == nil {
		t.Error("what is no certificate was parsed")
	}
}
