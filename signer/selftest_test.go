package signer_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/signer/internal/signertest"
)

func TestSaltIsMeasuredFromThePublicKeyAlone(t *testing.T) {
	t.Parallel()
	for _, bits := range []int{2048, 2049, 2050, 2055, 3072} { // the encoding's first bits depend on the length
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
			longest := (bits-1+7)/8 - h.Size() - 2
			for _, salt := range []int{0, 1, 20, h.Size(), longest - 1, longest} {
				d := h.New().Sum(nil)
				opts := &rsa.PSSOptions{SaltLength: salt}
				if salt == 0 {
					continue // rsa.PSSSaltLengthAuto is 0: Go cannot make it
				}
				sig, err := rsa.SignPSS(rand.Reader, key, h, d, opts)
				if err != nil {
					t.Fatal(err)
				}
				if got, err := signer.PSSSaltLength(&key.PublicKey, h, sig); err != nil || got != salt {
					t.Errorf("%d bits, %v: salt of %d measured as %d, %v", bits, h, salt, got, err)
				}
			}
		}
	}
}

func TestSaltOfASignatureThatIsNotPSS(t *testing.T) {
	t.Parallel()
	key := signertest.SoftKey(t)
	pkcs1, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	for name, sig := range map[string][]byte{
		"PKCS #1 v1.5": pkcs1, "nothing": nil, "zeros": make([]byte, 256), "the modulus": key.N.Bytes(), "too short": pkcs1[1:],
	} {
		if n, err := signer.PSSSaltLength(&key.PublicKey, crypto.SHA256, sig); err == nil {
			t.Errorf("%s has a salt of %d", name, n)
		}
	}
}

func FuzzPSSSaltLength(f *testing.F) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		f.Fatal(err)
	}
	sig, err := rsa.SignPSS(rand.Reader, key, crypto.SHA256, make([]byte, 32), nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sig)
	f.Fuzz(func(t *testing.T, sig []byte) {
		if n, err := signer.PSSSaltLength(&key.PublicKey, crypto.SHA256, sig); err == nil && (n < 0 || n > 222) {
			t.Errorf("a salt of %d", n)
		}
	})
}

// What the key offers is what the TPM showed to be able to.
func TestTheOfferFollowsTheSelfTest(t *testing.T) {
	t.Parallel()
	pkcs1 := []tls.SignatureScheme{tls.PKCS1WithSHA256, tls.PKCS1WithSHA384, tls.PKCS1WithSHA512}
	for _, tt := range []struct {
		name    string
		sign    func(*rsa.PrivateKey, tpm2.TPMAlgID, crypto.Hash, []byte) ([]byte, error)
		schemes []tls.SignatureScheme
		salt    int
	}{
		{"a TPM with the right salt", signertest.SignSoftly,
			append([]tls.SignatureScheme{tls.PSSWithSHA256, tls.PSSWithSHA384, tls.PSSWithSHA512}, pkcs1...), 32},
		{"an old TPM with the longest salt", func(key *rsa.PrivateKey, scheme tpm2.TPMAlgID, h crypto.Hash, d []byte) ([]byte, error) {
			return signertest.SoftSignature(key, scheme, h, d, 256-h.Size()-2)
		}, pkcs1, 222},
		{"a TPM that always salts with 32 bytes", func(key *rsa.PrivateKey, scheme tpm2.TPMAlgID, h crypto.Hash, d []byte) ([]byte, error) {
			return signertest.SoftSignature(key, scheme, h, d, 32)
		}, append([]tls.SignatureScheme{tls.PSSWithSHA256}, pkcs1...), 32},
		{"a TPM without PSS", func(key *rsa.PrivateKey, scheme tpm2.TPMAlgID, h crypto.Hash, d []byte) ([]byte, error) {
			if scheme == tpm2.TPMAlgRSAPSS {
				return nil, tpm2.TPMRCScheme
			}
			return signertest.SignSoftly(key, scheme, h, d)
		}, pkcs1, -1},
		{"a TPM that cannot sign with SHA-512", func(key *rsa.PrivateKey, scheme tpm2.TPMAlgID, h crypto.Hash, d []byte) ([]byte, error) {
			if h == crypto.SHA512 {
				return nil, tpm2.TPMRCHash
			}
			return signertest.SignSoftly(key, scheme, h, d)
		}, []tls.SignatureScheme{tls.PSSWithSHA256, tls.PSSWithSHA384, tls.PKCS1WithSHA256, tls.PKCS1WithSHA384}, 32},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, on, path := signertest.NewOtherMaker(t, signertest.SoftKey(t))
			m.Sign = tt.sign
			k := signertest.Open(t, on, path)
			if got := k.SignatureSchemes(t.Context()); !slices.Equal(got, tt.schemes) {
				t.Errorf("offers %v", got)
			}
			if got := k.Info().PSSSaltLength; got != tt.salt {
				t.Errorf("salt %d", got)
			}
			_, err := k.Sign(nil, make([]byte, 64), &rsa.PSSOptions{Hash: crypto.SHA512, SaltLength: rsa.PSSSaltLengthEqualsHash})
			if slices.Contains(tt.schemes, tls.PSSWithSHA512) != (err == nil) {
				t.Errorf("PSS with SHA-512: %v", err)
			}
			if err != nil && !errors.Is(err, signer.ErrUnsupported) {
				t.Error(err)
			}
		})
	}
}

func TestATPMThatFailsTheSelfTestIsNotUsed(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		sign func(*rsa.PrivateKey, tpm2.TPMAlgID, crypto.Hash, []byte) ([]byte, error)
		is   error
	}{
		{"wrong PKCS #1 signatures", func(key *rsa.PrivateKey, scheme tpm2.TPMAlgID, h crypto.Hash, d []byte) ([]byte, error) {
			return signertest.SoftSignature(key, scheme, h, make([]byte, len(d)), h.Size())
		}, signer.ErrFault},
		{"wrong PSS signatures", func(key *rsa.PrivateKey, scheme tpm2.TPMAlgID, h crypto.Hash, d []byte) ([]byte, error) {
			if scheme == tpm2.TPMAlgRSAPSS {
				d = make([]byte, len(d))
			}
			return signertest.SignSoftly(key, scheme, h, d)
		}, signer.ErrFault},
		{"PKCS #1 signatures in place of PSS", func(key *rsa.PrivateKey, _ tpm2.TPMAlgID, h crypto.Hash, d []byte) ([]byte, error) {
			return signertest.SignSoftly(key, tpm2.TPMAlgRSASSA, h, d)
		}, signer.ErrFault},
		{"no signature at all", func(*rsa.PrivateKey, tpm2.TPMAlgID, crypto.Hash, []byte) ([]byte, error) {
			return nil, tpm2.TPMRCScheme
		}, signer.ErrUnsupported},
		{"a code that says something else", func(*rsa.PrivateKey, tpm2.TPMAlgID, crypto.Hash, []byte) ([]byte, error) {
			return nil, tpm2.TPMRCLockout
		}, tpm2.TPMRCLockout},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, on, path := signertest.NewOtherMaker(t, signertest.SoftKey(t))
			m.Sign = tt.sign
			k, err := signer.Open(t.Context(), signer.Config{TPM: on, KeyFile: path})
			if err == nil {
				t.Fatal(k.Close())
			}
			if !errors.Is(err, tt.is) || !strings.Contains(err.Error(), "self-test") || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v", err)
			}
		})
	}
}
