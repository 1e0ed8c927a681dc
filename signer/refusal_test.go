package signer_test

import (
	"crypto"
	"crypto/rsa"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/signer/internal/signertest"
)

// refusing has the TPM's answers replaced by refusals, for the trials that are said.
func (c *counting) refusing(refused func(scheme tpm2.TPMAlgID, h crypto.Hash) bool, code tpm2.TPMRC) {
	c.sign = func(key *rsa.PrivateKey, scheme tpm2.TPMAlgID, h crypto.Hash, digest []byte) ([]byte, error) {
		if refused(scheme, h) {
			return nil, code
		}
		return signertest.SignSoftly(key, scheme, h, digest)
	}
}

func asPSS(scheme tpm2.TPMAlgID, _ crypto.Hash) bool     { return scheme == tpm2.TPMAlgRSAPSS }
func withSHA384(_ tpm2.TPMAlgID, h crypto.Hash) bool     { return h == crypto.SHA384 }
func pss256(scheme tpm2.TPMAlgID, h crypto.Hash) bool    { return asPSS(scheme, h) && h == crypto.SHA256 }
func withSHA256(_ tpm2.TPMAlgID, h crypto.Hash) bool     { return h == crypto.SHA256 }
func nothingRefused(_ tpm2.TPMAlgID, _ crypto.Hash) bool { return false }

// A TPM's error response has no HMAC. One that is forged during the first self-test costs PSS no
// longer than until the next start.
func TestAForgedRefusalEndsWithTheNextStart(t *testing.T) {
	t.Parallel()
	for _, code := range []tpm2.TPMRC{tpm2.TPMRCScheme, tpm2.TPMRCHash, tpm2.TPMRCValue, tpm2.TPMRCSize} {
		for name, refused := range map[string]func(tpm2.TPMAlgID, crypto.Hash) bool{"PSS": pss256, "SHA-256": withSHA256} {
			t.Run(fmt.Sprintf("%s, %v", name, code), func(t *testing.T) { // one simulated TPM at a time
				c, kept := newCounting(t), &memory{}
				c.refusing(refused, code)
				k, _ := c.open(t, kept)
				if slices.Contains(k.ProvenSchemes(), tls.PSSWithSHA256) {
					t.Error("what was refused is proven")
				}
				if strings.Contains(string(kept.text), "false") {
					t.Errorf("a refusal is kept: %s", kept.text)
				}
				c.refusing(nothingRefused, 0)
				k, _ = c.open(t, kept)
				if got := k.ProvenSchemes(); !slices.Contains(got, tls.PSSWithSHA256) || !slices.Contains(got, tls.PKCS1WithSHA256) {
					t.Errorf("after another start, proven are %v", got)
				}
				if !slices.Contains(k.TLSVersions(), tls.VersionTLS13) || k.Info().PSSSaltLength != 32 {
					t.Errorf("versions %x, salt %d", k.TLSVersions(), k.Info().PSSSaltLength)
				}
				if _, n := c.open(t, kept); n != 1 {
					t.Errorf("the start after that makes %d signatures", n)
				}
			})
		}
	}
}

// An outcome that is forged to mention less costs signatures, and no scheme.
func TestAnOutcomeThatMentionsLessTakesNothing(t *testing.T) {
	t.Parallel()
	c, kept := newCounting(t), &memory{}
	c.open(t, kept)
	good := string(kept.text)
	head, trials, _ := strings.Cut(good, "[\n")
	_, pkcs1, _ := strings.Cut(trials, "},\n")
	k, n := c.open(t, &memory{[]byte(head + "[\n" + pkcs1)})
	if n != 2 || !slices.Contains(k.ProvenSchemes(), tls.PSSWithSHA256) {
		t.Errorf("with PKCS #1 alone: %d signatures, proven are %v", n, k.ProvenSchemes())
	}
}

