package attest

import (
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"github.com/keyagent/keyagent/attest/eventlog"
)

// Status is the outcome of one check.
type Status string

// The three outcomes. Not applicable means that what the check needs is not there; it never counts
// as passed.
const (
	Pass          Status = "pass"
	Fail          Status = "fail"
	NotApplicable Status = "not-applicable"
)

// Check is one row of the procedure with its outcome.
type Check struct {
	Name   string `json:"check"`
	Status Status `json:"status"`
	Reason string `json:"reason,omitempty"` // why it failed or does not apply
}

// CheckError says that evidence is not good enough because of one check. If a machine verifies
// its own evidence, the error says nothing about the machine: a party that can disturb the TPM can
// cause one.
type CheckError struct {
	Check  string
	Reason string
}

func (e *CheckError) Error() string { return e.Check + ": " + e.Reason }

// Verdict sums up a Result.
type Verdict string

// The verdicts. Incomplete evidence has no error in it, and is refused by a caller that requires
// verified evidence.
const (
	Verified   Verdict = "verified"   // nothing failed, and all that was required has passed
	Rejected   Verdict = "rejected"   // a check failed
	Incomplete Verdict = "incomplete" // nothing failed, but a required check did not apply
)

// AK is the TPM's attestation key as a verifier came to know it.
type AK struct {
	Public        *rsa.PublicKey
	Name          []byte // TPM 2.0 Part 1, 14 "Names"; nil if only the key itself is known
	QualifiedName []byte // under the endorsement hierarchy; nil with Name
}

// Claim is something that a Result proves, or does not.
type Claim struct {
	Claim  string `json:"claim"`
	Anchor string `json:"anchor,omitempty"` // what the proof rests on; empty if not proven
	Reason string `json:"reason,omitempty"` // the first check that is missing; empty if proven
}

// Result is the outcome of verifying evidence. The fields below Checks were read from the evidence;
// rely on them only if Err returns nil.
type Result struct {
	Checks []Check

	Kind      Kind // what vouches for the machine; empty if that is not known
	AK        *AK
	KeyName   []byte           // of the binding key; nil unless all KeyChecks passed
	PublicKey crypto.PublicKey // of the binding key; nil unless all KeyChecks passed
	VMID      string           // vmUniqueId
	PCRs      map[int][]byte   // as quoted
	PCRBank   PCRBank          // of PCRs; empty without them
	Clock     Clock            // of the quote
	EventLog  *eventlog.Facts  // nil unless there is a log that can be read, and quoted PCRs

	HardwareFacts

	Chains []Chain // in the order of the checks that found them

	Proven    []Claim
	NotProven []Claim

	required []string
}

// Chain leads from a certificate of the evidence to an anchor of the verifier.
type Chain struct {
	Check        string              // the check that found it, which may have failed for another reason
	Certificates []*x509.Certificate // that of the evidence first, the anchor last
}

func (r *Result) addChain(check string, certificates ...*x509.Certificate) {
	r.Chains = append(r.Chains, Chain{check, certificates})
}

// Clock is the TPM's own time information in a statement (TPM 2.0 Part 2, TPMS_CLOCK_INFO). Two
// statements belong to one boot if ResetCount and RestartCount agree.
type Clock struct {
	Milliseconds    uint64
	ResetCount      uint32
	RestartCount    uint32
	Safe            bool // no earlier statement of this TPM has a later time
	FirmwareVersion uint64
}

// Status returns the outcome of the named check.
func (r *Result) Status(check string) Status {
	for _, c := range r.Checks {
		if c.Name == check {
			return c.Status
		}
	}
	return NotApplicable
}

// Verdict sums up the checks under the policy that they were made for.
func (r *Result) Verdict() Verdict {
	for _, c := range r.Checks {
		if c.Status == Fail {
			return Rejected
		}
	}
	for _, name := range r.required {
		if r.Status(name) != Pass {
			return Incomplete
		}
	}
	if len(r.Checks) == 0 || len(r.required) == 0 {
		return Incomplete
	}
	return Verified
}

// Verified reports whether the evidence holds. It is Err() == nil.
func (r *Result) Verified() bool { return r.Verdict() == Verified }

// Err returns nil if the evidence is verified, else every check that failed, or that was required
// and did not apply, each as a *CheckError.
func (r *Result) Err() error {
	if r.Verified() {
		return nil
	}
	var errs []error
	for _, c := range r.Checks {
		switch {
		case c.Status == Fail:
			errs = append(errs, &CheckError{c.Name, c.Reason})
		case c.Status == NotApplicable && r.requires(c.Name):
			errs = append(errs, &CheckError{c.Name, "required, but " + c.Reason})
		}
	}
	for _, name := range r.required {
		if !r.has(name) {
			errs = append(errs, &CheckError{name, "required, but there is no such check"})
		}
	}
	if len(errs) == 0 {
		return errors.New("evidence was not checked")
	}
	return fmt.Errorf("evidence refused: %w", errors.Join(errs...))
}

// Required lists the checks that had to pass under the policy, in alphabetical order. One that is
// not among Checks has not passed.
func (r *Result) Required() []string { return slices.Clone(r.required) }

func (r *Result) requires(name string) bool { return slices.Contains(r.required, name) }

func (r *Result) has(name string) bool {
	for _, c := range r.Checks {
		if c.Name == name {
			return true
		}
	}
	return false
}
