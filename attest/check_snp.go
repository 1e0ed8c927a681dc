package attest

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/keyagent/keyagent/attest/hcl"
	"github.com/keyagent/keyagent/attest/tee"
	"github.com/keyagent/keyagent/internal/publickey"
)

func (v *verifier) snpStructure() error {
	raw, _, err := v.hardware()
	if err != nil {
		return err
	}
	if v.report != nil && v.report.Type != hcl.TypeSNP {
		return absent("the hardware is not AMD SEV-SNP")
	}
	report, err := tee.ParseSNPReport(raw)
	if err != nil {
		return err
	}
	v.snp, v.result.SNP = report, report
	return nil
}

// errNoSNP is the reason of every check that needs a readable report.
func (v *verifier) needSNP() error {
	if v.snp == nil {
		return absent("no readable SNP report")
	}
	return nil
}

// needVCEK is needSNP for checks that also need the chip's certificate. It does not ask whether its chain holds: each row stands for itself.
func (v *verifier) needVCEK() error {
	if v.vcek == nil {
		return absent("no readable VCEK certificate")
	}
	return v.needSNP()
}

func (v *verifier) snpChain() error {
	if err := v.needSNP(); err != nil {
		return err
	}
	if len(v.e.VCEKChain) == 0 {
		return absent("no VCEK certificate")
	}
	vcek, err := publickey.ParseCertificate(v.e.VCEKChain[0])
	if err != nil {
		return fmt.Errorf("VCEK: %w", err)
	}
	v.vcek = vcek
	root, err := tee.VerifyVCEK(vcek, v.anchors.AMD, v.now)
	if err != nil {
		return err
	}
	v.root, v.result.Product = root, root.Product
	return nil
}

func (v *verifier) snpIdentity() error {
	if err := v.needVCEK(); err != nil {
		return err
	}
	return tee.CheckIdentity(v.snp, v.vcek, v.root)
}

func (v *verifier) snpSignature() error {
	if err := v.needVCEK(); err != nil {
		return err
	}
	return v.snp.VerifySignature(v.vcek)
}

func (v *verifier) snpPolicy() error {
	if err := v.needSNP(); err != nil {
		return err
	}
	r := v.snp
	switch {
	case r.DebugAllowed():
		return errors.New("the guest policy lets the host debug the guest")
	case r.MigrationAllowed():
		return errors.New("the guest policy lets a migration agent take the guest")
	case r.VMPL != 0:
		return fmt.Errorf("the report was requested at VMPL %d, want 0 (the paravisor's)", r.VMPL)
	case r.ABIVersion() < v.policy.MinABI:
		return fmt.Errorf("ABI version %d.%d, want at least %d.%d", r.ABIVersion()>>8, r.ABIVersion()&0xff, v.policy.MinABI>>8, v.policy.MinABI&0xff)
	case v.policy.ForbidSMT && r.SMTAllowed():
		return errors.New("the guest policy allows SMT")
	case r.PlatformInfo&v.policy.PlatformInfo != v.policy.PlatformInfo:
		return fmt.Errorf("platform info %#x lacks bits of %#x", r.PlatformInfo, v.policy.PlatformInfo)
	}
	return nil
}

// snpTCB asks for the order that AMD's firmware keeps, reported ≤ committed ≤ current, and for the policy's minimum. Equality is not
// asked for: genuine Azure hosts run ahead of the level that they report.
func (v *verifier) snpTCB() error {
	if err := v.needSNP(); err != nil {
		return err
	}
	r := v.snp
	if !r.CommittedTCB.AtLeast(r.ReportedTCB) || !r.CurrentTCB.AtLeast(r.CommittedTCB) {
		return fmt.Errorf("TCB levels are out of order: reported %v, committed %v, current %v", r.ReportedTCB, r.CommittedTCB, r.CurrentTCB)
	}
	if !r.ReportedTCB.AtLeast(v.policy.MinTCB) {
		return fmt.Errorf("reported TCB %v is below the minimum %v", r.ReportedTCB, v.policy.MinTCB)
	}
	return nil
}

// snpLaunch is what tells Azure's paravisor from firmware that somebody booted on a genuine chip of his own.
func (v *verifier) snpLaunch() error {
	want := v.policy.Launch
	if len(want.IDKeyDigests) == 0 && len(want.Measurements) == 0 {
		return absent("the policy lists no launch identities")
	}
	if err := v.needSNP(); err != nil {
		return err
	}
	if contains(want.Measurements, v.snp.Measurement) {
		return nil
	}
	if !contains(want.IDKeyDigests, v.snp.IDKeyDigest) {
		return fmt.Errorf("firmware of an unknown party: id_key_digest %x, measurement %x", v.snp.IDKeyDigest, v.snp.Measurement)
	}
	if v.snp.GuestSVN < want.MinGuestSVN {
		return fmt.Errorf("guest SVN %d, want at least %d", v.snp.GuestSVN, want.MinGuestSVN)
	}
	return nil
}

func contains(list [][]byte, b []byte) bool {
	for _, entry := range list {
		if bytes.Equal(entry, b) {
			return true
		}
	}
	return false
}

func (v *verifier) snpRevocation() error {
	if v.root == nil || v.root.CRL == nil {
		return absent("no revocation list")
	}
	return tee.CheckRevocation(v.vcek, v.root, v.now)
}
