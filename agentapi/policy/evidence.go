package policy

import (
	"slices"

	"github.com/keyagent/keyagent/agentapi/peer"
)

// The reasons why a caller may not read attestation evidence, besides those of [Policy.Decide].
const (
	ReasonEvidence Reason = "no rule lets the caller read evidence with this identity"
	ReasonKey      Reason = "no rule lets the caller read evidence of this key"
)

var evidenceProgress = []Reason{ReasonCaller, ReasonUnit, ReasonWeak, ReasonExecutable, ReasonIdentity, ReasonEvidence}

// DecideEvidence answers whether the caller may have attestation evidence of the keys of an
// identity.
func (p *Policy) DecideEvidence(c peer.Caller, identity string) Decision {
	nearest := 0
	for i := range p.Rules {
		rule := &p.Rules[i]
		matched, reason := p.matches(rule, c)
		switch {
		case reason != "":
		case !slices.Contains(rule.Identities, identity):
			reason = ReasonIdentity
		case !rule.Evidence:
			reason = ReasonEvidence
		default:
			return Decision{Allowed: true, Rule: rule.Name, Unit: matched.unit, Executable: matched.executable}
		}
		nearest = max(nearest, slices.Index(evidenceProgress, reason))
	}
	return Decision{Reason: evidenceProgress[nearest]}
}

// EvidenceIdentities returns the identities of whose keys the caller may have evidence, in the
// order of the rules, each once.
func (p *Policy) EvidenceIdentities(c peer.Caller) []string {
	return p.identities(c, func(r *Rule) bool { return r.Evidence })
}

// evidenceOnly reports whether a rule gives no token and no signature.
func (r *Rule) evidenceOnly() bool { return r.Evidence && !r.Sign && len(r.Resources) == 0 }
