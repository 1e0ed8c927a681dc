package signer_test

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/tls"
	"io/fs"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/signer/internal/signertest"
	"github.com/keyagent/keyagent/tpm"
)

// memory keeps an outcome in memory.
type memory struct{ text []byte }

func (m *memory) Load() ([]byte, error) {
	if m.text == nil {
		return nil, fs.ErrNotExist
	}
	return m.text, nil
}

func (m *memory) Save(text []byte) error {
	m.text = bytes.Clone(text)
	return nil
}

// counting is a key in a TPM of which each signature is counted.
type counting struct {
	on   *tpm.TPM
	path string
	made atomic.Int32
	sign func(*rsa.PrivateKey, tpm2.TPMAlgID, crypto.Hash, []byte) ([]byte, error)
}

func newCounting(t *testing.T) *counting {
	t.Helper()
	m, on, path := signertest.NewOtherMaker(t, signertest.SoftKey(t))
	c := &counting{on: on, path: path, sign: signertest.SignSoftly}
	m.Sign = func(key *rsa.PrivateKey, scheme tpm2.TPMAlgID, h crypto.Hash, digest []byte) ([]byte, error) {
		c.made.Add(1)
		return c.sign(key, scheme, h, digest)
	}
	return c
}

// open opens the key and says how many signatures that took.
func (c *counting) open(t *testing.T, in signer.Outcome) (*signer.Key, int32) {
	t.Helper()
	before := c.made.Load()
	k, err := signer.Open(t.Context(), signer.Config{TPM: c.on, KeyFile: c.path, Outcome: in})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Close() }) // always nil
	return k, c.made.Load() - before
}

func TestAKeptOutcomeSparesSignatures(t *testing.T) {
	t.Parallel()
	c, kept := newCounting(t), &memory{}
	if _, n := c.open(t, kept); n != 2 {
		t.Errorf("a new key is tested with %d signatures", n)
	}
	k, n := c.open(t, kept)
	if n != 1 {
		t.Errorf("a key whose outcome is kept is tested with %d signatures", n)
	}
	if got := k.ProvenSchemes(); !slices.Equal(got, []tls.SignatureScheme{tls.PSSWithSHA256, tls.PKCS1WithSHA256}) {
		t.Errorf("proven are %v", got)
	}
	if k.Info().PSSSaltLength != 32 {
		t.Errorf("salt %d", k.Info().PSSSaltLength)
	}
}

// A damaged outcome, or one of another key or TPM, is ignored: the key is tested, and the outcome
// made anew.
func TestAnOutcomeOfSomethingElseIsIgnored(t *testing.T) {
	t.Parallel()
	c, kept := newCounting(t), &memory{}
	c.open(t, kept)
	good := string(kept.text)
	replaced := func(old, with string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("there is no %q in %s", old, good)
		}
		return strings.Replace(good, old, with, 1)
	}
	for name, text := range map[string]string{
		"nothing":                      "",
		"half of it":                   good[:len(good)/2],
		"another key's":                replaced(`"key_name": "000b`, `"key_name": "000c`),
		"another firmware's":           replaced(`"firmware_version": "0x`, `"firmware_version": "0y`),
		"another maker's TPM's":        replaced(`"manufacturer": "`, `"manufacturer": "X`),
		"with a member that is new":    replaced(`"trials"`, `"more": 1, "trials"`),
		"with an unknown scheme":       replaced("rsassa-pss", "rsassa-pst"),
		"with an unknown hash":         replaced("SHA-256", "SHA-1"),
		"with a wrong salt that works": replaced(`"salt_length": 32`, `"salt_length": 222`),
		"with a refusal of PSS":        replaced("true,\n      \"salt_length\": 32", "false"),
		"with a refusal of PKCS #1":    replaced("-v1_5\",\n      \"hash\": \"SHA-256\",\n      \"works\": true", "-v1_5\",\n      \"hash\": \"SHA-256\",\n      \"works\": false"),
		"with more behind it":          good + good,
	} {
		kept := &memory{[]byte(text)}
		if _, n := c.open(t, kept); n != 2 {
			t.Errorf("%s: the key was tested with %d signatures", name, n)
		}
		if string(kept.text) != good {
			t.Errorf("%s: kept is %s", name, kept.text)
		}
	}
}

