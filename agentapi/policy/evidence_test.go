package policy_test

import (
	"slices"
	"testing"

	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/policy"
)

func TestDecideEvidence(t *testing.T) {
	shop := peer.Caller{UID: 1000, GID: 1000}
	p := twoRules()
	p.Rules[0].Evidence = true
	p.Rules = append(p.Rules, policy.Rule{
		Name: "watch", UIDs: []uint32{4000}, Identities: []string{"vm"}, TokenTypes: []string{"bearer"}, Evidence: true,
	})
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name     string
		caller   peer.Caller
		identity string
		rule     string
		want     policy.Reason
	}{
		{"of the rule's identity", shop, "vm", "shop", ""},
		{"by a rule that gives nothing else", peer.Caller{UID: 4000}, "vm", "watch", ""},
		{"by a stranger", peer.Caller{UID: 1}, "vm", "", policy.ReasonCaller},
		{"by root", peer.Caller{}, "vm", "", policy.ReasonCaller},
		{"of another identity", shop, "backup", "", policy.ReasonIdentity},
		{"of no identity", shop, "", "", policy.ReasonIdentity},
		{"by a rule that gives tokens only", peer.Caller{UID: 3000}, "vm", "", policy.ReasonEvidence},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := policy.Decision{Allowed: tt.want == "", Rule: tt.rule, Reason: tt.want}
			if got := p.DecideEvidence(tt.caller, tt.identity); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
			allowed := slices.Contains(p.EvidenceIdentities(tt.caller), tt.identity)
			if allowed != want.Allowed {
				t.Errorf("among %q: %v", p.EvidenceIdentities(tt.caller), allowed)
			}
		})
	}
}

// A caller that may have evidence alone has no other use of the identity.
func TestEvidenceAloneGivesNothingElse(t *testing.T) {
	watch := peer.Caller{UID: 4000}
	p := &policy.Policy{Rules: []policy.Rule{{
		Name: "watch", UIDs: []uint32{4000}, Identities: []string{"vm"}, TokenTypes: []string{"bearer"}, Evidence: true,
	}}}
	if !p.Named(watch) {
		t.Fatal("the rule names nobody")
	}
	resource, err := policy.ParseResource(vault)
	if err != nil {
		t.Fatal(err)
	}
	if d := p.Decide(watch, policy.Request{Identity: "vm", Resource: resource, TokenType: "bearer"}); d.Allowed {
		t.Errorf("a token: %+v", d)
	}
	if d := p.DecideSigning(watch, policy.Signing{Identity: "vm"}); d.Allowed || d.Reason != policy.ReasonIdentity {
		t.Errorf("a signature, or the certificate: %+v", d)
	}
	if names := p.Identities(watch); len(names) > 0 {
		t.Errorf("identities %q", names)
	}
	grants := p.Grants(watch)
	if len(grants) != 1 || !grants[0].Evidence || grants[0].Sign || len(grants[0].Resources)+len(grants[0].TokenTypes) > 0 {
		t.Errorf("grants %+v", grants)
	}
	for name, change := range map[string]func(*policy.Rule){
		"nothing at all":    func(r *policy.Rule) { r.Evidence = false },
		"signatures beside": func(r *policy.Rule) { r.Sign = true },
	} {
		r := p.Rules[0]
		change(&r)
		if (&policy.Policy{Rules: []policy.Rule{r}}).Validate() == nil {
			t.Errorf("%s without a resource is accepted", name)
		}
	}
}

// A rule by unit gives evidence to the unit alone, and strict rules not to a process that is known
// by its number only.
func TestEvidenceByUnit(t *testing.T) {
	p := &policy.Policy{Machine: oneUnit{}, Rules: []policy.Rule{{
		Name: "watch", UIDs: []uint32{4000}, Units: []string{"watch.service"}, Identities: []string{"vm"}, TokenTypes: []string{"bearer"}, Evidence: true,
	}}}
	for _, tt := range []struct {
		name   string
		caller peer.Caller
		strict bool
		want   policy.Reason
	}{
		{"in the unit", peer.Caller{UID: 4000, CgroupID: 7}, false, ""},
		{"outside of it", peer.Caller{UID: 4000, CgroupID: 8}, false, policy.ReasonUnit},
		{"another user in it", peer.Caller{UID: 1, CgroupID: 7}, false, policy.ReasonCaller},
		{"known by its number only", peer.Caller{UID: 4000, CgroupID: 7, Weak: true}, false, ""},
		{"the same, strict", peer.Caller{UID: 4000, CgroupID: 7, Weak: true}, true, policy.ReasonWeak},
	} {
		p.Strict = tt.strict
		if got := p.DecideEvidence(tt.caller, "vm"); got.Reason != tt.want || got.Allowed != (tt.want == "") || got.Allowed && got.Unit != "watch.service" {
			t.Errorf("%s: %+v", tt.name, got)
		}
	}
}

// oneUnit is a machine with one unit.
type oneUnit struct{}

func (oneUnit) UnitID(unit string) (uint64, bool) { return 7, unit == "watch.service" }
func (oneUnit) Runs(peer.Caller, string) bool     { return false }
