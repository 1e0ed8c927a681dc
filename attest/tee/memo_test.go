package tee_test

import (
	"bytes"
	"crypto/x509"
	"testing"

	"github.com/keyagent/keyagent/attest/tee"
)

// What was verified once is held to its times, and to all of its bytes, each time.
func TestAChainThatWasVerifiedBeforeIsHeldToItsTimesAndBytes(t *testing.T) {
	t.Parallel()
	roots := tee.Remembering(tee.DefaultAMDRoots())
	vcek := realVCEK(t, "snp-milan-2023")
	for range 2 {
		if _, err := tee.VerifySigner(vcek, roots, at(2024)); err != nil {
			t.Fatal(err)
		}
	}
	for _, year := range []int{2000, 2035, 2060} {
		if _, err := tee.VerifySigner(vcek, roots, at(year)); err == nil {
			t.Errorf("valid in %d", year)
		}
	}
	signed := bytes.Clone(vcek.Raw)
	signed[len(signed)-1] ^= 1
	changed, err := x509.ParseCertificate(signed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tee.VerifySigner(changed, roots, at(2024)); err == nil {
		t.Error("another signature is accepted")
	}
	roots[0].ASK = roots[1].ASK
	if _, err := tee.VerifySigner(vcek, roots, at(2024)); err == nil {
		t.Error("another issuer in the place of the one that was verified is accepted")
	}
}
