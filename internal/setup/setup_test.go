package setup_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/setup"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// confidential is an Azure Confidential VM as one would wish it.
func confidential() setup.Facts {
	return setup.Facts{
		TPM:  setup.TPM{Device: "device:/dev/tpmrm0", Maker: "MSFT", Firmware: "0x2020031200120003"},
		Kind: setup.KindSNP,
		Host: setup.Host{
			Endpoint: "http://169.254.169.254", V1: setup.Present, V2: setup.Present,
			Region: "westeurope", Cloud: "AzurePublicCloud", Size: "Standard_DC2as_v5", SecurityType: "ConfidentialVM",
			ClientID: "2722aa07-c1d6-471d-9d4f-42c633459c2a", TenantID: "3fe62d49-87df-4bec-80c7-c8b9cb006266",
		},
		Agent:   setup.Agent{User: "keyagent"},
		Systemd: true,
	}
}

func web() setup.Choices {
	return setup.Choices{Units: []string{"web.service"}, Resources: []string{"https://vault.azure.net"}}
}

const userAssigned = "c0ffee00-0000-4000-8000-0000000000bb"

// scenario is a machine and what its operator chose.
type scenario struct {
	name   string
	change func(*setup.Facts, *setup.Choices)
}

func scenarios() []scenario {
	return []scenario{
		{"confidential", func(*setup.Facts, *setup.Choices) {}},
		{"application", func(_ *setup.Facts, c *setup.Choices) {
			c.Application, c.Tenant = "c0ffee00-0000-4000-8000-0000000000aa", "contoso.example"
			c.Managed.ClientID = userAssigned
			c.Units, c.Users, c.Types = nil, []string{"batch"}, []string{"bearer", "mtls_pop"}
		}},
		{"government", func(f *setup.Facts, c *setup.Choices) {
			f.Host.Cloud, f.Host.Region = "AzureUSGovernmentCloud", "usgovvirginia"
			c.Application, c.Tenant = "c0ffee00-0000-4000-8000-0000000000aa", "contoso.example"
		}},
		{"trusted-launch", func(f *setup.Facts, c *setup.Choices) {
			f.Kind, f.Host.SecurityType = setup.KindTrusted, "TrustedLaunch"
			c.AppService = true
		}},
		{"no-v2-preferred", func(f *setup.Facts, c *setup.Choices) {
			f.Host.V2, f.Host.ClientID, f.Host.TenantID = setup.Absent, "", ""
			c.Bound = config.BoundPrefer
		}},
		{"unbound", func(f *setup.Facts, c *setup.Choices) {
			f.Host.V2 = setup.Absent
			c.Bound, c.Managed.ClientID = config.BoundNever, userAssigned
		}},
		{"no-imds", func(f *setup.Facts, _ *setup.Choices) {
			f.Host = setup.Host{Endpoint: "http://169.254.169.254", Fault: "IMDS compute: not reachable: connection refused"}
		}},
		{"hand-made", func(f *setup.Facts, c *setup.Choices) {
			f.Systemd, f.Agent = false, setup.Agent{User: "keyagent", Missing: true}
			f.NoUnits = "cgroups of version 1 are in use"
			f.Unknown = []string{`user "web" is not known on this machine`}
			c.Users, c.Groups, c.Path, c.Resources = []string{"web", "0"}, []string{"devs"}, "/srv/agent.yaml", []string{"*"}
			c.Name = "machine"
		}},
		{"troubled-tpm", func(f *setup.Facts, _ *setup.Choices) {
			f.TPM = setup.TPM{
				Device: "device:/dev/tpm0", Maker: "IBM", Firmware: "0x1", NoManager: true, OwnerPassword: true, Lockout: true, NoSHA256: true,
				Barred: "user keyagent may not open /dev/tpm0, which belongs to user tss and group tss (mode 0660)", Group: "tss",
			}
			f.InUse = "something listens there now"
		}},
		{"site", func(_ *setup.Facts, c *setup.Choices) {
			c.Base = []byte("# of all our machines\nproxy:\n  url: http://proxy.example:3128\naudit: {to: journald}\nattestation: {provider: none}\n")
			c.BaseName, c.Users = "site.yaml", []string{"root"}
			c.Units = nil
		}},
		{"unknown-kind", func(f *setup.Facts, _ *setup.Choices) { f.Kind = setup.KindUnknown }},
		{"identity-not-there", func(f *setup.Facts, _ *setup.Choices) {
			f.Host.ClientID, f.Host.TenantID = "", ""
			f.Host.NoIdentity = "IMDS getplatformmetadata: status 400: identity_not_found"
			f.Agent = setup.Agent{User: "root", Root: true}
		}},
	}
}

