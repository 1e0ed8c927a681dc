package attest

import (
	"errors"

	"github.com/keyagent/keyagent/attest/hcl"
)

// CheckTDXStructure is the check that refuses Intel TDX, which this version does not verify.
const CheckTDXStructure = "tdx.structure"

// tdx is Intel TDX. It vouches for nothing yet: evidence of it is refused as unsupported.
type tdx struct{}

func (tdx) unwrapped(*Evidence) *hcl.Report { return nil }
func (tdx) validate(*Evidence) error        { return nil }
func (tdx) encode(*Evidence, *wire)         {}
func (tdx) decode(*wire, *Evidence)         {}
func (tdx) addAnchors(*TrustAnchors)        {}
func (tdx) addPolicy(*Policy)               {}
func (tdx) prefix() string                  { return "tdx" }
func (tdx) of(v *verifier) bool             { return v.isOf(hcl.TypeTDX) }
func (tdx) vouches() []string               { return nil }

func (t tdx) join(v *verifier) share {
	return share{rows: []step{{CheckTDXStructure, func() error { return t.structure(v) }}}}
}

func (t tdx) structure(v *verifier) error {
	if !t.of(v) {
		return absent("the hardware is not Intel TDX")
	}
	return errors.New("evidence of Intel TDX is not supported")
}
