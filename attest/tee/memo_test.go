package tee_test

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
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

// The certificate above a VCEK is AMD's only if the ARK signed it, whichever way the roots were
// made, and both are held to their times.
func TestTheARKsOwnSignaturesAreChecked(t *testing.T) {
	t.Parallel()
	vcek, milan, genoa := realVCEK(t, "snp-milan-2023"), tee.DefaultAMDRoots()[0], tee.DefaultAMDRoots()[1]
	forged := bytes.Clone(milan.ASK.Raw)
	forged[len(forged)-1] ^= 1
	file := func(certificates ...[]byte) []byte {
		var text []byte
		for _, der := range certificates {
			text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
		}
		return text
	}
	read := func(certificates ...[]byte) tee.AMDRoot {
		roots, err := tee.ParseAMDRoots(file(certificates...))
		if err != nil {
			t.Fatal(err)
		}
		return roots[0]
	}
	replaced := read(milan.ARK.Raw, milan.ASK.Raw)
	replaced.ARK = genoa.ARK
	ask, err := x509.ParseCertificate(forged)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		root tee.AMDRoot
		year int
		ok   bool
	}{
		"read":                                   {read(milan.ARK.Raw, milan.ASK.Raw), 2024, true},
		"made of its parts":                      {tee.AMDRoot{Product: "Milan", ARK: milan.ARK, ASK: milan.ASK}, 2024, true},
		"read, with another signature":           {read(milan.ARK.Raw, forged), 2024, false},
		"made of its parts, another signature":   {tee.AMDRoot{Product: "Milan", ARK: milan.ARK, ASK: ask}, 2024, false},
		"read, and then the ARK of another line": {replaced, 2024, false},
		"read, before its time":                  {read(milan.ARK.Raw, milan.ASK.Raw), 2019, false},
		"read, after its time":                   {read(milan.ARK.Raw, milan.ASK.Raw), 2050, false},
	} {
		if _, err := tee.VerifySigner(vcek, []tee.AMDRoot{tt.root}, at(tt.year)); (err == nil) != tt.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
