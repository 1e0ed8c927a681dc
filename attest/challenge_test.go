package attest_test

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/attest"
)

// TestDerivationsAreFixed pins the bytes that other implementations must produce. The values were
// computed with sha256sum and sha512sum:
//
//	printf 'keyagent/attest/1 certify\0\0\25https://maa.example/x\0\20nonce of 16 byte' | sha256sum
func TestDerivationsAreFixed(t *testing.T) {
	t.Parallel()
	ch := attest.Challenge{Nonce: []byte("nonce of 16 byte"), Audience: "https://maa.example/x"}
	equal(t, "certify data", hex.EncodeToString(ch.CertifyData()), "5d91f87c047fd26e1c3d1f05e6187f903d3b2ea84d7eea30058331614f805615")
	equal(t, "quote data", hex.EncodeToString(ch.QuoteData([]byte{0x00, 0x0B, 0x01})), "1cc86e606565f04730ada5984bb472c81e4e7df98ec073e84bbee4da45bb89e3")
	equal(t, "user data", hex.EncodeToString(ch.UserData([]byte{0x00, 0x0B, 0x01})), "ac4de1a92654881e188ae0adbbecc628c964e29b18ca84ae05cf11d4c65d3e3bfddb1a58c94d8f077eb7cfd3c676a0bc3732d875bd84dae1a65753849d0d77b9")
	equal(t, "quote data without a key", hex.EncodeToString(ch.QuoteData(nil)), "3df2683bd22806b4e56ff79fc0b21155d90553f2999f2ebb6fa6bd0f79bac7fc")
}

func TestDerivationsKeepTheirInputsApart(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for name, data := range map[string][]byte{
		"certify":                 attest.Challenge{Nonce: []byte("n"), Audience: "ab"}.CertifyData(),
		"quote of no key":         attest.Challenge{Nonce: []byte("n"), Audience: "ab"}.QuoteData(nil),
		"user data of a key":      attest.Challenge{Nonce: []byte("n"), Audience: "ab"}.UserData([]byte("k")),
		"quote of a key":          attest.Challenge{Nonce: []byte("n"), Audience: "ab"}.QuoteData([]byte("k")),
		"letter moved to nonce":   attest.Challenge{Nonce: []byte("bn"), Audience: "a"}.CertifyData(),
		"letter moved to the key": attest.Challenge{Nonce: []byte{}, Audience: "ab"}.QuoteData([]byte("n")),
	} {
		if other, ok := seen[string(data)]; ok {
			t.Errorf("%s gives the same bytes as %s", name, other)
		}
		seen[string(data)] = name
	}
}

func TestChallengeLimits(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		ch   attest.Challenge
		ok   bool
	}{
		{"shortest nonce", attest.Challenge{Nonce: make([]byte, 16), Audience: "a"}, true},
		{"longest nonce", attest.Challenge{Nonce: make([]byte, 64), Audience: "a"}, true},
		{"nonce too short", attest.Challenge{Nonce: make([]byte, 15), Audience: "a"}, false},
		{"nonce too long", attest.Challenge{Nonce: make([]byte, 65), Audience: "a"}, false},
		{"no audience", attest.Challenge{Nonce: make([]byte, 16)}, false},
		{"audience too long", attest.Challenge{Nonce: make([]byte, 16), Audience: strings.Repeat("a", 1025)}, false},
	} {
		if err := tt.ch.Validate(); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestStatementDataFitsATPM(t *testing.T) {
	t.Parallel()
	ch := attest.Challenge{Nonce: bytes.Repeat([]byte{1}, 64), Audience: strings.Repeat("a", 1024)}
	if n := len(ch.QuoteData(make([]byte, 34))); n > 50 {
		t.Errorf("%d bytes, a TPM takes 50", n)
	}
}
