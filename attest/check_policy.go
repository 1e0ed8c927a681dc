package attest

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// asked names the checks of rules that the policy states. Each must pass: a rule that cannot be
// applied to some evidence is not met by it.
func (p Policy) asked() []string {
	var names []string
	for name, is := range map[string]bool{
		CheckHCLUserData:      p.UserData != nil || p.HardwareFresh,
		CheckPolicySecureBoot: p.RequireSecureBoot,
		CheckPolicyVMID:       p.VMID != "",
		CheckPolicyPCR:        len(p.PCRValues) > 0,
		CheckPolicyAge:        p.MaxAge > 0,
	} {
		if is {
			names = append(names, name)
		}
	}
	return names
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

// policyPCR compares quoted values: quote.digest sets them only if the quote's digest is over them.
func (v *verifier) policyPCR() error {
	if len(v.policy.PCRValues) == 0 {
		return absent("not asked for")
	}
	if v.result.PCRs == nil {
		return absent("no PCR values that a quote covers")
	}
	for _, index := range slices.Sorted(maps.Keys(v.policy.PCRValues)) {
		value, quoted := v.result.PCRs[index]
		if !quoted {
			return fmt.Errorf("PCR %d, of which the policy has values, is not quoted", index)
		}
		allowed := v.policy.PCRValues[index]
		if !slices.ContainsFunc(allowed, func(a []byte) bool { return bytes.Equal(a, value) }) {
			return fmt.Errorf("PCR %d is %s, which is none of the policy's %d values", index, hex.EncodeToString(value), len(allowed))
		}
	}
	return nil
}

// policyAge measures from when the verifier gave out its nonce: the evidence answers it, so it is
// younger. Evidence has no time of its own that the verifier could compare with.
func (v *verifier) policyAge() error {
	limit := v.policy.MaxAge
	if limit <= 0 {
		return absent("not asked for")
	}
	if v.challenge == nil || v.challenge.Issued.IsZero() {
		return errors.New("the policy limits the age, and the verifier does not say when it gave out its nonce")
	}
	switch age := v.now.Sub(v.challenge.Issued); {
	case age < 0:
		return fmt.Errorf("the nonce was given out at %s, which is after the time of verification", v.challenge.Issued.UTC().Format(time.RFC3339))
	case age > limit:
		return fmt.Errorf("the nonce was given out %v ago, want at most %v", age.Round(time.Second), limit)
	}
	return nil
}
