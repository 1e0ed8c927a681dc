package rulebook_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/rulebook"
)

// machine says what tests want to hear of it.
type machine struct {
	form               peer.Form
	units, executables error
}

func (m machine) Level() peer.Level {
	level := peer.Level{Process: m.form, Units: m.units}
	if m.form != peer.FormPidfd {
		level.Why = "an old kernel"
	}
	return level
}

func (m machine) CheckUnits() error       { return m.units }
func (m machine) CheckExecutables() error { return m.executables }

// everybodyIsRoot knows every name.
type everybodyIsRoot struct{}

func (everybodyIsRoot) User(context.Context, string) (uint32, error)  { return 0, nil }
func (everybodyIsRoot) Group(context.Context, string) (uint32, error) { return 0, nil }

func TestRulesThatCouldNotHold(t *testing.T) {
	var (
		good     = machine{form: peer.FormPidfd}
		byProc   = machine{form: peer.FormPidfdAndProc}
		byNumber = machine{form: peer.FormNumber}
		blind    = machine{form: peer.FormNone}
		hybrid   = machine{form: peer.FormPidfd, units: errors.New("cgroups of version 1")}
		landlock = machine{form: peer.FormPidfd, executables: errors.New("no CAP_SYS_PTRACE")}

		user    = config.Rule{Principals: config.Principals{Users: []string{"1000"}}}
		unit    = config.Rule{Units: []string{"web.service"}}
		both    = config.Rule{Principals: config.Principals{Users: []string{"1000"}}, Units: []string{"web.service"}}
		program = config.Rule{Principals: config.Principals{Users: []string{"1000"}}, Executables: []string{"/usr/bin/web"}}
		root    = config.Rule{Principals: config.Principals{Users: []string{"root"}}}
		rootIn  = config.Rule{Principals: config.Principals{Users: []string{"0"}}, Units: []string{"web.service"}}
	)
	tests := []struct {
		name            string
		machine         machine
		rule            config.Rule
		refused, strict string // what is said without caller_identity: strict, and with it; "": nothing
		caution         string
	}{
		{"a user, anywhere", blind, user, "", "", ""},
		{"a unit", good, unit, "", "", ""},
		{"a unit by /proc", byProc, unit, "", "", ""},
		{"a unit by number", byNumber, unit, "", "strict does not accept", "lists no users"},
		{"a user in a unit by number", byNumber, both, "", "strict does not accept", "holds for the users that it lists"},
		{"a unit over TCP alone", blind, unit, "", "strict does not accept", "names nobody on the Unix socket"},
		{"a unit where there are none", hybrid, unit, "cgroups of version 1", "cgroups of version 1", ""},
		{"a user where there are no units", hybrid, user, "", "", ""},
		{"a program", good, program, "", "", ""},
		{"a program by number", byNumber, program, "", "strict does not accept", "holds for the users that it lists"},
		{"a program that cannot be seen", landlock, program, "no CAP_SYS_PTRACE", "no CAP_SYS_PTRACE", ""},
		{"a unit where no program can be seen", landlock, unit, "", "", ""},
		{"root", good, root, "", "", "every container"},
		{"root in a unit", good, rootIn, "", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.rule.Name = "r"
			for _, mode := range []struct{ setting, want string }{{"available", tt.refused}, {"strict", tt.strict}, {"", tt.refused}} {
				book := rulebook.New(&config.Config{Rules: []config.Rule{tt.rule}, CallerIdentity: mode.setting}, everybodyIsRoot{}, nil, nil)
				err := book.CheckCallers(tt.machine)
				if (err == nil) != (mode.want == "") || err != nil && !strings.Contains(err.Error(), mode.want) {
					t.Errorf("%s: got %v, want an error with %q", mode.setting, err, mode.want)
				}
				if book.Strict() != (mode.setting == "strict") || book.Look(t.Context()).Strict != book.Strict() {
					t.Errorf("%s: strict %v", mode.setting, book.Strict())
				}
				said := strings.Join(book.Cautions(tt.machine), "; ")
				if (said == "") != (tt.caution == "") || !strings.Contains(said, tt.caution) {
					t.Errorf("%s: cautions %q, want one with %q", mode.setting, said, tt.caution)
				}
			}
		})
	}
}

