package report

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/tee"
)

func snpTexts(s attest.SNPPolicy) map[string]string {
	texts := map[string]string{attest.CheckSNPTCB: "reported ≤ committed ≤ current, no minimum of the policy's own"}
	if s.MinTCB != 0 {
		texts[attest.CheckSNPTCB] = fmt.Sprintf("reported ≤ committed ≤ current, each component at least that of %v", s.MinTCB)
	}
	for _, line := range slices.Sorted(maps.Keys(s.MinTCBOf)) {
		texts[attest.CheckSNPTCB] += fmt.Sprintf("; on %s at least %v", line, s.MinTCBOf[line])
	}
	if len(s.VLEKProviders) > 0 {
		texts[attest.CheckSNPIdentity] = "or a key of many chips (VLEK) of " + strings.Join(s.VLEKProviders, ", ")
	}
	rules := []string{"no debugging", "no migration agent", "VMPL 0"}
	if s.MinABI != 0 {
		rules = append(rules, fmt.Sprintf("ABI at least %d.%d", s.MinABI>>8, s.MinABI&0xff))
	}
	if s.ForbidSMT {
		rules = append(rules, "no SMT")
	}
	if s.PlatformInfo != 0 {
		rules = append(rules, fmt.Sprintf("platform info has all bits of %#x", s.PlatformInfo))
	}
	if s.AllowPlatformInfo != 0 {
		rules = append(rules, fmt.Sprintf("unknown bits of platform info only of %#x", s.AllowPlatformInfo))
	}
	texts[attest.CheckSNPPolicy] = strings.Join(rules, ", ")
	launch := fmt.Sprintf("one of %d ID keys", len(s.Launch.IDKeyDigests))
	if s.Launch.MinGuestSVN > 0 {
		launch += fmt.Sprintf(" with guest SVN at least %d", s.Launch.MinGuestSVN)
	}
	if n := len(s.Launch.Measurements); n > 0 {
		launch += fmt.Sprintf(", or one of %d measurements", n)
	}
	texts[attest.CheckSNPLaunch] = launch
	return texts
}

func tdxTexts(t attest.TDXPolicy) map[string]string {
	texts := map[string]string{attest.CheckTDXLaunch: fmt.Sprintf("one of %d measurements (MRTD)", len(t.MRTDs))}
	statuses := []string{string(tee.UpToDate)}
	for _, s := range t.AcceptedStatuses {
		statuses = append(statuses, string(s))
	}
	texts[attest.CheckTDXTCB] = strings.Join(statuses, ", ")
	for _, e := range t.TCBExceptions {
		texts[attest.CheckTDXTCB] += "; except " + e.String()
	}
	switch {
	case t.CollateralNotRequired:
		texts[attest.CheckTDXCollateral] = "may be missing: old firmware and revoked platforms then pass"
	case len(t.Collateral) > 0:
		texts[attest.CheckTDXCollateral] = fmt.Sprintf("your own, for %d kinds of platforms, of Intel's review number %d or later", len(t.Collateral), t.MinTCBEvaluationNumber)
	case t.MinTCBEvaluationNumber > 0:
		texts[attest.CheckTDXCollateral] = fmt.Sprintf("of Intel's review number %d or later", t.MinTCBEvaluationNumber)
	}
	rules := []string{"no debugging", "the attributes and features of Azure's guests"}
	if t.TDAttributes != 0 || t.XFAM != 0 {
		rules = append(rules, fmt.Sprintf("or attributes of %#x and features of %#x", t.TDAttributes, t.XFAM))
	}
	if t.RequiredAttributes != 0 {
		rules = append(rules, fmt.Sprintf("attributes %#x set", t.RequiredAttributes))
	}
	for name, list := range map[string][][]byte{"MRCONFIGID": t.MRConfigIDs, "MROWNER": t.MROwners, "MROWNERCONFIG": t.MROwnerConfigs} {
		if len(list) > 0 {
			rules = append(rules, fmt.Sprintf("%s one of %d", name, len(list)))
		}
	}
	slices.Sort(rules[2:])
	texts[attest.CheckTDXPolicy] = strings.Join(rules, ", ")
	return texts
}
