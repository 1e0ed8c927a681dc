package report_test

import (
	"fmt"
	"strings"
	"time"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/report"
)

// A program that files what it found keeps the report, which says the same to people and programs.
func ExampleVerify() {
	bundle := []byte(`{"format":"keyagent-evidence/1"}`) // what the machine sent
	challenge := attest.Challenge{Nonce: make([]byte, 32), Audience: "https://verifier.example"}
	q := report.Question{
		File: "vm.json", Challenge: &challenge, Rules: attest.DefaultPolicy(), Anchors: attest.DefaultTrustAnchors(),
		At: time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC), // time.Now() in a program
	}
	found := report.Verify(bundle, q)
	fmt.Println(found.Headline())
	fmt.Println("first:", found.Hindrances()[0].Name)
	var page strings.Builder // a file in a program
	if err := found.WritePage(&page, report.Explain(q.Rules, q.Policy)); err != nil {
		fmt.Println(err)
	}
	fmt.Println("page:", strings.SplitN(page.String(), "\n", 2)[0])
	// Output:
	// NOT VERIFIED at 2026-06-01T12:00:00Z: nothing is wrong, but not all is there
	// first: hcl.binding
	// page: <!DOCTYPE html>
}
