package attest_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/internal/attesttest"
)

// TestAskingAboutAKeyRequiresAllOfItsChecks: a policy that says nothing about keys must not
// make a key attested that the TPM never certified.
func TestAskingAboutAKeyRequiresAllOfItsChecks(t *testing.T) {
	t.Parallel()
	stranger, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	shown := attesttest.Public(&stranger.PublicKey, 0x00040472, nil)
	for _, tc := range []struct {
		name   string
		public []byte // shown as the binding key, without certify
	}{
		{"no key in the evidence", nil},
		{"a software key that is only shown", shown},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			x := newTrial(t)
			x.policy = attest.PlatformPolicy()
			var name []byte
			if tc.public != nil {
				name = attesttest.Name(tc.public)
			}
			x.ChangeQuote = func(s *attesttest.Statement) { s.ExtraData = x.challenge.QuoteData(name) }
			e := x.Evidence(t, x.challenge)
			e.KeyPublic, e.Certify, e.CertifySignature = tc.public, nil, nil
			expected := attest.Expected{Quote: x.challenge.QuoteData(name), Key: &stranger.PublicKey}
			for how, r := range map[string]*attest.Result{
				"VerifyForKey":   attest.VerifyForKey(e, x.challenge, &stranger.PublicKey, x.Anchors(), x.policy, x.now),
				"VerifyExpected": attest.VerifyExpected(e, expected, x.Anchors(), x.policy, x.now),
			} {
				if r.Verified() || r.Err() == nil || r.PublicKey != nil || r.KeyName != nil {
					t.Errorf("%s: got verdict %v, key %v: the key was never certified", how, r.Verdict(), r.PublicKey)
				}
			}
			if r := attest.Verify(e, x.challenge, x.Anchors(), x.policy, x.now); !r.Verified() || r.PublicKey != nil {
				t.Errorf("about the platform alone: got %v, %v, want verified and no key", r.Verdict(), r.Err())
			}
		})
	}
}

// TestAKeyThatCouldNotBeReadIsNoKey: x509 leaves the key of a request nil if it does not know its
// algorithm.
func TestAKeyThatCouldNotBeReadIsNoKey(t *testing.T) {
	t.Parallel()
	x := newTrial(t)
	var unknown crypto.PublicKey
	r := attest.VerifyForKey(x.Evidence(t, x.challenge), x.challenge, unknown, x.Anchors(), x.policy, x.now)
	if r.Verified() || r.Status(attest.CheckKeyMatch) != attest.Fail {
		t.Errorf("got %v, key.match %v", r.Verdict(), r.Status(attest.CheckKeyMatch))
	}
}

// TestWithoutANonceNothingIsFresh: statements that carry just what a careless verifier expects are
// not made for it.
func TestWithoutANonceNothingIsFresh(t *testing.T) {
	t.Parallel()
	short := []byte("15 bytes of it.")
	for _, tc := range []struct {
		name     string
		expected attest.Expected
	}{
		{"no expectation", attest.Expected{}},
		{"no expectation, short ones allowed", attest.Expected{AllowShort: true}},
		{"an empty one, short ones allowed", attest.Expected{Certify: []byte{}, Quote: []byte{}, AllowShort: true}},
		{"a short one", attest.Expected{Certify: short, Quote: short}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			x := newTrial(t)
			mustNotBeFresh(t, attest.VerifyExpected(evidenceFor(t, x, tc.expected), tc.expected, x.Anchors(), x.policy, x.now))
		})
	}
	t.Run("a challenge without a nonce", func(t *testing.T) {
		t.Parallel()
		x := newTrial(t)
		x.challenge.Nonce = nil
		mustNotBeFresh(t, x.run(t))
	})
}

// evidenceFor has the statements carry what is expected of them.
func evidenceFor(t *testing.T, x *trial, expected attest.Expected) *attest.Evidence {
	t.Helper()
	x.ChangeCertify = func(s *attesttest.Statement) { s.ExtraData = expected.Certify }
	x.ChangeQuote = func(s *attesttest.Statement) { s.ExtraData = expected.Quote }
	return x.Evidence(t, x.challenge)
}

func mustNotBeFresh(t *testing.T, r *attest.Result) {
	t.Helper()
	for _, check := range []string{attest.CheckQuoteNonce, attest.CheckKeyCertifyNonce} {
		if got := r.Status(check); got != attest.Fail {
			t.Errorf("%s is %q, want fail", check, got)
		}
	}
	if r.Verified() || r.PublicKey != nil {
		t.Errorf("got %v, key %v", r.Verdict(), r.PublicKey)
	}
	if slices.ContainsFunc(r.Proven, func(c attest.Claim) bool { return strings.Contains(c.Claim, "challenge") }) {
		t.Errorf("freshness is called proven: %v", r.Proven)
	}
}

func TestShortNoncesAreAcceptedOnRequestOnly(t *testing.T) {
	t.Parallel()
	for _, expected := range []attest.Expected{
		{Certify: []byte("challenge"), Quote: []byte("challenge"), AllowShort: true},
		{Certify: make([]byte, attest.MinNonceSize), Quote: make([]byte, attest.MinNonceSize)},
	} {
		x := newTrial(t)
		if err := attest.VerifyExpected(evidenceFor(t, x, expected), expected, x.Anchors(), x.policy, x.now).Err(); err != nil {
			t.Errorf("%d bytes: %v", len(expected.Quote), err)
		}
	}
}

// TestTheZeroTimeIsNotTakenForNow looks at the reasons: certificates that expired meanwhile would
// fail at this machine's time too.
func TestTheZeroTimeIsNotTakenForNow(t *testing.T) {
	t.Parallel()
	x := newTrial(t)
	r := attest.Verify(x.Evidence(t, x.challenge), x.challenge, x.Anchors(), x.policy, time.Time{})
	refused := map[string]bool{attest.CheckSNPChain: false, attest.CheckAKCertificate: false}
	for _, c := range r.Checks {
		if _, ok := refused[c.Name]; ok {
			refused[c.Name] = c.Status == attest.Fail && strings.Contains(c.Reason, "no time")
		}
	}
	for check, ok := range refused {
		if !ok {
			t.Errorf("%s: the zero time became this machine's clock", check)
		}
	}
	if r.Verified() {
		t.Error("verified")
	}
}
