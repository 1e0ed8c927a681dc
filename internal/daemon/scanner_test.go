package daemon_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"testing"
)

// TestFindPrivateKey shows that the search behind TestNoPrivateKeyLeavesTheTPM
// finds what it looks for.
func TestFindPrivateKey(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	pkcs1 := x509.MarshalPKCS1PrivateKey(key)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"PKCS #1 DER":             pkcs1,
		"PKCS #8 PEM":             pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}),
		"a prime alone":           append([]byte("x"), key.Primes[1].Bytes()...),
		"a prime, little-endian":  reversed(key.Primes[0].Bytes()),
		"hex inside of JSON":      []byte(`{"p":"` + hex.EncodeToString(key.Primes[0].Bytes()) + `"}`),
		"base64 after other text": []byte("key=" + pemBody(pkcs1)),
	} {
		if findPrivateKey(text, &key.PublicKey) == "" {
			t.Errorf("%s: not found", name)
		}
	}
	if where := findPrivateKey(x509.MarshalPKCS1PublicKey(&key.PublicKey), &key.PublicKey); where != "" {
		t.Errorf("found %s in the public key", where)
	}
}

func pemBody(der []byte) string {
	block := pem.EncodeToMemory(&pem.Block{Type: "X", Bytes: der})
	return string(block[len("-----BEGIN X-----\n") : len(block)-len("-----END X-----\n")])
}
