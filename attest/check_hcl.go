package attest

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/keyagent/keyagent/attest/hcl"
)

func (v *verifier) bundleFormat() error { return v.e.validate() }

// bundleNonce gives a clear message if evidence for another challenge was sent by mistake. It
// proves nothing: quote.nonce and key.certify.nonce do.
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
		v.report = v.e.unwrapped()
		return absent("no HCL report; the hardware report and the claims are given without it")
	}
	report, err := hcl.Parse(v.e.HCLReport)
	if err != nil {
		return err
	}
	v.report = report
	return nil
}

// needReport is the condition of checks that need the hardware report.
func (v *verifier) needReport() error {
	switch {
	case v.report != nil:
		return nil
	case v.e.HCLReport != nil:
		return absent("the HCL report could not be read")
	default:
		return absent("no hardware report")
	}
}

// isOf reports whether the hardware report is of this type.
func (v *verifier) isOf(t hcl.ReportType) bool { return v.report != nil && v.report.Type == t }

func (v *verifier) hclBinding() error {
	if err := v.needReport(); err != nil {
		return err
	}
	if v.report.Claims == nil {
		return absent("no runtime claims with the hardware report")
	}
	return v.report.CheckBinding()
}

// hclClaims reads the claims, also those that no hardware report came with: nothing then vouches
// for them, but they must not contradict the rest.
func (v *verifier) hclClaims() error {
	raw := v.e.RuntimeClaims
	if v.report != nil {
		raw = v.report.Claims
	}
	if raw == nil {
		return absent("no runtime claims that could be read")
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
	if v.policy.UserData == nil && !v.policy.HardwareFresh {
		return absent("not asked for")
	}
	if v.policy.HardwareFresh && v.expected.userData == nil {
		return errors.New("a report made for the nonce is asked for, and the evidence answers no challenge of this protocol")
	}
	if v.claims == nil {
		return absent("the claims could not be read")
	}
	if v.policy.UserData != nil && !bytes.Equal(v.claims.UserData, v.policy.UserData) {
		return errors.New("user-data of the hardware report is not the expected value")
	}
	if v.policy.HardwareFresh && !bytes.Equal(v.claims.UserData, v.expected.userData) {
		return errors.New("the hardware report was not made for the verifier's nonce: its user-data is another one")
	}
	return nil
}
