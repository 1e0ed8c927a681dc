package collect

import (
	"context"
	"fmt"
	"slices"

	"github.com/keyagent/keyagent/attest"
)

// selfVerify holds evidence to what its receiver will hold it to.
func (c *Collector) selfVerify(ctx context.Context, e *attest.Evidence, req Request) error {
	policy := c.policyFor(e, req)
	result := c.withoutFalseLog(ctx, e, func() *attest.Result {
		return attest.VerifyForKey(e, req.Challenge, req.Key.PublicKey(), c.cfg.Anchors, policy, c.cfg.Now())
	})
	if err := result.Err(); err != nil {
		c.forget()
		return fmt.Errorf("not sent, since this machine itself would not accept it: %w", err)
	}
	return nil
}

// policyFor is what evidence must satisfy before it is sent. An authorization policy that the key
// was made with is added: it only narrows the key's use. Evidence without a hardware report is held
// to the rest; whether it is enough is for its receiver to say.
func (c *Collector) policyFor(e *attest.Evidence, req Request) attest.Policy {
	p := c.cfg.Policy
	p.PCRs, p.PCRBank, p.HardwareFresh = req.PCRs, req.PCRBank, req.HardwareFresh
	if e.HCLReport == nil {
		p.Required = attest.KeyChecks() // the others are about hardware
		p.TEE, p.AKNames = withoutTEE(e)
	}
	if own := req.Key.Public().AuthPolicy.Buffer; len(own) > 0 {
		p.Key.AuthPolicies = append(slices.Clone(p.Key.AuthPolicies), own)
	}
	return p
}

// withoutTEE lists the kinds in a policy that accepts evidence without a hardware report.
func withoutTEE(e *attest.Evidence) (kinds []attest.Kind, akNames [][]byte) {
	if e.AKCertificate != nil {
		return []attest.Kind{attest.KindVTPM}, nil
	}
	if name, err := attest.KeyName(e.AKPublic); err == nil {
		akNames = [][]byte{name}
	}
	return []attest.Kind{attest.KindTPM}, akNames
}
