package cases

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/keyagent/keyagent/attest"
)

// Report is the result for a file.
type Report struct {
	Format string     `json:"format"` // ReportFormat
	File   string     `json:"file"`
	Failed int        `json:"failed"` // cases that did not come out as expected
	Cases  []*Outcome `json:"cases"`
	Notes  []string   `json:"notes,omitempty"` // what the file says that this program does not know
}

// ReportFormat names the layout of a Report in JSON.
const ReportFormat = "azure-cvm-verdicts/1"

// Outcome is the result of one case.
type Outcome struct {
	ID         string `json:"id"`
	Expected   string `json:"expected"`
	Got        string `json:"got"` // verified, rejected, partial, parsed or unreadable
	AsExpected bool   `json:"as_expected"`
	// Problems are all ways in which the case did not come out as expected.
	Problems []string `json:"problems,omitempty"`
	// Notes are what the case says that this program does not know. They do not count.
	Notes  []string       `json:"notes,omitempty"`
	Checks []attest.Check `json:"checks,omitempty"` // those that passed, failed or did not apply
	Proven []attest.Claim `json:"proven,omitempty"`
}

const unreadable = "unreadable"

// FailedChecks lists the names of the checks that failed.
func (o *Outcome) FailedChecks() []string {
	var names []string
	for _, c := range o.Checks {
		if c.Status == attest.Fail {
			names = append(names, c.Name)
		}
	}
	return names
}

// Judge judges every case of the file, in its order. A fault of the file itself is one more failed
// case.
func (f *File) Judge() *Report {
	r := &Report{Format: ReportFormat, File: f.name, Notes: f.notes}
	if len(f.problems) > 0 {
		r.Cases = append(r.Cases, &Outcome{ID: "(file)", Got: unreadable, Problems: f.problems})
	}
	seen := map[string]bool{}
	for i, raw := range f.cases {
		o := f.judge(raw)
		if o.ID == "" {
			o.ID = fmt.Sprintf("(case %d)", i+1)
		}
		if seen[o.ID] {
			o.problem("a case of this id came before")
		}
		seen[o.ID] = true
		r.Cases = append(r.Cases, o)
	}
	for _, o := range r.Cases {
		o.AsExpected = len(o.Problems) == 0
		if !o.AsExpected {
			r.Failed++
		}
	}
	return r
}

func (o *Outcome) note(format string, args ...any) {
	o.Notes = append(o.Notes, fmt.Sprintf(format, args...))
}

func (o *Outcome) problem(format string, args ...any) {
	o.Problems = append(o.Problems, fmt.Sprintf(format, args...))
}

// judge judges one case. Whatever goes wrong with it is its own failure: the evidence comes from
// people who try to break this program, and a mistake in it must not hide the other cases.
func (f *File) judge(raw []byte) (o *Outcome) {
	c, err := readCase(raw)
	o = &Outcome{ID: c.ID, Expected: c.Expect, Got: unreadable, Notes: c.notes}
	defer func() {
		if p := recover(); p != nil {
			o.problem("a mistake in this program: %v", p)
		}
	}()
	if err != nil {
		o.problem("%v", err)
		return o
	}
	p, result, err := f.verify(c, nil)
	if err != nil {
		o.problem("%v", err)
		return o
	}
	o.Checks, o.Proven = result.Checks, result.Proven
	o.Got = c.verdict(result)
	o.compare(c, result)
	o.compareFacts(c.Facts, p, result)
	return o
}

// Case returns the first case of this id, for callers who change it or its policy.
func (f *File) Case(id string) (*Case, error) {
	for _, raw := range f.cases {
		if c, err := readCase(raw); c.ID == id {
			return c, err
		}
	}
	return nil, fmt.Errorf("%s: no case %q", f.name, id)
}

// Evidence puts the parts of a case together. An attestation key of which the case has nothing but
// the key is not in it.
func (f *File) Evidence(c *Case) (*attest.Evidence, error) {
	p, err := f.readParts(c)
	if err != nil {
		return nil, err
	}
	return &p.evidence, nil
}

