package attest_test

import (
	"strings"
	"testing"

	"github.com/keyagent/keyagent/attest"
	at "github.com/keyagent/keyagent/attest/internal/attesttest"
	"github.com/keyagent/keyagent/attest/tee"
)

// A verifier's own collateral counts in place of the evidence's, whichever of them is better.
func TestTheVerifiersOwnCollateral(t *testing.T) {
	t.Parallel()
	expired := func(m map[string]any) { m["nextUpdate"] = "2026-05-21T00:00:00Z" }
	for name, tt := range map[string]struct {
		own    func(*at.TDX) // how it differs from what Intel says
		sent   func(*attest.Evidence)
		check  string // that does not pass; empty: verified
		status attest.Status
		reason string
	}{
		"both are right":               {nil, nil, "", "", ""},
		"the evidence has none":        {nil, func(e *attest.Evidence) { e.TDXCollateral = nil }, "", "", ""},
		"the evidence's is not signed": {nil, func(e *attest.Evidence) { e.TDXCollateral.TCBInfoSignature = make([]byte, 64) }, "", "", ""},
		"one's own has expired":        {func(x *at.TDX) { x.ChangeTCB = expired }, nil, attest.CheckTDXCollateral, attest.Fail, "2026-05-21"},
		"one's own is not signed": {func(x *at.TDX) {
			x.ChangeSources = func(_ testing.TB, c *tee.TDXCollateral) { c.TCBInfoSignature = make([]byte, 64) }
		}, nil, attest.CheckTDXCollateral, attest.Fail, ""},
		"one's own says that the platform is too old": {func(x *at.TDX) {
			x.ChangeTCB = func(m map[string]any) { m["tcbLevels"] = []any{at.TCBLevel(0, 0, 0, "OutOfDate")} }
		}, nil, attest.CheckTDXTCB, attest.Fail, "OutOfDate"},
		"one's own is for other platforms": {func(x *at.TDX) {
			x.ChangeTCB = func(m map[string]any) { m["fmspc"] = "00806F050000" }
		}, nil, attest.CheckTDXCollateral, attest.NotApplicable, "FMSPC 90c06f"},
	} {
		x := newTDXTrial(t)
		mine := at.NewTDX(x.w.intel)
		if tt.own != nil {
			tt.own(mine)
		}
		x.policy.Collateral = []*attest.TDXCollateral{mine.Collateral(t)}
		x.ChangeEvidence = tt.sent
		r := x.run(t)
		if tt.check == "" {
			if err := r.Err(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if r.Verified() || r.Status(tt.check) != tt.status || !strings.Contains(r.Err().Error(), tt.reason) {
			t.Errorf("%s: %s, %v", name, r.Status(tt.check), r.Err())
		}
	}
}

// Several kinds of platforms, and machines of other makers, are verified under one policy.
func TestCollateralOfSeveralKindsOfPlatforms(t *testing.T) {
	t.Parallel()
	x := newTDXTrial(t)
	other := at.NewTDX(x.w.intel)
	other.ChangeTCB = func(m map[string]any) { m["fmspc"] = "00806F050000" }
	own := []*attest.TDXCollateral{other.Collateral(t), at.NewTDX(x.w.intel).Collateral(t)}
	x.policy.Collateral = own
	x.ChangeEvidence = func(e *attest.Evidence) { e.TDXCollateral = nil }
	if err := x.run(t).Err(); err != nil {
		t.Error(err)
	}
	amd := newTrial(t)
	amd.policy.Collateral = own
	if err := amd.run(t).Err(); err != nil {
		t.Errorf("SEV-SNP: %v", err)
	}
}
