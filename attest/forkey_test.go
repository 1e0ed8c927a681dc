package attest_test

import (
	"crypto/rand"
	"crypto/rsa"
	"testing"
	"time"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/internal/attesttest"
)

// TestWhoAsksAboutAKeyGetsAllOfIt: a policy that says nothing about keys must not
// make a key attested that the TPM never certified.
func TestWhoAsksAboutAKeyGetsAllOfIt(t *testing.T) {
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
			x := newTrial(t)
			x.policy = attest.PlatformPolicy()
			var name []byte
			if tc.public != nil {
				name = attesttest.Name(tc.public)
			}
			x.ChangeQuote = func(s *attesttest.Statement) { s.ExtraData = x.challenge.QuoteData(name) }
			e := x.Evidence(t, x.challenge)
			e.KeyPublic, e.Certify, e.CertifySignature = tc.public, nil, nil
			r := attest.VerifyForKey(e, x.challenge, &stranger.PublicKey, x.Anchors(), x.policy, x.now)
			if r.Verified() || r.Err() == nil || r.PublicKey != nil || r.KeyName != nil {
				t.Errorf("got verdict %v, key %v: the key was never certified", r.Verdict(), r.PublicKey)
			}
			if r := attest.Verify(e, x.challenge, x.Anchors(), x.policy, x.now); !r.Verified() || r.PublicKey != nil {
				t.Errorf("about the platform alone: got %v, %v, want verified and no key", r.Verdict(), r.Err())
			}
		})
	}
}

func TestStatementsWithoutANonceProveNoFreshness(t *testing.T) {
	x := newTrial(t)
	x.ChangeQuote = func(s *attesttest.Statement) { s.ExtraData = nil }
	x.ChangeCertify = func(s *attesttest.Statement) { s.ExtraData = nil }
	e := x.Evidence(t, x.challenge)
	r := attest.VerifyExpected(e, attest.Expected{}, x.Anchors(), x.policy, x.now)
	if r.Verified() || r.Status(attest.CheckQuoteNonce) != attest.Fail || r.Status(attest.CheckKeyCertifyNonce) != attest.Fail {
		t.Errorf("got %v, quote.nonce %v, key.certify.nonce %v; want a refusal of both", r.Verdict(), r.Status(attest.CheckQuoteNonce), r.Status(attest.CheckKeyCertifyNonce))
	}
	for _, c := range r.Proven {
		if c.Claim == "the evidence was made for this challenge" {
			t.Error("freshness is called proven")
		}
	}
}

func TestNoTimeIsNotNow(t *testing.T) {
	x := newTrial(t)
	r := attest.Verify(x.Evidence(t, x.challenge), x.challenge, x.Anchors(), x.policy, time.Time{})
	if r.Verified() || r.Status(attest.CheckSNPChain) != attest.Fail || r.Status(attest.CheckAKCertificate) != attest.Fail {
		t.Errorf("got %v: the zero time became this machine's clock", r.Verdict())
	}
}
