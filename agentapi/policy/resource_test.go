package policy_test

import (
	"strings"
	"testing"

	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/policy"
)

func TestParseResource(t *testing.T) {
	tests := []struct {
		name            string
		in              string
		compared, asked string // compared empty: refused
	}{
		{"a plain resource stays", vault, vault, vault},
		{"a trailing slash is asked for but not compared", vault + "/", vault, vault + "/"},
		{"a default scope is neither", vault + "/.default", vault, vault},
		{"the default scope of a resource with a slash keeps its slash", vault + "//.default", vault, vault + "/"},
		{"an application id is a resource", "0f1e2d3c-0000-4000-8000-000000000001", "0f1e2d3c-0000-4000-8000-000000000001", "0f1e2d3c-0000-4000-8000-000000000001"},
		{"an api URI is a resource", "api://shop/", "api://shop", "api://shop/"},
		{"a name that ends in .default is a name", "https://r.default", "https://r.default", "https://r.default"},
		{"the longest resource", strings.Repeat("r", policy.MaxResourceBytes), strings.Repeat("r", policy.MaxResourceBytes), strings.Repeat("r", policy.MaxResourceBytes)},

		{"nothing", "", "", ""},
		{"a slash", "/", "", ""},
		{"a bare default scope", "/.default", "", ""},
		{"a slash and a default scope", "//.default", "", ""},
		{"two slashes", vault + "//", "", ""},
		{"two default scopes", vault + "/.default/.default", "", ""},
		{"a default scope and a slash", vault + "/.default/", "", ""},
		{"two scopes", vault + " https://graph.microsoft.com", "", ""},
		{"two scopes, tab", vault + "\thttps://graph.microsoft.com", "", ""},
		{"a line break", vault + "\r\nX: y", "", ""},
		{"a NUL", vault + "\x00", "", ""},
		{"a letter that looks like another", "https://v\u0430ult.azure.net", "", ""},
		{"not UTF-8", "https://\xff", "", ""},
		{"a backslash", `https:\\vault.azure.net`, "", ""},
		{"a quote", `"` + vault + `"`, "", ""},
		{"one byte too long", strings.Repeat("r", policy.MaxResourceBytes+1), "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := policy.ParseResource(tt.in)
			if (err == nil) != (tt.compared != "") {
				t.Fatalf("got %q, %v", r, err)
			}
			if r.String() != tt.compared || r.Asked() != tt.asked {
				t.Errorf("compared %q, asked %q, want %q, %q", r, r.Asked(), tt.compared, tt.asked)
			}
		})
	}
}

// Whatever is accepted must mean one resource, today and after the next trimming, and must be
// allowed only by a rule of that resource.
func FuzzParseResource(f *testing.F) {
	for _, seed := range []string{
		vault, vault + "/", vault + "/.default", vault + "//.default", vault + "//", "/", "/.default", "*", "",
		vault + " " + vault, vault + "\x00", "https://v\u0430ult.azure.net", vault + "/.default/.default", "api://x",
		"api://AzureADTokenExchange", "spn:fb60f99c-7a34-4190-8149-302f77469936", "api:%252F%2fAzureADToken%45xchange%", "api://Partner/exchange?x",
	} {
		f.Add(seed)
	}
	p, wide := twoRules(), anyFor(1000)
	f.Fuzz(func(t *testing.T, in string) {
		r, err := policy.ParseResource(in)
		if err != nil {
			if r != (policy.Resource{}) {
				t.Errorf("%q is refused and still gives %q", in, r)
			}
			return
		}
		for _, form := range []string{r.String(), r.Asked(), r.String() + "/", r.Asked() + "/.default"} {
			again, err := policy.ParseResource(form)
			if len(form) <= policy.MaxResourceBytes && (err != nil || again.String() != r.String()) {
				t.Errorf("%q compares as %q, its form %q as %q (%v)", in, r, form, again, err)
			}
		}
		if strings.ContainsAny(r.Asked(), " \t\r\n\x00") || !strings.HasPrefix(in, r.Asked()) {
			t.Errorf("%q asks for %q", in, r.Asked())
		}
		if other, err := policy.ParseResource(strings.ToUpper(r.String())); err == nil && wide.Reserves(other) != wide.Reserves(r) {
			t.Errorf("%q is reserved in one case and not in another", in)
		}
		decision := p.Decide(peer.Caller{UID: 1000}, policy.Request{Identity: "vm", Resource: r, TokenType: "bearer"})
		isVault := in == vault || in == vault+"/" || in == vault+"/.default" || in == vault+"//.default"
		if decision.Allowed != isVault {
			t.Errorf("%q: %+v", in, decision)
		}
	})
}
