package attest

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
)

// Kind says what vouches for a machine and its attestation key.
type Kind string

// The kinds of evidence without a TEE; those with one are in platforms.go. They are accepted only
// under a policy that names them, and nothing in such evidence keeps the machine's host out of its
// memory or its TPM.
const (
	KindVTPM Kind = "vtpm" // Azure's CA certifies the key of a virtual TPM, as for Trusted Launch VMs
	KindTPM  Kind = "tpm"  // the verifier knows the attestation key itself, see Policy.AKNames
)

// kind returns the kind of evidence, which decides by what rules it is verified. Evidence with any
// part of a hardware platform is of that platform's kind: removing parts must not bring it under
// other rules, unless the policy accepts the kind that is left.
func (v *verifier) kind() Kind {
	for _, p := range platforms() {
		if p.of(v) {
			return Kind(p.prefix())
		}
	}
	e := v.e
	if e.HCLReport != nil || e.RuntimeClaims != nil || !reflect.DeepEqual(e.HardwareEvidence, HardwareEvidence{}) {
		return ""
	}
	certified := e.AKCertificate != nil && (v.policy.accepts(KindVTPM) || !v.policy.accepts(KindTPM))
	switch {
	case certified:
		return KindVTPM
	case e.AKPublic != nil:
		return KindTPM
	}
	return ""
}

// accepts reports whether the policy names the kind. A policy that names none accepts the
// platforms, and no evidence without a TEE.
func (p *Policy) accepts(k Kind) bool {
	if len(p.TEE) > 0 {
		return slices.Contains(p.TEE, k)
	}
	return slices.ContainsFunc(platforms(), func(p platform) bool { return Kind(p.prefix()) == k })
}

func (v *verifier) policyTEE() error {
	k := v.kind()
	v.result.Kind = k
	switch {
	case k == "":
		return absent("nothing in the evidence vouches for the machine")
	case k == KindVTPM && v.policy.accepts(k) && v.policy.acceptsTEE() && v.certifiedForTEE():
		return errors.New("the AK certificate is of a Confidential VM, and its hardware report was left out")
	case v.policy.accepts(k):
		return nil
	case len(v.policy.TEE) == 0:
		return absent("no TEE vouches for the machine")
	}
	return fmt.Errorf("evidence is of the kind %q, the policy accepts %q", k, v.policy.TEE)
}

// acceptsTEE reports whether the policy accepts a kind of evidence with a TEE.
func (p *Policy) acceptsTEE() bool {
	return slices.ContainsFunc(platforms(), func(pl platform) bool { return p.accepts(Kind(pl.prefix())) })
}

// certifiedForTEE reports whether the AK certificate says that the machine has a TEE. Without its
// report, none of the policy's rules about the TEE would be applied to the machine.
func (v *verifier) certifiedForTEE() bool {
	cert, err := ParseAKCertificate(v.e.AKCertificate)
	return err == nil && hasOID(cert.PolicyIdentifiers, oidConfidentialVM())
}

// withoutTEE stands in for a platform if there is no TEE and the policy accepts that.
type withoutTEE struct {
	kind Kind
	// None of the other methods is used: there is no part of the evidence that is its own.
	platform
}

func (w withoutTEE) prefix() string { return string(w.kind) }

// vouches names the checks by which the attestation key is known.
func (w withoutTEE) vouches() []string {
	if w.kind == KindVTPM {
		return []string{CheckAKPublic, CheckAKCertificate}
	}
	return []string{CheckAKPublic}
}

// anchor names what everything that the TPM says rests on.
func (w withoutTEE) anchor() string {
	if w.kind == KindVTPM {
		return "attestation key that Azure's virtual TPM CA certified; no TEE protects it from the host"
	}
	return "attestation key on the verifier's list; no TEE protects it from the host"
}

// unprotected returns what decides about evidence without a TEE, or false if it has one or the
// policy does not accept that.
func (v *verifier) unprotected() (joined, bool) {
	k := v.kind()
	if k != KindVTPM && k != KindTPM || !v.policy.accepts(k) {
		return joined{}, false
	}
	return joined{platform: withoutTEE{kind: k}, share: share{claims: []claim{{
		what: "a TEE keeps the host out of the machine's memory", checks: []string{CheckHCLBinding},
		anchor: func() string { return "" },
	}}}}, true
}
