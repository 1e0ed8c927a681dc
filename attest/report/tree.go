package report

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keyagent/keyagent/attest"
)

// link is one thing in the chain of trust, with the checks about it.
type link struct {
	id     string
	title  string
	brief  string // the title where there is little room
	how    string // how the link above it in the tree depends on this one
	detail string // from the evidence, or about it
	checks []Check
	below  []*link
}

// met says that no check of the link is a hindrance.
func (l *link) met() bool {
	return !slices.ContainsFunc(l.checks, func(c Check) bool { return !c.Met() })
}

// shown says that something of the link was there to be checked.
func (l *link) shown() bool {
	return slices.ContainsFunc(l.checks, func(c Check) bool { return c.Status != attest.NotApplicable })
}

// state is "fail", "pass", or "absent" if nothing of the link was there and nothing was required.
func (l *link) state() string {
	switch {
	case !l.met():
		return "fail"
	case l.shown() || l.id == "anchor":
		return "pass"
	}
	return "absent"
}

// none says that a link is absent.
func (l *link) none() string {
	if l.id == "policy" {
		return "(it states none)"
	}
	return "(not there)"
}

// tree sorts the checks into the chain of trust. Each check is in exactly one link: those of an
// unknown kind are in one of their own.
func (r *Report) tree() *link {
	rest := r.Checks
	take := func(prefixes ...string) (taken []Check) {
		var left []Check
		for _, c := range rest {
			if slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(c.Name, p) }) {
				taken = append(taken, c)
			} else {
				left = append(left, c)
			}
		}
		rest = left
		return taken
	}
	challenge := &link{id: "challenge", title: "your challenge", brief: "your challenge", detail: r.challengeText(), checks: take("bundle.")}
	key := &link{id: "key", title: "binding key, certified by the TPM", brief: "binding key (TPM2_Certify)", how: "answered in", detail: r.keyText(), checks: take("key.")}
	quote := &link{id: "quote", title: "boot measurements, quoted by the TPM", brief: "boot, PCRs (TPM2_Quote)", how: "answered in", detail: r.pcrText(), checks: take("quote.")}
	log := &link{id: "eventlog", title: "event log", brief: "event log", how: "explained in", detail: r.logText(), checks: take("eventlog.")}
	ak := &link{id: "ak", title: "attestation key (AK) of the virtual TPM", brief: "attestation key of the TPM", how: "both signed by", detail: r.akText(), checks: take("ak.")}
	claims := &link{id: "claims", title: "runtime claims of the paravisor", brief: "claims of the paravisor", how: "named in", detail: r.vmText(), checks: take("hcl.")}
	report := &link{id: "report", title: r.reportTitle(), brief: r.reportTitle(), how: "hashed into the report_data of", checks: r.ofPlatform(take("snp.", "tdx."))}
	policy := &link{id: "policy", title: "rules of your policy", brief: "rules of your policy", how: "and held to", checks: take("policy.")}
	other := &link{id: "other", title: "further checks", brief: "further checks", how: "and held to", checks: rest}

	report.below = r.roots(report)
	claims.below = []*link{report}
	ak.below = append(r.roots(ak), claims)
	if len(log.checks) > 0 {
		quote.below = []*link{log}
	}
	challenge.below = []*link{key, quote, ak}
	for _, l := range []*link{policy, other} {
		if len(l.checks) > 0 {
			challenge.below = append(challenge.below, l)
		}
	}
	return challenge
}

// ofPlatform leaves out what is about another platform than the evidence's, unless it failed or is
// required.
func (r *Report) ofPlatform(checks []Check) []Check {
	if r.Kind != attest.KindSNP && r.Kind != attest.KindTDX {
		return checks
	}
	return slices.DeleteFunc(checks, func(c Check) bool {
		return !strings.HasPrefix(c.Name, string(r.Kind)+".") && c.Met() && c.Status == attest.NotApplicable
	})
}

// roots are the anchors that chains of the link's checks end in.
func (r *Report) roots(l *link) []*link {
	var roots []*link
	for _, c := range r.Chains {
		if !slices.ContainsFunc(l.checks, func(check Check) bool { return check.Name == c.Check && check.Status == attest.Pass }) {
			continue
		}
		a := c.Anchor()
		roots = append(roots, &link{
			id: "anchor", title: "trust anchor " + commonName(a.Subject), brief: commonName(a.Subject), how: c.through(),
			detail: fmt.Sprintf("SHA-256 %s, valid until %s", a.SHA256, a.NotAfter.Format(time.DateOnly)),
		})
	}
	return roots
}

// through names the certificates between the evidence and the anchor.
func (c Chain) through() string {
	var names []string
	for _, cert := range c.Certificates[:max(len(c.Certificates)-1, 0)] {
		names = append(names, commonName(cert.Subject))
	}
	return "certified, through " + strings.Join(names, " ← ") + ", under"
}

func commonName(subject string) string {
	for part := range strings.SplitSeq(subject, ",") {
		if name, is := strings.CutPrefix(part, "CN="); is {
			return name
		}
	}
	return subject
}

func (r *Report) challengeText() string {
	if r.Challenge == nil {
		return "none: nothing shows that this evidence is not an old one"
	}
	return fmt.Sprintf("nonce %s for %s", r.Challenge.Nonce, r.Challenge.Audience)
}

func (r *Report) reportTitle() string {
	switch r.Kind {
	case attest.KindSNP:
		return "AMD SEV-SNP report"
	case attest.KindTDX:
		return "Intel TDX quote"
	}
	return "hardware report"
}

// kindText says what vouches for a machine.
func kindText(k attest.Kind) string {
	text, known := map[attest.Kind]string{
		attest.KindSNP: "AMD SEV-SNP", attest.KindTDX: "Intel TDX",
		attest.KindVTPM: "no TEE: a virtual TPM that Azure's CA certified", attest.KindTPM: "no TEE: a TPM that you know",
	}[k]
	switch {
	case known:
		return text
	case k == "":
		return "not known"
	}
	return string(k)
}

func (r *Report) keyText() string {
	if r.Facts == nil || r.Facts.Key == nil {
		return ""
	}
	return "public key SHA-256 " + r.Facts.Key.SPKISHA256
}

func (r *Report) akText() string {
	if r.Facts == nil {
		return ""
	}
	return "Name " + r.Facts.AKName
}

func (r *Report) vmText() string {
	if r.Facts == nil || r.Facts.VMID == "" {
		return ""
	}
	return "VM " + r.Facts.VMID
}

func (r *Report) logText() string {
	if r.Facts == nil || r.Facts.EventLog == nil {
		return ""
	}
	l := r.Facts.EventLog
	return fmt.Sprintf("%d events, secure boot %s, %d boot loaders", l.Events, l.SecureBoot, len(l.BootLoaders))
}

func (r *Report) pcrText() string {
	if r.Facts == nil {
		return ""
	}
	return fmt.Sprintf("%d PCRs of bank %s, boot %d", len(r.Facts.PCRs), r.Facts.PCRBank.Name(), r.Facts.Reset)
}
