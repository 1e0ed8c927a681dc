package attest_test

import (
	"bytes"
	"crypto/rsa"
	"math/big"
	"testing"

	"github.com/keyagent/keyagent/attest"
	at "github.com/keyagent/keyagent/attest/internal/attesttest"
)

func TestOnlyRSAKeysOfOneKindAreUnderstood(t *testing.T) {
	t.Parallel()
	w := sharedWorld(t)
	good := at.Public(&w.keys.Key.PublicKey, at.BindingKeyAttributes, nil)
	if err := attest.ParsePublicArea(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func([]byte) []byte{
		"an elliptic curve key":             func(b []byte) []byte { b[1] = 0x23; return b },
		"SHA-384 Names":                     func(b []byte) []byte { b[3] = 0x0C; return b },
		"a symmetric algorithm":             func(b []byte) []byte { b[11] = 0x06; return b },
		"a decryption scheme":               func(b []byte) []byte { b[13] = 0x15; return b },
		"key bits that do not fit":          func(b []byte) []byte { b[14] = 0x10; return b },
		"a modulus size that does not fit":  func(b []byte) []byte { b[20] = 0x00; return b },
		"a small modulus behind zero bytes": func(b []byte) []byte { b[22] = 0; return b },
		"an exponent of 1":                  func(b []byte) []byte { b[19] = 1; return b },
		"cut off":                           func(b []byte) []byte { return b[:len(b)-1] },
		"more":                              func(b []byte) []byte { return append(b, 0) },
		"nothing":                           func([]byte) []byte { return nil },
	} {
		if err := attest.ParsePublicArea(change(bytes.Clone(good))); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for _, bits := range []uint{512, 1024, 8192} {
		n := new(big.Int).SetBit(big.NewInt(1), int(bits)-1, 1)
		if err := attest.ParsePublicArea(at.Public(&rsa.PublicKey{N: n}, at.BindingKeyAttributes, nil)); err == nil {
			t.Errorf("a key of %d bits is accepted", bits)
		}
	}
}

func TestStatementsHaveALimit(t *testing.T) {
	t.Parallel()
	long := at.Statement{Magic: 0xFF544347, Type: 0x8017, ExtraData: make([]byte, 2000), Body: make([]byte, 4)}.Bytes()
	if err := attest.ParseCertify(long); err == nil {
		t.Errorf("%d bytes are accepted", len(long))
	}
}

func TestAQuoteOfNothingIsRefusedUnderEveryPolicy(t *testing.T) {
	t.Parallel()
	x := newTrial(t)
	x.policy.PCRs = nil
	x.ChangeQuote = func(s *at.Statement) { s.Body = at.Quoted(0x000B, []byte{0, 0, 0}, nil) }
	x.ChangeEvidence = func(e *attest.Evidence) { e.PCRs = nil }
	if r := x.run(t); r.Status(attest.CheckQuoteSelection) != attest.Fail {
		t.Errorf("quote.selection is %q", r.Status(attest.CheckQuoteSelection))
	}
}
