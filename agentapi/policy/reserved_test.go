package policy_test

import (
	"testing"

	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/internal/cloud"
)

const (
	exchange   = "api://AzureADTokenExchange"
	exchangeID = "fb60f99c-7a34-4190-8149-302f77469936"
	ownID      = "0f1e2d3c-0000-4000-8000-000000000001"
)

// anyFor is a rule of every resource and token type, in a configuration with applications that take
// assertions of two other audiences.
func anyFor(uid uint32) *policy.Policy {
	return &policy.Policy{
		Rules: []policy.Rule{{
			Name: "any", UIDs: []uint32{uid}, Identities: []string{"vm"},
			Resources: []string{policy.AnyResource}, TokenTypes: []string{"bearer", "mtls_pop"}, Fresh: true,
		}},
		Audiences: []string{"api://Partner/exchange/", ownID},
	}
}

func TestAnyResourceCoversNoCredentialOfApplications(t *testing.T) {
	p, caller := anyFor(1000), peer.Caller{UID: 1000}
	for _, tt := range []struct{ name, resource string }{
		{"the public cloud's audience", exchange},
		{"with a slash", exchange + "/"},
		{"as a scope", exchange + "/.default"},
		{"as a scope of the form with a slash", exchange + "//.default"},
		{"in lower case", "api://azureadtokenexchange"},
		{"in upper case", "API://AZUREADTOKENEXCHANGE"},
		{"with a suffix in another case", exchange + "/.DEFAULT"},
		{"with a suffix in another case and a slash", exchange + "/.DEFAULT/"},
		{"in lower case, with a slash", "api://azureadtokenexchange/"},
		{"percent-encoded, with a slash and an encoded one", exchange + "%2F/"},
		{"a single permission of it", exchange + "/user_impersonation"},
		{"percent-encoded", "api://AzureAD%54okenExchange"},
		{"percent-encoded twice", "api:%252F%252FAzureADTokenExchange"},
		{"percent-encoded, beside what is no encoding", "api://%41zureADTokenExchange/%zz"},
		{"with one slash", "api:/AzureADTokenExchange"},
		{"with three slashes", "api:///AzureADTokenExchange"},
		{"with a query", exchange + "?x"},
		{"with a fragment", exchange + "#x"},
		{"marked as a name", "spn:" + exchange},
		{"its application id", exchangeID},
		{"its application id as a URI", "api://" + exchangeID + "/"},
		{"its application id in upper case", "FB60F99C-7A34-4190-8149-302F77469936"},
		{"its application id, marked as a name", "spn:" + exchangeID},
		{"its application id without hyphens", "fb60f99c7a3441908149302f77469936"},
		{"its application id in braces", "{" + exchangeID + "}"},
		{"its application id in parentheses, as a URI", "api://(" + exchangeID + ")"},
		{"its application id as a URN", "urn:uuid:" + exchangeID},
		{"its application id behind a tenant", "api://contoso.onmicrosoft.com/" + exchangeID},
		{"its application id with a tenant behind it", exchangeID + "@contoso.onmicrosoft.com"},
		{"its application id, marked twice", "spn:spn:" + exchangeID},
		{"without a scheme", "AzureADTokenExchange"},
		{"a cloud that nobody has published", exchange + "Nowhere"},
		{"the audience of managed workloads", "api://AzureFMITokenExchange"},

		{"a configured audience", "api://Partner/exchange"},
		{"as it is configured, with a slash", "api://Partner/exchange/"},
		{"as a scope with a slash", "api://Partner/exchange//.default"},
		{"in another case", "api://partner/EXCHANGE"},
		{"below it", "api://Partner/exchange/x"},
		{"a configured application id", ownID},
		{"as a URI", "api://" + ownID},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, kind := range []string{"bearer", "mtls_pop"} {
				got := p.Decide(caller, policy.Request{Identity: "vm", Resource: resource(t, tt.resource), TokenType: kind})
				if want := (policy.Decision{Reason: policy.ReasonReserved}); got != want {
					t.Errorf("%s: got %+v, want %+v", kind, got, want)
				}
			}
		})
	}
}

// Resources that are no audiences of assertions are covered as before.
func TestAnyResourceCoversTheRest(t *testing.T) {
	p, caller := anyFor(1000), peer.Caller{UID: 1000}
	for _, name := range []string{
		vault, "https://graph.microsoft.com/", "api://shop", "api://Partner", "api://Partner/exchanges", "api://PartnerTokenExchange",
		"https://AzureADTokenExchange", "0f1e2d3c-0000-4000-8000-000000000002", "api://0f1e2d3c-0000-4000-8000-000000000002",
		"https://storage.azure.com/100%/x", "x", ":", "%", "spn:",
	} {
		if got := p.Decide(caller, policy.Request{Identity: "vm", Resource: resource(t, name), TokenType: "bearer"}); !got.Allowed {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}

// The package knows the audiences of all clouds by itself: a policy that is made without a list
// must not be wider.
func TestTheAudiencesOfTheCloudsAreReserved(t *testing.T) {
	found := 0
	for _, name := range []string{"public", "us-gov", "china", "france", "germany", "singapore"} {
		in, ok := cloud.Named(name)
		if !ok {
			t.Fatalf("there is no cloud %q", name)
		}
		if in.ExchangeAudience == "" {
			continue
		}
		found++
		if !new(policy.Policy).Reserves(resource(t, in.ExchangeAudience)) {
			t.Errorf("%s is not reserved", in.ExchangeAudience)
		}
	}
	if found < 5 {
		t.Errorf("only %d clouds have an audience", found)
	}
}

// A rule that names such a resource gives it, as it is named.
func TestAReservedResourceIsGivenByName(t *testing.T) {
	p := anyFor(1000)
	p.Rules = append(p.Rules, policy.Rule{
		Name: "exchange", UIDs: []uint32{1000}, Identities: []string{"vm"}, Resources: []string{exchange}, TokenTypes: []string{"bearer"},
	})
	for _, tt := range []struct {
		resource, kind string
		want           policy.Decision
	}{
		{exchange, "bearer", policy.Decision{Allowed: true, Rule: "exchange"}},
		{exchange + "/.default", "bearer", policy.Decision{Allowed: true, Rule: "exchange"}},
		{exchange, "mtls_pop", policy.Decision{Reason: policy.ReasonTokenType}},
		{"api://azureadtokenexchange", "bearer", policy.Decision{Reason: policy.ReasonReserved}},
		{exchange + "China", "bearer", policy.Decision{Reason: policy.ReasonReserved}},
		{vault, "mtls_pop", policy.Decision{Allowed: true, Rule: "any"}},
	} {
		got := p.Decide(peer.Caller{UID: 1000}, policy.Request{Identity: "vm", Resource: resource(t, tt.resource), TokenType: tt.kind})
		if got != tt.want {
			t.Errorf("%s, %s: got %+v, want %+v", tt.resource, tt.kind, got, tt.want)
		}
	}
}
