package policyfile_test

import (
	"fmt"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/policyfile"
)

// A policy that is not understood as a whole is none: a rule with a typing error in it would
// otherwise be a rule that nobody asks for.
func ExampleParse() {
	noFiles := func(string) ([]byte, error) { return nil, fmt.Errorf("this policy names no files") }
	text := "sev_snp:\n  min_tbc: db18000000000004\n"
	if _, err := policyfile.Parse("policy.yaml", []byte(text), noFiles); err != nil {
		fmt.Println(err)
	}
	text = "require: [ak.certificate]\nsev_snp:\n  min_tcb: {milan: db18000000000004}\n"
	policy, err := policyfile.Parse("policy.yaml", []byte(text), noFiles)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("Milan:", policy.Rules.MinTCBOf["Milan"])
	fmt.Println("checks beyond the default policy:", len(policy.Rules.Requires())-len(attest.DefaultPolicy().Requires()))
	// Output:
	// policy.yaml: line 2: unknown member "min_tbc" of sev_snp; did you mean min_tcb?
	// Milan: db18000000000004
	// checks beyond the default policy: 1
}