func TestProposals(t *testing.T) {
	for _, s := range scenarios() {
		t.Run(s.name, func(t *testing.T) {
			facts, choices := confidential(), web()
			s.change(&facts, &choices)
			p, err := setup.Propose(facts, choices, nil)
			if err != nil {
				t.Fatal(err)
			}
			again, err := setup.Propose(facts, choices, nil)
			if err != nil || again.Text != p.Text {
				t.Errorf("the second time: %v, %q", err, again.Text)
			}
			got := []byte(shown(p))
			path := filepath.Join("testdata", s.name+".golden")
			if *update {
				if err := os.WriteFile(path, got, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func shown(p *setup.Proposal) string {
	var b strings.Builder
	for _, d := range p.Decisions {
		fmt.Fprintf(&b, "%s %s: %s: %s\n", d.Verdict, d.About, d.Choice, d.Why)
	}
	fmt.Fprintf(&b, "---\n%s---\n%s\n", p.Text, strings.Join(append(p.Before, p.Next...), "\n"))
	return b.String()
}

// What the host cannot give is not silently done without, and what only the operator can know has
// no default.
func TestWhatIsNotProposed(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*setup.Facts, *setup.Choices)
		want   string
	}{
		{"a unit alone, on a kernel that does not say for certain which one a caller is in", func(f *setup.Facts, c *setup.Choices) {
			f.WeakUnits, c.Units, c.Users = "before Linux 6.5", []string{"web.service"}, nil
		}, "choose the unit's user, too"},
		{"no binding certificates, and nobody chose to go without", func(f *setup.Facts, _ *setup.Choices) { f.Host.V2 = setup.Absent }, "no binding certificates (MSI v2)"},
		{"the same, chosen", func(f *setup.Facts, c *setup.Choices) { f.Host.V2, c.Bound = setup.Absent, "require" }, "no binding certificates (MSI v2)"},
		{"no TPM", func(f *setup.Facts, _ *setup.Choices) { f.TPM.Fault = "no such file" }, "no TPM that the agent could use: no such file"},
		{"nobody", func(_ *setup.Facts, c *setup.Choices) { c.Units = nil }, "not chosen: who may have tokens"},
		{"nothing", func(_ *setup.Facts, c *setup.Choices) { c.Units, c.Resources = nil, nil }, "who may have tokens, and tokens for which resources"},
		{"a tenant alone", func(_ *setup.Facts, c *setup.Choices) { c.Tenant = "contoso.example" }, "only with an application"},
		{"no tenant", func(_ *setup.Facts, c *setup.Choices) { c.Application = userAssigned }, "needs its tenant"},
		{"a client id that is none", func(_ *setup.Facts, c *setup.Choices) { c.Managed.ClientID = "vm-user" }, `client_id: "vm-user" is not a GUID`},
		{"a name that is none", func(_ *setup.Facts, c *setup.Choices) { c.Name = "My VM" }, `"My VM" is not made of`},
		{"a word for bound", func(_ *setup.Facts, c *setup.Choices) { c.Bound = "yes" }, "not require, prefer or never"},
		{"a type of token", func(_ *setup.Facts, c *setup.Choices) { c.Types = []string{"pop"} }, `"pop"`},
		{"a line break that would be a setting", func(_ *setup.Facts, c *setup.Choices) { c.Users = []string{"web\nfresh: true"} }, "control character"},
		{"YAML in a name", func(_ *setup.Facts, c *setup.Choices) { c.Name = `vm", "managed_identity": {}, "x": "` }, "is not made of"},
		{"rules in the settings of all machines", func(_ *setup.Facts, c *setup.Choices) { c.Base, c.BaseName = []byte("rules: []\n"), "site.yaml" }, "site.yaml: rules: not in a file"},
		{"a wrong setting there", func(_ *setup.Facts, c *setup.Choices) { c.Base = []byte("audit: {to: nowhere}\n") }, "audit.to"},
		{"an unknown setting there", func(_ *setup.Facts, c *setup.Choices) { c.Base = []byte("audits: {}\n") }, "unknown setting audits"},
		{"a second document there", func(_ *setup.Facts, c *setup.Choices) { c.Base = []byte("socket: /run/a.sock\n---\n") }, "more than one YAML document"},
		{"endpoints there, and here", func(_ *setup.Facts, c *setup.Choices) {
			c.Base, c.AppService = []byte("endpoints: {admin: {socket: /run/keyagent/admin.sock}}\n"), true
		}, "endpoints of its own"},
		{"another TPM there", func(_ *setup.Facts, c *setup.Choices) {
			c.Base, c.BaseName, c.TPM = []byte("tpm: unix:/run/a.sock\n"), "site.yaml", "unix:/run/b.sock"
		}, "site.yaml has another TPM"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			facts, choices := confidential(), web()
			tt.change(&facts, &choices)
			p, err := setup.Propose(facts, choices, nil)
			if err == nil || !strings.Contains(err.Error(), tt.want) || p != nil {
				t.Errorf("got %v, %v; want %q", p, err, tt.want)
			}
		})
	}
}

func TestTheErrorsThatTheProgramDecidesOn(t *testing.T) {
	facts := confidential()
	facts.Host.V2 = setup.Absent
	_, err := setup.Propose(facts, web(), nil)
	if unbound, ok := errors.AsType[*setup.UnboundError](err); !ok || unbound.Host != facts.Host.Endpoint {
		t.Errorf("got %v", err)
	}
	facts.TPM.Fault = "gone"
	if _, err := setup.Propose(facts, web(), nil); !errors.Is(err, setup.ErrNoTPM) {
		t.Errorf("got %v", err)
	}
}

func TestChanges(t *testing.T) {
	for _, tt := range []struct{ from, to, want string }{
		{"a\nb\n", "a\nb\n", ""},
		{"a\nb\nc\n", "a\nc\nd\n", "  a\n- b\n  c\n+ d"},
		{"", "a\n", "- \n+ a"},
		{"a\nb\n", "b\na\n", "- a\n  b\n+ a"},
	} {
		if got := strings.Join(setup.Changes(tt.from, tt.to), "\n"); got != tt.want {
			t.Errorf("from %q to %q: got %q, want %q", tt.from, tt.to, got, tt.want)
		}
	}
}
