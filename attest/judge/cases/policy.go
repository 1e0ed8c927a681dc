package cases

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/tee"
)

// Policy is what a case changes of the format's default policy.
type Policy struct {
	RequiredPCRs      []int    `json:"required_pcrs"`
	RequireSecureBoot bool     `json:"require_secure_boot"`
	UserDataHex       *string  `json:"user_data_hex"`
	MinTCB            string   `json:"min_tcb"`
	IDKeyDigests      []string `json:"id_key_digests"`
	AMDRoots          string   `json:"amd_roots"`
	TDXCollateral     string   `json:"tdx_collateral"`
}

// policy is the format's default with the case's changes. The default requires every part that is
// there to be right, and has no list of launch identities and no lowest firmware level.
func (c *Case) policy(e *attest.Evidence) (attest.Policy, error) {
	p := attest.PlatformPolicy()
	p.Required, p.HardwarePolicy = nil, attest.HardwarePolicy{}
	if e.KeyPublic != nil || e.Certify != nil || e.CertifySignature != nil {
		p.Required = attest.KeyChecks()
	}
	if c.Policy.RequiredPCRs != nil {
		p.PCRs = c.Policy.RequiredPCRs
	}
	if c.Platform == tpmOnly { // which names the kind, as policies must
		p.TEE = []attest.Kind{attest.KindVTPM, attest.KindTPM}
		if report, err := e.HardwareReport(); report != nil || err != nil || e.TDQuote != nil {
			p.TEE = append(p.TEE, attest.KindSNP, attest.KindTDX)
		}
	}
	p.RequireSecureBoot = c.Policy.RequireSecureBoot
	if s := c.Policy.UserDataHex; s != nil {
		userData, err := hex.DecodeString(*s)
		if err != nil {
			return p, fmt.Errorf("user_data_hex: %w", err)
		}
		p.UserData = userData
	}
	if err := c.Policy.addAMD(&p); err != nil {
		return p, err
	}
	switch c.Policy.TDXCollateral {
	case "", "required":
	case "not-required":
		withoutCollateral(&p)
	default:
		return p, fmt.Errorf("tdx_collateral %.40q is not known", c.Policy.TDXCollateral)
	}
	return p, nil
}

func (c *Policy) addAMD(p *attest.Policy) error {
	if s := c.MinTCB; s != "" {
		level, err := strconv.ParseUint(strings.TrimPrefix(s, "0x"), 16, 64)
		if err != nil {
			return fmt.Errorf("min_tcb %.40q is not a number of 64 bits in hexadecimal", s)
		}
		p.MinTCB = tee.TCB(level)
	}
	for _, s := range c.IDKeyDigests {
		digest, err := hex.DecodeString(s)
		if err != nil {
			return fmt.Errorf("id_key_digests: %w", err)
		}
		p.Launch.IDKeyDigests = append(p.Launch.IDKeyDigests, digest)
	}
	if c.IDKeyDigests != nil {
		p.Required = append(p.Required, attest.CheckSNPLaunch)
	}
	if c.AMDRoots != "" && c.AMDRoots != "built-in" {
		return fmt.Errorf("amd_roots %.40q is not known", c.AMDRoots)
	}
	return nil
}

// anchors are the built-in ones, with those of the file unless the case does without them.
func (c *Case) anchors(t trust) attest.TrustAnchors {
	a := attest.DefaultTrustAnchors()
	if c.Policy.AMDRoots == "built-in" {
		return a
	}
	a.AMD = slices.Concat(a.AMD, t.amd)
	a.VTPM = slices.Concat(a.VTPM, t.vtpm)
	return a
}
