package policy_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/policy"
)

const vault = "https://vault.azure.net"

func resource(t testing.TB, s string) policy.Resource {
	t.Helper()
	r, err := policy.ParseResource(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// twoRules is a policy of two services of different users.
func twoRules() *policy.Policy {
	return &policy.Policy{
		Rules: []policy.Rule{
			{
				Name: "shop", UIDs: []uint32{1000}, Identities: []string{"vm", "shop"},
				Resources: []string{vault + "/"}, TokenTypes: []string{"bearer"},
			},
			{
				Name: "backup", UIDs: []uint32{2000}, GIDs: []uint32{50}, Identities: []string{"backup"},
				Resources: []string{"https://storage.azure.com"}, TokenTypes: []string{"bearer"},
			},
			{
				Name: "anything", UIDs: []uint32{3000}, Identities: []string{"vm"},
				Resources: []string{policy.AnyResource}, TokenTypes: []string{"bearer", "mtls_pop"},
			},
		},
		AdminUIDs: []uint32{990}, AdminGIDs: []uint32{4},
	}
}

func TestDecide(t *testing.T) {
	shop := peer.Caller{UID: 1000, GID: 1000}
	both := peer.Caller{UID: 1000, GID: 1000, Groups: []uint32{50}}
	tests := []struct {
		name                string
		caller              peer.Caller
		identity, res, kind string
		want                policy.Decision
	}{
		{"a named user gets what the rule gives", shop, "vm", vault, "bearer", policy.Decision{Allowed: true, Rule: "shop"}},
		{"the rule's other identity, too", shop, "shop", vault, "bearer", policy.Decision{Allowed: true, Rule: "shop"}},
		{"a trailing slash makes no difference", shop, "vm", vault + "/", "bearer", policy.Decision{Allowed: true, Rule: "shop"}},
		{"a default scope makes no difference", shop, "vm", vault + "/.default", "bearer", policy.Decision{Allowed: true, Rule: "shop"}},
		{"nor does the default scope of a resource with a slash", shop, "vm", vault + "//.default", "bearer", policy.Decision{Allowed: true, Rule: "shop"}},
		{"a group names its members", peer.Caller{UID: 7, GID: 7, Groups: []uint32{49, 50}}, "backup", "https://storage.azure.com", "bearer", policy.Decision{Allowed: true, Rule: "backup"}},
		{"the primary group counts", peer.Caller{UID: 7, GID: 50}, "backup", "https://storage.azure.com", "bearer", policy.Decision{Allowed: true, Rule: "backup"}},
		{"any resource is any resource", peer.Caller{UID: 3000}, "vm", "https://whatever.example", "mtls_pop", policy.Decision{Allowed: true, Rule: "anything"}},

		{"a user whom no rule names is refused", peer.Caller{UID: 1001, GID: 1001}, "vm", vault, "bearer", policy.Decision{Reason: policy.ReasonCaller}},
		{"root is not special", peer.Caller{}, "vm", vault, "bearer", policy.Decision{Reason: policy.ReasonCaller}},
		{"an administrator is not special", peer.Caller{UID: 990, GID: 4}, "vm", vault, "bearer", policy.Decision{Reason: policy.ReasonCaller}},
		{"a gid equal to a named uid is refused", peer.Caller{UID: 1, GID: 1000, Groups: []uint32{1000}}, "vm", vault, "bearer", policy.Decision{Reason: policy.ReasonCaller}},
		{"a uid equal to a named gid is refused", peer.Caller{UID: 50, GID: 1}, "backup", "https://storage.azure.com", "bearer", policy.Decision{Reason: policy.ReasonCaller}},
		{"a pid equal to a named uid is refused", peer.Caller{UID: 1, GID: 1, PID: 1000}, "vm", vault, "bearer", policy.Decision{Reason: policy.ReasonCaller}},

		{"another rule's identity is refused", shop, "backup", vault, "bearer", policy.Decision{Reason: policy.ReasonIdentity}},
		{"an identity that does not exist is refused alike", shop, "no-such", vault, "bearer", policy.Decision{Reason: policy.ReasonIdentity}},
		{"an empty identity is refused", shop, "", vault, "bearer", policy.Decision{Reason: policy.ReasonIdentity}},
		{"a star is not an identity", shop, "*", vault, "bearer", policy.Decision{Reason: policy.ReasonIdentity}},
		{"an identity in another case is refused", shop, "VM", vault, "bearer", policy.Decision{Reason: policy.ReasonIdentity}},

		{"another resource is refused", shop, "vm", "https://graph.microsoft.com", "bearer", policy.Decision{Reason: policy.ReasonResource}},
		{"a longer resource is refused", shop, "vm", vault + ".evil.example", "bearer", policy.Decision{Reason: policy.ReasonResource}},
		{"a path below the resource is refused", shop, "vm", vault + "/secrets", "bearer", policy.Decision{Reason: policy.ReasonResource}},
		{"a shorter resource is refused", shop, "vm", "https://vault.azure.ne", "bearer", policy.Decision{Reason: policy.ReasonResource}},
		{"a resource in another case is refused", shop, "vm", "https://Vault.azure.net", "bearer", policy.Decision{Reason: policy.ReasonResource}},
		{"a percent-encoded resource is refused", shop, "vm", "https://vault%2Eazure.net", "bearer", policy.Decision{Reason: policy.ReasonResource}},
		{"an explicit port is refused", shop, "vm", vault + ":443", "bearer", policy.Decision{Reason: policy.ReasonResource}},
		{"a star is not a resource", shop, "vm", "*", "bearer", policy.Decision{Reason: policy.ReasonResource}},

		{"another token type is refused", shop, "vm", vault, "mtls_pop", policy.Decision{Reason: policy.ReasonTokenType}},
		{"an empty token type is refused", shop, "vm", vault, "", policy.Decision{Reason: policy.ReasonTokenType}},
		{"a token type in another case is refused", shop, "vm", vault, "Bearer", policy.Decision{Reason: policy.ReasonTokenType}},

		{"two rules for one caller do not add up: identity of one, resource of the other", both, "vm", "https://storage.azure.com", "bearer", policy.Decision{Reason: policy.ReasonResource}},
		{"the same the other way round", both, "backup", vault, "bearer", policy.Decision{Reason: policy.ReasonResource}},
		{"but each works as a whole", both, "backup", "https://storage.azure.com", "bearer", policy.Decision{Allowed: true, Rule: "backup"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := policy.Request{Identity: tt.identity, Resource: resource(t, tt.res), TokenType: tt.kind}
			if got := twoRules().Decide(tt.caller, req); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestDecideZeroValues(t *testing.T) {
	caller := peer.Caller{UID: 3000}
	request := policy.Request{Identity: "vm", Resource: resource(t, vault), TokenType: "bearer"}

	if (policy.Decision{}).Allowed {
		t.Error("the zero decision allows")
	}
	if (&policy.Policy{}).Decide(caller, request).Allowed {
		t.Error("the zero policy allows")
	}
	if (&policy.Policy{Rules: []policy.Rule{{}}}).Decide(peer.Caller{}, policy.Request{}).Allowed {
		t.Error("the zero rule allows the zero request of the zero caller")
	}
	request.Resource = policy.Resource{}
	if twoRules().Decide(caller, request).Allowed {
		t.Error("no resource is covered by any resource")
	}
}

func TestIdentities(t *testing.T) {
	tests := []struct {
		name   string
		caller peer.Caller
		want   []string
	}{
		{"a stranger has none", peer.Caller{UID: 1}, nil},
		{"root has none", peer.Caller{}, nil},
		{"those of one rule, in its order", peer.Caller{UID: 1000}, []string{"vm", "shop"}},
		{"those of all rules that name the caller", peer.Caller{UID: 1000, GID: 50}, []string{"vm", "shop", "backup"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := twoRules().Identities(tt.caller); !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if got, want := twoRules().Named(tt.caller), len(tt.want) > 0; got != want {
				t.Errorf("Named = %v, want %v", got, want)
			}
		})
	}
	t.Run("an identity of two rules is there once", func(t *testing.T) {
		p := twoRules()
		p.Rules[2].UIDs = []uint32{1000}
		if got := p.Identities(peer.Caller{UID: 1000}); !slices.Equal(got, []string{"vm", "shop"}) {
			t.Errorf("got %q", got)
		}
	})
}

// A rule that lets its callers skip the cache says so of its own tokens only.
func TestFresh(t *testing.T) {
	p := &policy.Policy{Rules: []policy.Rule{
		{Name: "stale", UIDs: []uint32{1}, Identities: []string{"vm"}, Resources: []string{policy.AnyResource}, TokenTypes: []string{"bearer", "mtls_pop"}},
		{Name: "fresh", UIDs: []uint32{1, 2}, Identities: []string{"vm"}, Resources: []string{vault}, TokenTypes: []string{"bearer"}, Fresh: true},
	}}
	for _, tt := range []struct {
		name      string
		uid       uint32
		res, kind string
		fresh     bool
		want      policy.Decision
	}{
		{"what one rule gives past the cache", 1, vault, "bearer", true, policy.Decision{Allowed: true, Rule: "fresh"}},
		{"a rule that lets skip the cache gives what is in it, too", 2, vault, "bearer", false, policy.Decision{Allowed: true, Rule: "fresh"}},
		{"the resource of another rule", 1, "https://storage.azure.com", "bearer", true, policy.Decision{Reason: policy.ReasonFresh}},
		{"the type of another rule", 1, vault, "mtls_pop", true, policy.Decision{Reason: policy.ReasonFresh}},
		{"the same from the cache", 1, vault, "mtls_pop", false, policy.Decision{Allowed: true, Rule: "stale"}},
		{"a resource of no rule", 2, "https://storage.azure.com", "bearer", true, policy.Decision{Reason: policy.ReasonResource}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := p.Decide(peer.Caller{UID: tt.uid}, policy.Request{Identity: "vm", Resource: resource(t, tt.res), TokenType: tt.kind, ForceRefresh: tt.fresh})
			if got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestGrants(t *testing.T) {
	p := twoRules()
	p.Rules = append(p.Rules, policy.Rule{
		Name: "more", GIDs: []uint32{50}, Identities: []string{"vm"}, Resources: []string{vault + "/", "api://a"}, TokenTypes: []string{"bearer", "mtls_pop"},
	})
	for _, tt := range []struct {
		name   string
		caller peer.Caller
		want   []policy.Grant
	}{
		{"nobody", peer.Caller{UID: 4}, nil},
		{"root has nothing of its own", peer.Caller{}, nil},
		{"one rule", peer.Caller{UID: 3000}, []policy.Grant{{Identity: "vm", Resources: []string{"*"}, TokenTypes: []string{"bearer", "mtls_pop"}}}},
		{"several rules, each thing once", peer.Caller{UID: 1000, GID: 50}, []policy.Grant{
			{Identity: "vm", Resources: []string{vault + "/", "api://a"}, TokenTypes: []string{"bearer", "mtls_pop"}},
			{Identity: "shop", Resources: []string{vault + "/"}, TokenTypes: []string{"bearer"}},
			{Identity: "backup", Resources: []string{"https://storage.azure.com"}, TokenTypes: []string{"bearer"}},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, p.Grants(tt.caller)); diff != "" {
				t.Errorf("grants (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAdmin(t *testing.T) {
	tests := []struct {
		name   string
		caller peer.Caller
		want   bool
	}{
		{"root", peer.Caller{}, true},
		{"a configured user", peer.Caller{UID: 990, GID: 1}, true},
		{"a member of a configured group", peer.Caller{UID: 5, GID: 1, Groups: []uint32{4}}, true},
		{"a user with tokens is no administrator", peer.Caller{UID: 1000, GID: 1000}, false},
		{"a member of group 0 is not root", peer.Caller{UID: 5, GID: 0}, false},
		{"a uid equal to a configured gid", peer.Caller{UID: 4, GID: 1}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := twoRules().Admin(tt.caller); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestStanding(t *testing.T) {
	p := twoRules()
	p.Rules[0].GIDs = append(p.Rules[0].GIDs, 7001)
	tests := []struct {
		name   string
		caller peer.Caller
		want   policy.Standing
	}{
		{"root is known by its uid", peer.Caller{}, policy.ByUID},
		{"an administrator by uid", peer.Caller{UID: 990, GID: 1}, policy.ByUID},
		{"a user of a rule", peer.Caller{UID: 1000, GID: 1}, policy.ByUID},
		{"a user of a rule who is in a group of one, too", peer.Caller{UID: 1000, GID: 7001}, policy.ByUID},
		{"a member of a rule's group", peer.Caller{UID: 100001, GID: 1, Groups: []uint32{7001}}, policy.ByGroupOnly},
		{"a member of the administrators' group", peer.Caller{UID: 100001, GID: 1, Groups: []uint32{4}}, policy.ByGroupOnly},
		{"a member of group 0 is not root", peer.Caller{UID: 100001, GID: 0}, policy.Stranger},
		{"somebody else", peer.Caller{UID: 100001, GID: 100001}, policy.Stranger},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := p.Standing(tt.caller); got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
			if known := p.Named(tt.caller) || p.Admin(tt.caller); known == (p.Standing(tt.caller) == policy.Stranger) {
				t.Errorf("a caller whom the policy knows (%v) must not be a stranger, nor the other way round", known)
			}
		})
	}
}

func TestValidate(t *testing.T) {
	tests := []struct {
		name   string
		change func(*policy.Policy)
		want   string // part of the error; empty: valid
	}{
		{"a good policy is valid", func(*policy.Policy) {}, ""},
		{"a policy without rules is valid, it refuses everybody", func(p *policy.Policy) { p.Rules = nil }, ""},
		{"a rule by group alone is valid", func(p *policy.Policy) { p.Rules[1].UIDs = nil }, ""},
		{"a rule without a name", func(p *policy.Policy) { p.Rules[1].Name = "" }, "rule 2 has no name"},
		{"two rules of one name", func(p *policy.Policy) { p.Rules[1].Name = "shop" }, `two rules are named "shop"`},
		{"a rule that names nobody", func(p *policy.Policy) { p.Rules[0].UIDs = nil }, `rule "shop": names no user and no group`},
		{"a rule without an identity", func(p *policy.Policy) { p.Rules[0].Identities = nil }, "names no identity"},
		{"an empty identity", func(p *policy.Policy) { p.Rules[0].Identities = []string{""} }, "empty identity"},
		{"a star for an identity", func(p *policy.Policy) { p.Rules[0].Identities = []string{"*"} }, "any resource, not for any identity"},
		{"a rule without a resource", func(p *policy.Policy) { p.Rules[0].Resources = nil }, "names no resource"},
		{"a star beside resources", func(p *policy.Policy) { p.Rules[0].Resources = []string{vault, "*"} }, "must stand alone"},
		{"a resource with a space", func(p *policy.Policy) { p.Rules[0].Resources = []string{"https://a https://b"} }, "character"},
		{"a rule without a token type", func(p *policy.Policy) { p.Rules[0].TokenTypes = nil }, "names no token type"},
		{"a star for a token type", func(p *policy.Policy) { p.Rules[0].TokenTypes = []string{"*"} }, "not for any token type"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := twoRules()
			tt.change(p)
			err := p.Validate()
			if tt.want == "" && err != nil {
				t.Fatalf("refused: %v", err)
			}
			if tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}
