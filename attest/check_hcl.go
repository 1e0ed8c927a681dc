package attest

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/keyagent/keyagent/attest/hcl"
)

func (v *verifier) bundleFormat() error { return v.e.validate() }

// bundleNonce tells an honest mix-up early. It proves nothing: quote.nonce and key.certify.nonce do.
func (v *verifier) bundleNonce() error {
	if v.challenge == nil {
		return absent("evidence was not made for a challenge of this protocol")
	}
	if err := v.challenge.Validate(); err != nil {
		return fmt.Errorf("challenge: %w", err)
	}
	if v.e.Nonce == nil && v.e.Audience == "" {
		return absent("evidence does not repeat the challenge")
	}
	if !bytes.Equal(v.e.Nonce, v.challenge.Nonce) {
		return errors.New("evidence is for another nonce")
	}
	if v.e.Audience != v.challenge.Audience {
		return fmt.Errorf("evidence is for audience %.100q, not %q", v.e.Audience, v.challenge.Audience)
	}
	return nil
}

func (v *verifier) hclStructure() error {
	if v.e.HCLReport == nil {
		return absent("no HCL report; the hardware report and the claims are given singly")
	}
	report, err := hcl.Parse(v.e.HCLReport)
	if err != nil {
		return err
	}
	v.report = report
	return nil
}

// hardware answers the SNP report's bytes and the claims, from whichever form the evidence has.
func (v *verifier) hardware() (report, claims []byte, err error) {
	if v.e.HCLReport == nil {
		if v.e.SNPReport == nil || v.e.RuntimeClaims == nil {
			return nil, nil, absent("no hardware report with its claims")
		}
		return v.e.SNPReport, v.e.RuntimeClaims, nil
	}
	if v.report == nil {
		return nil, nil, absent("the HCL report could not be read")
	}
	return v.report.Hardware, v.report.Claims, nil
}

func (v *verifier) hclBinding() error {
	report, claims, err := v.hardware()
	if err != nil {
		return err
	}
	if v.report != nil {
		return v.report.CheckBinding()
	}
	if len(report) != snpReportSize {
		return absent("the hardware report has the wrong size")
	}
	return hcl.CheckReportData(report[snpReportDataAt:snpReportDataAt+64], claims)
}

// snpReportDataAt is the offset of report_data in an SNP report (AMD 56860).
const snpReportDataAt = 0x50

func (v *verifier) hclClaims() error {
	_, raw, err := v.hardware()
	if err != nil {
		return err
	}
	claims, err := hcl.ParseClaims(raw)
	if err != nil {
		return err
	}
	v.claims = claims
	v.result.VMID = claims.VMConfiguration.VMUniqueID
	return nil
}

func (v *verifier) hclUserData() error {
	if v.policy.UserData == nil {
		return absent("not asked for")
	}
	if v.claims == nil {
		return absent("the claims could not be read")
	}
	if !bytes.Equal(v.claims.UserData, v.policy.UserData) {
		return errors.New("user-data of the hardware report is not the expected value")
	}
	return nil
}

// tdxStructure says no to Intel TDX, of which this version understands nothing.
func (v *verifier) tdxStructure() error {
	if v.report == nil || v.report.Type != hcl.TypeTDX {
		return absent("the hardware is not Intel TDX")
	}
	return errors.New("evidence of Intel TDX is not supported")
}

func (v *verifier) policySecureBoot() error {
	if !v.policy.RequireSecureBoot {
		return absent("not asked for")
	}
	if v.claims == nil {
		return absent("the claims could not be read")
	}
	if on := v.claims.VMConfiguration.SecureBoot; on == nil || !*on {
		return errors.New("secure boot is not on in the VM's configuration")
	}
	return nil
}

func (v *verifier) policyVMID() error {
	if v.policy.VMID == "" {
		return absent("not asked for")
	}
	if v.claims == nil {
		return absent("the claims could not be read")
	}
	if got := v.claims.VMConfiguration.VMUniqueID; !strings.EqualFold(got, v.policy.VMID) {
		return fmt.Errorf("VM %.50q is not %q", got, v.policy.VMID)
	}
	return nil
}
