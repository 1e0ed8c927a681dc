package policy_test

import (
	"strings"
	"testing"

	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/policy"
)

func host(t testing.TB, s string) policy.Host {
	t.Helper()
	h, err := policy.ParseHost(s)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestHostsAreReadInOneFormOnly(t *testing.T) {
	for given, want := range map[string]string{
		"vault.azure.net":               "vault.azure.net",
		"vault.azure.net:443":           "vault.azure.net",
		"vault.azure.net:8443":          "vault.azure.net:8443",
		"xn--bcher-kva.example":         "xn--bcher-kva.example",
		"localhost:1":                   "localhost:1",
		"1-a.example":                   "1-a.example",
		"10.0.0.4":                      "10.0.0.4",
		"10.0.0.4:8443":                 "10.0.0.4:8443",
		"[2001:db8::1]":                 "[2001:db8::1]",
		"[2001:db8::1]:443":             "[2001:db8::1]",
		"[2001:db8::1]:8443":            "[2001:db8::1]:8443",
		strings.Repeat("a.", 126) + "a": strings.Repeat("a.", 126) + "a",
	} {
		h, err := policy.ParseHost(given)
		if err != nil || h.String() != want {
			t.Errorf("%s: got %q, %v, want %q", given, h, err, want)
		}
		if again, err := policy.ParseHost(h.String()); err != nil || again != h {
			t.Errorf("%s: printed and read: %q, %v", given, again, err)
		}
	}
	for _, refused := range []string{
		"", ":443", ".", ".azure.net", "vault.azure.net.", "vault..net", "Vault.azure.net", "vault.azure.net:", "vault.azure.net:0",
		"vault.azure.net:0443", "vault.azure.net:+443", "vault.azure.net:65536", "vault.azure.net:443:443", "vault.azure.net:https",
		"user@vault.azure.net", "user:password@vault.azure.net", "vault.azure.net@evil.example", "https://vault.azure.net",
		"vault.azure.net/", "vault.azure.net%2f", "vault.azure.net\\", "vault.azure.net#", "vault.azure.net?", "vault%2eazure.net",
		"vault.azure.net\r\nX: y", "vault.azure.net\x00", "vault.azure.net ", "*.azure.net", "vault_1.azure.net", "väult.azure.net",
		"vault。azure。net", "-a.example", "a-.example", strings.Repeat("a", 64) + ".example", strings.Repeat("a.", 127) + "a",
		"127.1", "1", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.0.0.01", "2130706433", "127.0.0.1.", "1.2.3.4.5", "a.0x", "a.1",
		"[::ffff:127.0.0.1]", "[::1%25lo]", "[::1%lo]", "[0:0:0:0:0:0:0:1]", "[::1", "::1", "[]", "[127.0.0.1]", "[2001:DB8::1]", "[::1]443",
	} {
		if h, err := policy.ParseHost(refused); err == nil {
			t.Errorf("%q is read as %q", refused, h)
		} else if h != (policy.Host{}) {
			t.Errorf("%q: a host beside the error", refused)
		}
	}
}

// One rule has to give the whole of a request with a host.
func TestDecideAboutHosts(t *testing.T) {
	const graph = "https://graph.microsoft.com"
	p := &policy.Policy{Rules: []policy.Rule{
		{Name: "none", UIDs: []uint32{1}, Identities: []string{"vm"}, Resources: []string{"*"}, TokenTypes: []string{"mtls_pop"}},
		{
			Name: "vault", UIDs: []uint32{1, 2}, Identities: []string{"vm"}, Resources: []string{vault}, TokenTypes: []string{"bearer", "mtls_pop"},
			Hosts: []string{"vault.azure.net", ".vault.azure.net", "10.0.0.4:8443"},
		},
		{
			Name: "graph", UIDs: []uint32{2}, Identities: []string{"vm"}, Resources: []string{graph}, TokenTypes: []string{"mtls_pop"},
			Hosts: []string{".microsoft.com"},
		},
	}}
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	allowed := func(rule string) policy.Decision { return policy.Decision{Allowed: true, Rule: rule} }
	refused := policy.Decision{Reason: policy.ReasonHost}
	tests := []struct {
		name            string
		uid             uint32
		res, kind, host string
		want            policy.Decision
	}{
		{"a host of the rule", 2, vault, "mtls_pop", "vault.azure.net", allowed("vault")},
		{"with the port that it has anyway", 2, vault, "mtls_pop", "vault.azure.net:443", allowed("vault")},
		{"a name of a domain of the rule", 2, vault, "mtls_pop", "a.vault.azure.net", allowed("vault")},
		{"far below the domain", 2, vault, "mtls_pop", "a.b.c.vault.azure.net", allowed("vault")},
		{"an address of the rule", 2, vault, "mtls_pop", "10.0.0.4:8443", allowed("vault")},
		{"the second rule, where the first gives no host", 1, vault, "mtls_pop", "vault.azure.net", allowed("vault")},

		{"a rule without hosts gives none, though it gives any resource", 1, graph, "mtls_pop", "graph.microsoft.com", refused},
		{"another port", 2, vault, "mtls_pop", "vault.azure.net:8443", refused},
		{"another port of a domain", 2, vault, "mtls_pop", "a.vault.azure.net:8443", refused},
		{"the address at another port", 2, vault, "mtls_pop", "10.0.0.4", refused},
		{"a name that only ends alike", 2, vault, "mtls_pop", "evilvault.azure.net", refused},
		{"a name that only begins alike", 2, vault, "mtls_pop", "vault.azure.net.evil.example", refused},
		{"a domain does not give its own name", 2, graph, "mtls_pop", "microsoft.com", refused},
		{"the host of another rule", 2, graph, "mtls_pop", "a.vault.azure.net", refused},
		{"a Bearer token at a host", 2, vault, "bearer", "vault.azure.net", refused},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := policy.Request{Identity: "vm", Resource: resource(t, tt.res), TokenType: tt.kind, Host: host(t, tt.host)}
			if got := p.Decide(peer.Caller{UID: tt.uid}, req); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
	withoutHost := policy.Request{Identity: "vm", Resource: resource(t, vault), TokenType: "bearer"}
	if got := p.Decide(peer.Caller{UID: 2}, withoutHost); got != allowed("vault") {
		t.Errorf("a rule with hosts gives tokens as one without: %+v", got)
	}
	if (&policy.Rule{Hosts: []string{"", "*"}}).CoversHost(policy.Host{}) {
		t.Error("no host is covered")
	}
}

func TestValidateHosts(t *testing.T) {
	for entry, want := range map[string]string{
		".net":            "a domain of two parts",
		".10.0.0.4":       "a domain of two parts",
		".[2001:db8::1]":  "a domain of two parts",
		"*":               "lower-case letters",
		"*.azure.net":     "lower-case letters",
		"..azure.net":     "is empty",
		"Vault.azure.net": "lower-case letters",
		"":                "is empty",
	} {
		p := &policy.Policy{Rules: []policy.Rule{{
			Name: "r", UIDs: []uint32{1}, Identities: []string{"vm"}, Resources: []string{vault}, TokenTypes: []string{"mtls_pop"}, Hosts: []string{entry},
		}}}
		if err := p.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", entry, err, want)
		}
	}
	p := &policy.Policy{Rules: []policy.Rule{{
		Name: "r", UIDs: []uint32{1}, Identities: []string{"vm"}, Resources: []string{vault}, TokenTypes: []string{"bearer"}, Hosts: []string{"vault.azure.net"},
	}}}
	if err := p.Validate(); err == nil || !strings.Contains(err.Error(), "mtls_pop") {
		t.Errorf("hosts without bound tokens: %v", err)
	}
}

// A parsed host prints as the same host, and has nothing of a URL but host and port.
func FuzzParseHost(f *testing.F) {
	for _, s := range []string{"vault.azure.net", "10.0.0.4:8443", "[2001:db8::1]:1", "127.1", "a@b", "a..b", "[::1%25lo]", "xn--a", "0x7f.0x1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, err := policy.ParseHost(s)
		if err != nil {
			return
		}
		if again, err := policy.ParseHost(h.String()); err != nil || again != h {
			t.Errorf("%q is %q, which is %q, %v", s, h, again, err)
		}
		if strings.ContainsAny(h.String(), "/\\@?#% \t\r\n\x00*") || strings.ToLower(s) != s {
			t.Errorf("%q is %q", s, h)
		}
	})
}
