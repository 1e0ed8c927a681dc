package token_test

import (
	"crypto/sha256"
	"errors"
	"maps"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/attest"
	at "github.com/keyagent/keyagent/attest/internal/attesttest"
	"github.com/keyagent/keyagent/attest/token"
)

// What goes to the attestation service besides the evidence is looked at first: its refusal would
// be taken for its word about this machine.
func TestATransportKeyIsCheckedBeforeItIsSent(t *testing.T) {
	t.Parallel()
	keys := at.NewKeys(t)
	x := at.NewMachine(t, at.NewAMD(t), at.NewCA(t), keys)
	evidence := x.Evidence(t, attest.Challenge{Nonce: make([]byte, 32), Audience: "https://attest.example"})
	const attributes = 0x00020432
	public := at.Public(&keys.Other.PublicKey, attributes, policyOf(t, evidence.PCRs))
	good := x.Certify(t, public, at.Null, nil)
	if err := token.CheckTransportKey(evidence, good); err != nil {
		t.Fatalf("a good one: %v", err)
	}
	other := maps.Clone(evidence.PCRs)
	sum := sha256.Sum256(other[7])
	other[7] = sum[:]
	flipped := func(b []byte) []byte {
		b = append([]byte(nil), b...)
		b[len(b)-1] ^= 1
		return b
	}
	for name, change := range map[string]func(*attest.Certified){
		"a changed statement":   func(c *attest.Certified) { c.Attest = flipped(c.Attest) },
		"a changed signature":   func(c *attest.Certified) { c.Signature = flipped(c.Signature) },
		"a changed public area": func(c *attest.Certified) { c.Public = flipped(c.Public) },
		"bound to PCRs as they are by now": func(c *attest.Certified) {
			*c = x.Certify(t, at.Public(&keys.Other.PublicKey, attributes, policyOf(t, other)), at.Null, nil)
		},
		"bound to nothing": func(c *attest.Certified) {
			*c = x.Certify(t, at.Public(&keys.Other.PublicKey, attributes, nil), at.Null, nil)
		},
	} {
		c := good
		change(&c)
		var refused *attest.CheckError
		if err := token.CheckTransportKey(evidence, c); !errors.As(err, &refused) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// policyOf computes the digest of TPM2_PolicyPCR by other means than the verifier's.
func policyOf(t *testing.T, values map[int][]byte) []byte {
	t.Helper()
	var indices []uint
	digest := sha256.New()
	for i := range 24 {
		if v, ok := values[i]; ok {
			indices = append(indices, uint(i))
			digest.Write(v)
		}
	}
	calculator, err := tpm2.NewPolicyCalculator(tpm2.TPMAlgSHA256)
	if err != nil {
		t.Fatal(err)
	}
	err = tpm2.PolicyPCR{
		PcrDigest: tpm2.TPM2BDigest{Buffer: digest.Sum(nil)},
		Pcrs: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
			{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(indices...)},
		}},
	}.Update(calculator)
	if err != nil {
		t.Fatal(err)
	}
	return calculator.Hash().Digest
}