// A TPM that signs otherwise than it did is tested as a new one, and nothing is offered that it
// does not do now.
func TestAnOutcomeThatIsNotSoAnyMoreIsMadeAnew(t *testing.T) {
	t.Parallel()
	c, kept := newCounting(t), &memory{}
	c.open(t, kept)
	c.sign = func(key *rsa.PrivateKey, scheme tpm2.TPMAlgID, h crypto.Hash, digest []byte) ([]byte, error) {
		return signertest.SoftSignature(key, scheme, h, digest, 256-h.Size()-2)
	}
	k, n := c.open(t, kept)
	if n != 3 {
		t.Errorf("it was tested with %d signatures", n)
	}
	if got := k.ProvenSchemes(); !slices.Equal(got, []tls.SignatureScheme{tls.PKCS1WithSHA256}) {
		t.Errorf("proven are %v", got)
	}
	if !strings.Contains(string(kept.text), `"salt_length": 222`) {
		t.Errorf("kept is %s", kept.text)
	}
}

// A forged outcome lets nothing leave: each signature is verified.
func TestAForgedOutcomeLetsNoWrongSignatureLeave(t *testing.T) {
	t.Parallel()
	c, kept := newCounting(t), &memory{}
	c.sign = func(key *rsa.PrivateKey, scheme tpm2.TPMAlgID, h crypto.Hash, digest []byte) ([]byte, error) {
		salt := h.Size()
		if h == crypto.SHA384 {
			salt = 20
		}
		return signertest.SoftSignature(key, scheme, h, digest, salt)
	}
	c.open(t, kept)
	forged := strings.Replace(string(kept.text), `"trials": [`, `"trials": [{"scheme": "rsassa-pss", "hash": "SHA-384", "works": true, "salt_length": 48},`, 1)
	k, _ := c.open(t, &memory{[]byte(forged)})
	digest := make([]byte, 48)
	if _, err := k.Sign(nil, digest, &rsa.PSSOptions{Hash: crypto.SHA384, SaltLength: rsa.PSSSaltLengthEqualsHash}); err == nil {
		t.Error("a signature with another salt left")
	}
}

func TestAHashIsTriedOutWhenItIsFirstWanted(t *testing.T) {
	t.Parallel()
	c, kept := newCounting(t), &memory{}
	k, _ := c.open(t, kept)
	sign := func(want int32) {
		t.Helper()
		before := c.made.Load()
		if _, err := k.Sign(nil, make([]byte, 48), crypto.SHA384); err != nil {
			t.Error(err)
		}
		if n := c.made.Load() - before; n != want {
			t.Errorf("it took %d signatures, want %d", n, want)
		}
	}
	sign(2)
	sign(1)
	again, _ := c.open(t, kept)
	if !slices.Contains(again.ProvenSchemes(), tls.PKCS1WithSHA384) {
		t.Error("what was found out was not kept")
	}
	// A server that takes a proven scheme has nothing tried out; another has what it takes.
	before := c.made.Load()
	if got := k.SchemesFor(t.Context(), []tls.SignatureScheme{tls.PSSWithSHA512, tls.PSSWithSHA256}); slices.Contains(got, tls.PSSWithSHA512) || c.made.Load() != before {
		t.Errorf("for a server with SHA-256: %v, %d signatures", got, c.made.Load()-before)
	}
	if got := k.SchemesFor(t.Context(), []tls.SignatureScheme{tls.PSSWithSHA512}); !slices.Contains(got, tls.PSSWithSHA512) || c.made.Load() != before+1 {
		t.Errorf("for a server with SHA-512 alone: %v, %d signatures", got, c.made.Load()-before)
	}
}
