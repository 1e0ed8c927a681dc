package attesttest

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"testing"
)

const primeBits = 512

// ManyPrimes is an RSA key of very many bits. Of many small primes, anybody makes one in a moment.
// It signs PKCS #1 v1.5 with SHA-256.
type ManyPrimes struct {
	public rsa.PublicKey
	d      []*big.Int // modulo each prime less one
	primes []*big.Int
}

// NewManyPrimes makes a key of about that many bits, at most.
func NewManyPrimes(t testing.TB, bits int) *ManyPrimes {
	t.Helper()
	k := &ManyPrimes{public: rsa.PublicKey{N: big.NewInt(1), E: 65537}}
	for len(k.primes) < bits/primeBits {
		p, err := rand.Prime(rand.Reader, primeBits)
		if err != nil {
			t.Fatal(err)
		}
		d := new(big.Int).ModInverse(big.NewInt(int64(k.public.E)), new(big.Int).Sub(p, big.NewInt(1)))
		if d == nil {
			continue
		}
		k.primes, k.d = append(k.primes, p), append(k.d, d)
		k.public.N.Mul(k.public.N, p)
	}
	return k
}

// Public returns the public half.
func (k *ManyPrimes) Public() crypto.PublicKey { return &k.public }

// Sign signs by the Chinese remainder theorem (RFC 8017, 5.2.1, for any number of primes).
func (k *ManyPrimes) Sign(_ io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	m := new(big.Int).SetBytes(k.encode(digest))
	sum := new(big.Int)
	for i, p := range k.primes {
		s := new(big.Int).Exp(new(big.Int).Mod(m, p), k.d[i], p)
		rest := new(big.Int).Div(k.public.N, p)
		inverse := new(big.Int).ModInverse(rest, p)
		sum.Add(sum, s.Mul(s, inverse).Mul(s, rest))
	}
	return sum.Mod(sum, k.public.N).FillBytes(make([]byte, k.public.Size())), nil
}

// encode is EMSA-PKCS1-v1_5 for SHA-256 (RFC 8017, 9.2).
func (k *ManyPrimes) encode(digest []byte) []byte {
	info := []byte{0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, sha256.Size}
	message := make([]byte, k.public.Size())
	message[1] = 1
	end := len(message) - len(info) - len(digest)
	for i := 2; i < end-1; i++ {
		message[i] = 0xff
	}
	copy(message[end:], append(info, digest...))
	return message
}

// Intermediate makes a CA below c over a key of another kind, and has it issue the AK certificate.
func (c *CA) Intermediate(t testing.TB, key *ManyPrimes, ak *rsa.PublicKey) (intermediate, leaf []byte) {
	t.Helper()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: "Test Virtual TPM Intermediate"},
		NotBefore: Epoch().AddDate(-1, 0, 0), NotAfter: Epoch().AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	parent := create(t, tmpl, c.Root, key.Public(), c.key)
	model, err := x509.ParseCertificate(c.Issue(t, ak, nil))
	if err != nil {
		t.Fatal(err)
	}
	model.SignatureAlgorithm = x509.SHA256WithRSA
	leaf, err = x509.CreateCertificate(rand.Reader, model, parent, ak, key)
	if err != nil {
		t.Fatal(err)
	}
	return parent.Raw, leaf
}
