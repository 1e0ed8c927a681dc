package attest_test

import (
	"crypto/rsa"
	"math/big"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/attest"
	at "github.com/keyagent/keyagent/attest/internal/attesttest"
)

// reason is why a check did not pass.
func reason(r *attest.Result, check string) string {
	for _, c := range r.Checks {
		if c.Name == check {
			return c.Reason
		}
	}
	return ""
}

// The chain is in order but for the size of a key, with which a verifier could be kept busy.
func TestAnIntermediateWithAKeyThatTakesLongIsNotVerifiedWith(t *testing.T) {
	t.Parallel()
	for bits, want := range map[int]attest.Status{4096: attest.Pass, 8192: attest.Pass, 9216: attest.Fail, 24576: attest.Fail} {
		x := newTrial(t)
		intermediate, leaf := x.CA.Intermediate(t, at.NewManyPrimes(t, bits), &x.AK.PublicKey)
		x.ChangeEvidence = func(e *attest.Evidence) { e.AKCertificate, e.AKIntermediates = leaf, [][]byte{intermediate} }
		r := x.run(t)
		got := r.Status(attest.CheckAKCertificate)
		if got != want || got == attest.Fail && !strings.Contains(reason(r, attest.CheckAKCertificate), "8192 bits") {
			t.Errorf("%d bits: %v (%s), want %v", bits, got, reason(r, attest.CheckAKCertificate), want)
		}
	}
}

func TestACertificateOverAKeyThatTakesLongIsRefused(t *testing.T) {
	t.Parallel()
	huge := &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(3), 8192), E: 65537}
	for check, change := range map[string]func(e *attest.Evidence, der []byte){
		attest.CheckAKCertificate: func(e *attest.Evidence, der []byte) { e.AKCertificate = der },
		attest.CheckSNPChain:      func(e *attest.Evidence, der []byte) { e.VCEKChain[0] = der },
	} {
		x := newTrial(t)
		der := x.CA.Issue(t, huge, nil)
		x.ChangeEvidence = func(e *attest.Evidence) { change(e, der) }
		if r := x.run(t); r.Status(check) != attest.Fail || !strings.Contains(reason(r, check), "8192 bits") {
			t.Errorf("%s: %v (%s)", check, r.Status(check), reason(r, check))
		}
	}
	if _, err := attest.ParseAKCertificate(newTrial(t).CA.Issue(t, huge, nil)); err == nil {
		t.Error("parsed")
	}
}
