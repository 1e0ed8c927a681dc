package report

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/keyagent/keyagent/attest"
)

// Explanation is a policy in plain English.
type Explanation struct {
	Policy Policy      `json:"policy"`
	Checks []Explained `json:"checks"`
}

// Explained is what a policy asks in one check.
type Explained struct {
	Check    string `json:"check"`
	Required bool   `json:"required"`
	Proves   string `json:"proves,omitempty"`
	Fails    string `json:"fails_on,omitempty"`
	Rule     string `json:"rule,omitempty"` // the policy's own values
}

// Explain says what the rules ask of evidence, check by check in the order of the procedure.
func Explain(rules attest.Policy, from Policy) Explanation {
	required := map[string]bool{}
	for _, name := range rules.Requires() {
		required[name] = true
	}
	values := ruleTexts(rules)
	e := Explanation{Policy: from}
	for _, name := range attest.CheckNames() {
		about := aboutChecks()[name]
		e.Checks = append(e.Checks, Explained{name, required[name], about.proves, about.fails, values[name]})
	}
	return e
}

// Write prints the explanation for a person.
func (t Text) Explain(w io.Writer, e Explanation) error {
	p := &printer{Text: t}
	p.line("Policy: %s", Printable(e.Policy.text()))
	p.line("Evidence is verified if no check fails and every required one passes. Of the checks of one")
	p.line("platform (snp, tdx), those of the platform that the evidence is of count.")
	for _, c := range e.Checks {
		p.line("")
		need := p.paint(dim, "checked if its part is there")
		if c.Required {
			need = p.paint(bold, "required")
		}
		p.line("%s  %s", p.paint(bold, Printable(c.Check)), need)
		for _, row := range [][2]string{{"proves", c.Proves}, {"fails on", c.Fails}, {"here", c.Rule}} {
			if row[1] != "" {
				p.line("  %-9s %s", row[0], Printable(row[1]))
			}
		}
	}
	_, err := io.WriteString(w, p.b.String())
	return err
}

// ruleTexts are the values that the rules have for checks.
func ruleTexts(p attest.Policy) map[string]string {
	texts := map[string]string{
		attest.CheckKeyPublic:      keyText(p.Key),
		attest.CheckQuoteSelection: fmt.Sprintf("at least PCRs %s of the bank %s", numbers(p.PCRs), p.PCRBank.Name()),
		attest.CheckQuoteCoherence: fmt.Sprintf("at most %v apart", p.ClockWindow),
	}
	maps.Copy(texts, snpTexts(p.SNPPolicy))
	maps.Copy(texts, tdxTexts(p.TDXPolicy))
	maps.Copy(texts, logTexts(p.EventLog))
	texts[attest.CheckPolicyTEE] = kindsText(p.TEE)
	if n := len(p.AKNames); n > 0 {
		texts[attest.CheckAKPublic] = fmt.Sprintf("one of %d attestation keys", n)
	}
	if p.HardwareFresh {
		texts[attest.CheckHCLUserData] = "the hardware report was made for your nonce"
	}
	if len(p.PCRValues) > 0 {
		texts[attest.CheckPolicyPCR] = pcrText(p.PCRValues)
	}
	for check, text := range map[string]string{
		attest.CheckPolicyVMID: p.VMID,
		attest.CheckPolicyAge:  ageText(p.MaxAge),
	} {
		if text != "" {
			texts[check] = text
		}
	}
	return texts
}

func kindsText(kinds []attest.Kind) string {
	if len(kinds) == 0 {
		kinds = []attest.Kind{attest.KindSNP, attest.KindTDX}
	}
	var names []string
	for _, k := range kinds {
		names = append(names, kindText(k))
	}
	return strings.Join(names, ", or ")
}

func logTexts(e attest.EventLogPolicy) map[string]string {
	var rules []string
	if e.SecureBoot {
		rules = append(rules, "secure boot is on")
	}
	for _, list := range []struct {
		what string
		n    int
	}{
		{"boot loaders of %d", len(e.BootLoaders)}, {"no boot loader of %d", len(e.ForbiddenBootLoaders)}, {"command lines of %d", len(e.CommandLines)},
		{"PK of %d", len(e.PK)}, {"KEK of %d", len(e.KEK)}, {"db of %d", len(e.DB)}, {"dbx of %d", len(e.DBX)},
	} {
		if list.n > 0 {
			rules = append(rules, fmt.Sprintf(list.what, list.n))
		}
	}
	return map[string]string{attest.CheckEventLogPolicy: strings.Join(rules, ", ")}
}

func ageText(d time.Duration) string {
	if d <= 0 {
		return ""
	}
	return fmt.Sprintf("the nonce was given out at most %v ago", d)
}

func pcrText(values map[int][][]byte) string {
	var texts []string
	for _, index := range slices.Sorted(maps.Keys(values)) {
		var list []string
		for _, v := range values[index] {
			list = append(list, fmt.Sprintf("%x", v))
		}
		texts = append(texts, fmt.Sprintf("PCR %d is %s", index, strings.Join(list, " or ")))
	}
	return strings.Join(texts, "; ")
}

func numbers(list []int) string {
	if len(list) == 0 {
		return "of any number"
	}
	texts := make([]string, len(list))
	for i, n := range list {
		texts[i] = fmt.Sprint(n)
	}
	return strings.Join(texts, ", ")
}

func keyText(k attest.KeyPolicy) string {
	text := "attributes: with " + attributeNames(k.RequiredAttributes) + "; without " + attributeNames(k.ForbiddenAttributes)
	switch {
	case k.AnyAuthPolicy:
		text += "; any authorization policy"
	case len(k.AuthPolicies) > 0:
		text += fmt.Sprintf("; no authorization policy, or one of %d", len(k.AuthPolicies))
	default:
		text += "; no authorization policy"
	}
	if k.AllowNullHierarchy {
		text += "; also a key that a reset wipes out"
	}
	return text
}

// attributeNames lists bits of TPMA_OBJECT (TPM 2.0 Part 2, 8.3.2).
func attributeNames(set uint32) string {
	var names []string
	for _, a := range []struct {
		bit  uint32
		name string
	}{
		{1 << 1, "fixedTPM"}, {1 << 2, "stClear"}, {1 << 4, "fixedParent"}, {1 << 5, "sensitiveDataOrigin"},
		{1 << 6, "userWithAuth"}, {1 << 7, "adminWithPolicy"}, {1 << 10, "noDA"}, {1 << 11, "encryptedDuplication"},
		{1 << 16, "restricted"}, {1 << 17, "decrypt"}, {1 << 18, "sign"}, {1 << 19, "x509sign"},
	} {
		if set&a.bit != 0 {
			names = append(names, a.name)
		}
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
