package attest_test

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/tee"
)

// captured reads evidence of a real machine, about its platform alone: an SEV-SNP report, its VCEK,
// and a quote for the nonce "challenge".
func captured() (*attest.Evidence, error) {
	const folder = "../testdata/azure-cvm/snp-milan-2023"
	var problems []error
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(folder, name))
		problems = append(problems, err)
		return b
	}
	e := &attest.Evidence{
		HCLReport: read("hcl-report.bin"),
		Quote:     read("quote.msg"), QuoteSignature: read("quote.sig"),
		PCRs: map[int][]byte{},
	}
	chain, err := attest.ParseCertificates(read("vcek-chain.pem"))
	problems = append(problems, err)
	for _, cert := range chain {
		e.VCEKChain = append(e.VCEKChain, cert.Raw)
	}
	var list struct {
		PCRs map[string]string `json:"pcrs"`
	}
	problems = append(problems, json.Unmarshal(read("pcrs.json"), &list))
	for name, value := range list.PCRs {
		index, err := strconv.Atoi(name)
		problems = append(problems, err)
		e.PCRs[index], err = hex.DecodeString(value)
		problems = append(problems, err)
	}
	return e, errors.Join(problems...)
}

// A relying party sends a challenge and gets a bundle, which it verifies before it relies on
// anything in it. This bundle was made for another challenge and has no binding key; the errors
// name the checks.
func ExampleVerify() {
	challenge := attest.Challenge{Nonce: make([]byte, 32), Audience: "https://verifier.example"}
	if _, err := rand.Read(challenge.Nonce); err != nil {
		fmt.Println(err)
		return
	}
	old, err := captured()
	if err != nil {
		fmt.Println(err)
		return
	}
	bundle, err := old.Encode() // what the machine sent
	if err != nil {
		fmt.Println(err)
		return
	}

	evidence, err := attest.Parse(bundle)
	if err != nil {
		fmt.Println(err)
		return
	}
	now := time.Date(2024, 6, 1, 0, 0, 0, 0, time.UTC) // time.Now() in a program
	result := attest.Verify(evidence, challenge, attest.DefaultTrustAnchors(), attest.DefaultPolicy(), now)
	if err := result.Err(); err == nil {
		fmt.Println("verified; the binding key is", result.PublicKey)
	}
	fmt.Println("verdict:", result.Verdict())
	for _, check := range result.Checks {
		if check.Status == attest.Fail {
			fmt.Println("failed:", check.Name)
		}
	}
	fmt.Println("binding key:", result.Status(attest.CheckKeyPublic))
	// Output:
	// verdict: rejected
	// failed: quote.nonce
	// binding key: not-applicable
}

// Evidence that another program collected has extraData of that program's protocol. The result says
// what is proven, and what the proof rests on.
func ExampleVerifyExpected() {
	evidence, err := captured()
	if err != nil {
		fmt.Println(err)
		return
	}
	expected := attest.Expected{
		Quote:      []byte("challenge"),
		AllowShort: true, // nine bytes: enough for an example, not for a protocol
	}
	now := time.Date(2024, 6, 1, 0, 0, 0, 0, time.UTC)
	policy := attest.PlatformPolicy() // about the machine, not about a key
	result := attest.VerifyExpected(evidence, expected, attest.DefaultTrustAnchors(), policy, now)
	if err := result.Err(); err != nil {
		fmt.Println(err)
		return
	}
	for _, c := range result.Proven {
		fmt.Printf("proven: %s (%s)\n", c.Claim, c.Anchor)
	}
	for _, c := range result.NotProven {
		fmt.Printf("not proven: %s (%s)\n", c.Claim, c.Reason)
	}
	// Output:
	// proven: hardware is a genuine AMD SEV-SNP processor (AMD root ARK-Milan)
	// proven: the host cannot read or migrate the guest's memory (AMD root ARK-Milan)
	// proven: the firmware is Azure's paravisor (launch identity in the verifier's policy)
	// proven: the evidence was made for this challenge (attestation key in the hardware-signed claims)
	// proven: the boot measurements are those listed (attestation key in the hardware-signed claims)
	// not proven: the attestation key belongs to an Azure virtual TPM (ak.certificate)
	// not proven: the binding key lives in this TPM and cannot leave it (key.public)
	// not proven: the event log describes the boot (eventlog.replay)
}

// A relying party writes its policy in Go, or has package policyfile read it. Requires says which
// checks must pass, so that a test can hold a policy to what was meant.
func ExamplePolicy() {
	p := attest.DefaultPolicy()
	p.TEE = []attest.Kind{attest.KindSNP}
	p.Required = append(p.Required, attest.CheckAKCertificate)
	p.MinTCBOf = map[string]tee.TCB{"Milan": 0xdb18000000000004} // and no other product line
	p.PCRs = []int{0, 1, 2, 3, 4, 5, 6, 7, 11}
	for _, check := range []string{attest.CheckAKCertificate, attest.CheckQuoteNonce, attest.CheckSNPRevocation} {
		fmt.Println(check, slices.Contains(p.Requires(), check))
	}
	// Output:
	// ak.certificate true
	// quote.nonce true
	// snp.revocation false
}