// A rule comes into force with its units and programs, also without a user.
func TestRulesOfUnits(t *testing.T) {
	cfg := &config.Config{Rules: []config.Rule{
		{Name: "unit", Units: []string{"web.service"}, Identities: []string{"vm"}, Resources: []string{"*"}, Types: []string{"bearer"}},
		{Name: "program", Principals: config.Principals{Users: []string{"1000"}}, Executables: []string{"/usr/bin/web"},
			Identities: []string{"vm"}, Resources: []string{"*"}, Types: []string{"bearer"}},
	}}
	book := rulebook.New(cfg, slowDirectory{}, nil, nil)
	if err := book.Check(); err != nil {
		t.Fatal(err)
	}
	p := book.Look(t.Context())
	if off := book.NotInForce(); off != nil || len(p.Rules) != 2 {
		t.Fatalf("%d rules, off: %v", len(p.Rules), off)
	}
	if p.Rules[0].Units[0] != "web.service" || p.Rules[1].Executables[0] != "/usr/bin/web" {
		t.Errorf("got %+v", p.Rules)
	}
	for _, wrong := range []config.Rule{
		{Name: "r", Executables: []string{"/usr/bin/web"}}, {Name: "r"}, {Name: "r", Units: []string{"user.slice/web.service"}},
	} {
		wrong.Identities, wrong.Resources, wrong.Types = []string{"vm"}, []string{"*"}, []string{"bearer"}
		if err := rulebook.New(&config.Config{Rules: []config.Rule{wrong}}, slowDirectory{}, nil, nil).Check(); err == nil {
			t.Errorf("%+v is accepted", wrong)
		}
	}
}

// Groups and programs are known on the Unix socket only. That matters where programs come over TCP.
func TestRulesThatNameNobodyOverTCP(t *testing.T) {
	users, groups := config.Principals{Users: []string{"1000"}}, config.Principals{Groups: []string{"50"}}
	both := config.Principals{Users: users.Users, Groups: groups.Groups}
	endpoint := &config.LoopbackEndpoint{Listen: "127.0.0.1:840"}
	for name, tt := range map[string]struct {
		endpoints config.Endpoints
		rule      config.Rule
		said      bool
	}{
		"a user":                    {config.Endpoints{AppService: endpoint}, config.Rule{Principals: users}, false},
		"a user or a group":         {config.Endpoints{AppService: endpoint}, config.Rule{Principals: both}, false},
		"a group":                   {config.Endpoints{IMDS: endpoint}, config.Rule{Principals: groups}, true},
		"a program":                 {config.Endpoints{Takeover: &config.Takeover{}}, config.Rule{Principals: users, Executables: []string{"/a"}}, true},
		"a unit":                    {config.Endpoints{AppService: endpoint}, config.Rule{Units: []string{"web.service"}}, false},
		"a group, without TCP":      {config.Endpoints{}, config.Rule{Principals: groups}, false},
		"a program, without TCP":    {config.Endpoints{}, config.Rule{Principals: users, Executables: []string{"/a"}}, false},
		"a group that is in a unit": {config.Endpoints{AppService: endpoint}, config.Rule{Principals: groups, Units: []string{"web.service"}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			tt.rule.Name = "r"
			book := rulebook.New(&config.Config{Rules: []config.Rule{tt.rule}, Endpoints: tt.endpoints}, everybodyIsRoot{}, nil, nil)
			if said := strings.Join(book.Cautions(machine{form: peer.FormPidfd}), "; "); strings.Contains(said, "over TCP, neither") != tt.said {
				t.Errorf("it says %q", said)
			}
		})
	}
}