// Verify verifies the evidence of a case, whatever the case expects. change, if not nil, changes
// the policy first.
func (f *File) Verify(c *Case, change func(*attest.Policy)) (*attest.Result, error) {
	_, result, err := f.verify(c, change)
	return result, err
}

func (f *File) verify(c *Case, change func(*attest.Policy)) (*parts, *attest.Result, error) {
	p, err := f.readParts(c)
	if err != nil {
		return nil, nil, err
	}
	nonce, err := hex.DecodeString(c.NonceHex)
	if err != nil {
		return nil, nil, fmt.Errorf("nonce_hex: %w", err)
	}
	policy, err := c.policy(&p.evidence)
	if err != nil {
		return nil, nil, fmt.Errorf("policy: %w", err)
	}
	if change != nil {
		change(&policy)
	}
	// Captures were made with nonces of nine bytes, and without any: the format says which.
	expected := attest.Expected{Certify: nonce, Quote: nonce, AllowShort: true, AllowEmpty: true, AKKey: p.akKey}
	return p, attest.VerifyExpected(&p.evidence, expected, c.anchors(f.trust), policy, c.Time), nil
}

// verdict is the format's word for the result.
func (c *Case) verdict(r *attest.Result) string {
	switch r.Verdict() {
	case attest.Rejected:
		return expectRejected
	case attest.Verified:
		return expectVerified
	}
	signed := slices.ContainsFunc(r.Checks, func(check attest.Check) bool {
		return check.Status == attest.Pass && strings.HasSuffix(check.Name, ".signature")
	})
	switch {
	case r.Status(attest.CheckHCLBinding) == attest.Pass && (!signed || c.Platform == parseOnly):
		return expectParsed
	case c.Platform == tdQuoteOnly && quoteHolds(r, c.Policy.TDXCollateral == "not-required"):
		return expectVerified
	}
	return expectPartial
}

// quoteHolds reports whether everything that a TD quote shows by itself is proven.
func quoteHolds(r *attest.Result, withoutCollateral bool) bool {
	checks := []string{attest.CheckTDXStructure, attest.CheckTDXChain, attest.CheckTDXQE, attest.CheckTDXSignature, attest.CheckTDXPolicy}
	if !withoutCollateral {
		checks = append(checks, attest.CheckTDXCollateral, attest.CheckTDXTCB)
	}
	return !slices.ContainsFunc(checks, func(name string) bool { return r.Status(name) != attest.Pass })
}

// compare compares the outcome with the expected one. Evidence of which only structure and hash
// could be checked, a TD quote alone and a TPM without a TEE are also incomplete evidence of a
// Confidential VM: "partial" is right for them, too.
func (o *Outcome) compare(c *Case, r *attest.Result) {
	incomplete := o.Got == expectParsed || o.Got == expectVerified && (c.Platform == tdQuoteOnly || c.Platform == tpmOnly)
	if o.Got != c.Expect && (!incomplete || c.Expect != expectPartial) {
		o.problem("got %s, expected %s%s", o.Got, c.Expect, reasons(r))
	}
	if c.FailingCheck != "" && r.Status(c.FailingCheck) != attest.Fail {
		o.problem("%s is %s, expected to fail", c.FailingCheck, r.Status(c.FailingCheck))
	}
	for _, name := range c.PassingChecks {
		if status := r.Status(name); status != attest.Pass {
			o.problem("%s is %s, expected to pass%s", name, status, reason(r, name))
		}
	}
}

func reason(r *attest.Result, name string) string {
	for _, c := range r.Checks {
		if c.Name == name && c.Reason != "" {
			return ": " + c.Reason
		}
	}
	return ""
}

func reasons(r *attest.Result) string {
	if err := r.Err(); err != nil {
		return ": " + strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	return ""
}