// What the TPM refused when it was first wanted is asked for again, by the process that goes on and
// by the next start, but not with each signature.
func TestARefusalHoldsForAMinute(t *testing.T) {
	t.Parallel()
	c, kept, now := newCounting(t), &memory{}, time.Now()
	k, err := signer.Open(t.Context(), signer.Config{TPM: c.on, KeyFile: c.path, Outcome: kept, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Close() }) // always nil
	sign := func(by *signer.Key) error {
		_, err := by.Sign(nil, make([]byte, 48), crypto.SHA384)
		return err
	}
	c.refusing(withSHA384, tpm2.TPMRCHash)
	before := c.made.Load()
	for range 5 {
		if err := sign(k); !errors.Is(err, signer.ErrUnsupported) {
			t.Errorf("refused: %v", err)
		}
	}
	if n := c.made.Load() - before; n != 1 {
		t.Errorf("five times refused cost %d commands", n)
	}
	if strings.Contains(string(kept.text), "SHA-384") {
		t.Errorf("a refusal is kept: %s", kept.text)
	}

	c.refusing(nothingRefused, 0)
	if again, _ := c.open(t, kept); sign(again) != nil {
		t.Error("another start is refused SHA-384 still")
	}
	now = now.Add(time.Minute - 1)
	if err := sign(k); !errors.Is(err, signer.ErrUnsupported) {
		t.Errorf("before the minute is over: %v", err)
	}
	now = now.Add(1)
	if err := sign(k); err != nil {
		t.Errorf("a minute later: %v", err)
	}
}

// PSS that was refused at the start comes back with a handshake whose server lists it.
func TestPSSComesBackWithAHandshake(t *testing.T) {
	t.Parallel()
	c, now := newCounting(t), time.Now()
	c.refusing(asPSS, tpm2.TPMRCScheme)
	k, err := signer.Open(t.Context(), signer.Config{TPM: c.on, KeyFile: c.path, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Close() }) // always nil
	server := []tls.SignatureScheme{tls.PSSWithSHA256, tls.PKCS1WithSHA256, tls.PKCS1WithSHA384}
	before := c.made.Load()
	if got := k.SchemesFor(t.Context(), server); !slices.Equal(got, []tls.SignatureScheme{tls.PKCS1WithSHA256}) || c.made.Load() != before {
		t.Errorf("at once: %v, %d commands", got, c.made.Load()-before)
	}
	c.refusing(nothingRefused, 0)
	now = now.Add(time.Minute)
	if got := k.SchemesFor(t.Context(), server); !slices.Contains(got, tls.PSSWithSHA256) || k.Info().PSSSaltLength != 32 {
		t.Errorf("later: %v, a salt of %d", got, k.Info().PSSSaltLength)
	}
	if !slices.Contains(k.TLSVersions(), tls.VersionTLS13) {
		t.Error("TLS 1.3 is not possible")
	}
}

// A server of TLS 1.3 lists PKCS #1 for certificates only (RFC 8446, 4.2.3).
func TestPKCS1DoesNotDoWhereTheServerListsPSS(t *testing.T) {
	t.Parallel()
	c := newCounting(t)
	k, _ := c.open(t, nil)
	trials := func(server ...tls.SignatureScheme) (_ []tls.SignatureScheme, n int32) {
		before := c.made.Load()
		got := k.SchemesFor(t.Context(), server)
		return got, c.made.Load() - before
	}
	if got, n := trials(tls.PKCS1WithSHA384, tls.PKCS1WithSHA256); n != 0 {
		t.Errorf("for a server without PSS: %d signatures for %v", n, got)
	}
	got, n := trials(tls.PSSWithSHA384, tls.PSSWithSHA512, tls.PKCS1WithSHA256, tls.PKCS1WithSHA384)
	if n != 2 || !slices.Contains(got, tls.PSSWithSHA384) || !slices.Contains(got, tls.PSSWithSHA512) {
		t.Errorf("for a server with PSS and PKCS #1: %d signatures for %v", n, got)
	}
	if got, n := trials(tls.PSSWithSHA384, tls.PKCS1WithSHA256); n != 0 {
		t.Errorf("when it is proven: %d signatures for %v", n, got)
	}
}
