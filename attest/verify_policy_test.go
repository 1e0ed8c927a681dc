package attest_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/tee"
)

func policyForgeries() map[string][]forgery {
	age := func(given, limit time.Duration) func(*testing.T, *trial) {
		return func(_ *testing.T, x *trial) {
			x.challenge.Issued = x.now.Add(-given)
			x.policy.MaxAge = limit
		}
	}
	return map[string][]forgery{
		attest.CheckPolicyTEE: {
			{name: "another kind of hardware", forge: func(_ *testing.T, x *trial) {
				x.policy.TEE = []attest.Kind{attest.KindTDX}
			}},
		},
		attest.CheckSNPTCB: {
			{name: "below the minimum of its product line", forge: func(_ *testing.T, x *trial) {
				x.policy.MinTCBOf = map[string]tee.TCB{"Milan": 0xdb18000000000005}
			}},
			{name: "a product line without a minimum", forge: func(_ *testing.T, x *trial) {
				x.policy.MinTCBOf = map[string]tee.TCB{"Genoa": 0}
			}},
		},
		attest.CheckPolicyPCR: {
			{name: "a PCR with another value", forge: func(_ *testing.T, x *trial) {
				x.policy.PCRValues = map[int][][]byte{0: {x.PCRs[0]}, 7: {make([]byte, 32), x.PCRs[6]}}
			}},
			{name: "a PCR that is not quoted", forge: func(_ *testing.T, x *trial) {
				x.policy.PCRValues = map[int][][]byte{11: {make([]byte, 32)}}
			}},
			{name: "a PCR for which no value is allowed", forge: func(_ *testing.T, x *trial) {
				x.policy.PCRValues = map[int][][]byte{0: {}}
			}},
		},
		attest.CheckPolicyAge: {
			{name: "a nonce that was given out too long ago", forge: age(time.Minute+time.Second, time.Minute)},
			{name: "a nonce of the future", forge: age(-time.Second, time.Minute)},
			{name: "a nonce of an unknown time", forge: func(_ *testing.T, x *trial) { x.policy.MaxAge = time.Minute }},
		},
	}
}

func TestRulesThatAreMetAreNoHindrance(t *testing.T) {
	t.Parallel()
	x := newTrial(t)
	x.policy.TEE = []attest.Kind{attest.KindTDX, attest.KindSNP}
	x.policy.PCRValues = map[int][][]byte{7: {make([]byte, 32), x.PCRs[7]}}
	x.policy.MaxAge = time.Minute
	x.policy.MinTCBOf = map[string]tee.TCB{"Milan": 0xdb18000000000004}
	x.challenge.Issued = x.now.Add(-time.Minute)
	r := x.run(t)
	if err := r.Err(); err != nil {
		t.Error(err)
	}
	for _, check := range []string{attest.CheckPolicyTEE, attest.CheckPolicyPCR, attest.CheckPolicyAge} {
		if r.Status(check) != attest.Pass {
			t.Errorf("%s is %q", check, r.Status(check))
		}
	}
}

// A rule about a part that is not there is not met, also where nothing else requires the part.
func TestARuleThatCannotBeAppliedIsNotMet(t *testing.T) {
	t.Parallel()
	for _, rule := range []struct {
		check string
		state func(*attest.Policy)
	}{
		{attest.CheckHCLUserData, func(p *attest.Policy) { p.UserData = make([]byte, 64) }},
		{attest.CheckHCLUserData, func(p *attest.Policy) { p.HardwareFresh = true }},
		{attest.CheckPolicyTEE, func(p *attest.Policy) { p.TEE = []attest.Kind{attest.KindSNP} }},
		{attest.CheckPolicySecureBoot, func(p *attest.Policy) { p.RequireSecureBoot = true }},
		{attest.CheckPolicyVMID, func(p *attest.Policy) { p.VMID = "x" }},
		{attest.CheckPolicyPCR, func(p *attest.Policy) { p.PCRValues = map[int][][]byte{0: {make([]byte, 32)}} }},
		{attest.CheckPolicyAge, func(p *attest.Policy) { p.MaxAge = time.Hour }},
	} {
		check, x := rule.check, newTrial(t)
		rule.state(&x.policy)
		r := attest.Verify(&attest.Evidence{}, x.challenge, x.Anchors(), x.policy, x.now)
		required := false
		for _, name := range r.Required() {
			required = required || name == check
		}
		if !required || r.Status(check) == attest.Pass {
			t.Errorf("%s: required %v, %q", check, required, r.Status(check))
		}
	}
}

func TestAResultShowsItsChains(t *testing.T) {
	t.Parallel()
	x := newTrial(t)
	anchors := x.Anchors()
	checkChains(t, x.run(t), map[string][]byte{attest.CheckSNPChain: anchors.AMD[0].ARK.Raw, attest.CheckAKCertificate: anchors.VTPM[0].Raw})
	x = newTDXTrial(t)
	anchors = x.Anchors()
	checkChains(t, x.run(t), map[string][]byte{attest.CheckTDXChain: anchors.Intel[0].Raw, attest.CheckAKCertificate: anchors.VTPM[0].Raw})
	x.now = x.now.AddDate(90, 0, 0)
	checkChains(t, x.run(t), nil)
}

func checkChains(t *testing.T, r *attest.Result, want map[string][]byte) {
	t.Helper()
	for _, c := range r.Chains {
		if !bytes.Equal(c.Certificates[len(c.Certificates)-1].Raw, want[c.Check]) {
			t.Errorf("%s ends in %v", c.Check, c.Certificates[len(c.Certificates)-1].Subject)
		}
		delete(want, c.Check)
	}
	if len(want) > 0 {
		t.Errorf("chains are missing: %v", want)
	}
}
