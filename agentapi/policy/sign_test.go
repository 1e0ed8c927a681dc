package policy_test

import (
	"testing"

	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/policy"
)

func TestDecideSigning(t *testing.T) {
	shop := peer.Caller{UID: 1000, GID: 1000}
	p := twoRules()
	p.Rules[0].Sign = true
	p.Rules[0].Hosts = []string{"myvault.vault.azure.net", ".graph.microsoft.com", "h.example:8443"}
	p.Rules = append(p.Rules, policy.Rule{ // it does not add to the others
		Name: "more", UIDs: []uint32{1000}, Identities: []string{"backup"}, Resources: []string{"*"}, TokenTypes: []string{"mtls_pop"},
		Hosts: []string{"other.example"},
	})
	known := func(name string) policy.Signing {
		return policy.Signing{Identity: "vm", Server: name, Seen: policy.ServerShown}
	}
	for _, tt := range []struct {
		name   string
		caller peer.Caller
		req    policy.Signing
		want   policy.Reason // "": allowed by shop
	}{
		{"any handshake at all", shop, policy.Signing{Identity: "vm"}, ""},
		{"a server that is hidden", shop, policy.Signing{Identity: "vm", Seen: policy.ServerHidden}, ""},
		{"a host", shop, known("myvault.vault.azure.net"), ""},
		{"a name below a domain", shop, known("mtlstb.graph.microsoft.com"), ""},
		{"a host whatever its port", shop, known("h.example"), ""},

		{"a stranger", peer.Caller{UID: 1}, policy.Signing{Identity: "vm"}, policy.ReasonCaller},
		{"root", peer.Caller{}, policy.Signing{Identity: "vm"}, policy.ReasonCaller},
		{"an identity of another rule", peer.Caller{UID: 3000}, policy.Signing{Identity: "shop"}, policy.ReasonIdentity},
		{"a rule that gives tokens only", peer.Caller{UID: 3000}, policy.Signing{Identity: "vm"}, policy.ReasonSign},
		{"an identity whose other rule does not sign", shop, policy.Signing{Identity: "backup"}, policy.ReasonSign},
		{"another host", shop, known("vault.azure.net"), policy.ReasonServer},
		{"a host of a rule that does not sign", shop, known("other.example"), policy.ReasonServer},
		{"the domain itself", shop, known("graph.microsoft.com"), policy.ReasonServer},
		{"a longer name", shop, known("x.myvault.vault.azure.net"), policy.ReasonServer},
		{"a name that ends alike", shop, known("evilgraph.microsoft.com"), policy.ReasonServer},
		{"a name with a port", shop, known("h.example:8443"), policy.ReasonServer},
		{"upper case", shop, known("H.example"), policy.ReasonServer},
		{"a trailing dot", shop, known("h.example."), policy.ReasonServer},
		{"no name", shop, known(""), policy.ReasonServer},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := policy.Decision{Reason: tt.want}
			if tt.want == "" {
				want = policy.Decision{Allowed: true, Rule: "shop"}
			}
			if got := p.DecideSigning(tt.caller, tt.req); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
	t.Run("a rule for its hosts only", func(t *testing.T) {
		p.Rules[0].SignHostsOnly = true
		if got := p.DecideSigning(shop, policy.Signing{Identity: "vm", Seen: policy.ServerHidden}); got != (policy.Decision{Reason: policy.ReasonHidden}) {
			t.Errorf("a server that is hidden: %+v", got)
		}
		for _, req := range []policy.Signing{{Identity: "vm"}, known("h.example")} {
			if got := p.DecideSigning(shop, req); !got.Allowed {
				t.Errorf("%+v: %+v", req, got)
			}
		}
	})
	if got := new(policy.Policy).DecideSigning(shop, policy.Signing{}); got.Allowed {
		t.Error("the zero policy signs")
	}
	if got := (&policy.Policy{Rules: []policy.Rule{{}}}).DecideSigning(peer.Caller{}, policy.Signing{}); got.Allowed {
		t.Error("the zero rule signs")
	}
}
