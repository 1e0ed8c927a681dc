package policy_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/policy"
)

// machine is one on which units run, and processes run programs.
type machine struct {
	units    map[string]uint64
	programs map[int32]string // by pid
	asked    *int
}

func (m machine) UnitID(unit string) (uint64, bool) {
	if m.asked != nil {
		*m.asked++
	}
	id, running := m.units[unit]
	return id, running
}

func (m machine) Runs(c peer.Caller, path string) bool {
	if m.asked != nil {
		*m.asked++
	}
	return m.programs[c.PID] == path
}

func thisMachine() machine {
	return machine{
		units:    map[string]uint64{"web.service": 100, "worker@1.service": 200},
		programs: map[int32]string{11: "/usr/bin/web"},
	}
}

// callersOf returns a policy of one rule, for some callers.
func callersOf(r policy.Rule) *policy.Policy {
	r.Name, r.Identities, r.Resources, r.TokenTypes = "r", []string{"vm"}, []string{vault}, []string{"bearer"}
	return &policy.Policy{Rules: []policy.Rule{r}, Machine: thisMachine()}
}

func decide(t *testing.T, p *policy.Policy, c peer.Caller) policy.Decision {
	t.Helper()
	return p.Decide(c, policy.Request{Identity: "vm", Resource: resource(t, vault), TokenType: "bearer"})
}

func TestCallersOfARule(t *testing.T) {
	const (
		user  = 1000
		group = 50
	)
	var (
		byUser  = policy.Rule{UIDs: []uint32{user}}
		byGroup = policy.Rule{GIDs: []uint32{group}}
		byUnit  = policy.Rule{Units: []string{"other.service", "web.service"}}
		both    = policy.Rule{UIDs: []uint32{user}, Units: []string{"web.service"}}
		grouped = policy.Rule{GIDs: []uint32{group}, Units: []string{"web.service"}}
		program = policy.Rule{UIDs: []uint32{user}, Executables: []string{"/usr/bin/other", "/usr/bin/web"}}
		all     = policy.Rule{UIDs: []uint32{user}, GIDs: []uint32{group}, Units: []string{"web.service"}, Executables: []string{"/usr/bin/web"}}
		root    = policy.Rule{UIDs: []uint32{0}}
		rootIn  = policy.Rule{UIDs: []uint32{0}, Units: []string{"web.service"}}
		weakly  = func(c peer.Caller) peer.Caller { c.Weak = true; return c }
		overTCP = func(c peer.Caller) peer.Caller {
			c.Via, c.PID, c.GID, c.Groups = peer.ViaTCP, 0, ^uint32(0), nil
			return c
		}
		webUser = peer.Caller{UID: user, GID: user, PID: 11, CgroupID: 100, Via: peer.ViaUnix}
		member  = peer.Caller{UID: 7, GID: 7, Groups: []uint32{group}, PID: 11, CgroupID: 100, Via: peer.ViaUnix}
		anybody = peer.Caller{UID: 65534, GID: 65534, PID: 11, CgroupID: 100, Via: peer.ViaUnix}
		admin   = peer.Caller{PID: 11, CgroupID: 100, Via: peer.ViaUnix}
	)
	elsewhere := func(c peer.Caller, cgroup uint64) peer.Caller { c.CgroupID = cgroup; return c }
	runs := func(c peer.Caller, pid int32) peer.Caller { c.PID = pid; return c }
	tests := []struct {
		name     string
		rule     policy.Rule
		caller   peer.Caller
		reason   policy.Reason // "": it is named
		standing policy.Standing
	}{
		{"a user", byUser, webUser, "", policy.ByUID},
		{"a user over TCP", byUser, overTCP(webUser), "", policy.ByUID},
		{"a member of a group", byGroup, member, "", policy.ByGroupOnly},
		{"a member of a group over TCP: nobody knows that", byGroup, overTCP(member), policy.ReasonCaller, policy.Stranger},
		{"a caller whose group over TCP would be that of root", policy.Rule{GIDs: []uint32{0}}, peer.Caller{UID: 7, Via: peer.ViaTCP}, policy.ReasonCaller, policy.Stranger},
		{"a caller whose group over TCP is named as none", policy.Rule{GIDs: []uint32{^uint32(0)}}, overTCP(webUser), policy.ReasonCaller, policy.Stranger},

		{"anybody in a unit", byUnit, anybody, "", policy.ByUnitOnly},
		{"anybody in a unit, over TCP", byUnit, overTCP(anybody), "", policy.ByUnitOnly},
		{"anybody in another unit", byUnit, elsewhere(anybody, 200), policy.ReasonCaller, policy.Stranger},
		{"a caller of any user, whose cgroup is not known", byUnit, elsewhere(anybody, 0), policy.ReasonCaller, policy.Stranger},
		{"anybody in the unit as it ran before", byUnit, elsewhere(anybody, 99), policy.ReasonCaller, policy.Stranger},
		{"root in a unit is a caller of it", byUnit, admin, "", policy.ByUID},

		{"a user in a unit", both, webUser, "", policy.ByUID},
		{"a user in a unit, over TCP", both, overTCP(webUser), "", policy.ByUID},
		{"the user outside of the unit", both, elsewhere(webUser, 200), policy.ReasonUnit, policy.Stranger},
		{"the user whose process has ended", both, webUser.WithoutProcess(), policy.ReasonUnit, policy.Stranger},
		{"another user in the unit", both, anybody, policy.ReasonCaller, policy.Stranger},
		{"a member in a unit", grouped, member, "", policy.ByGroupOnly},
		{"a member outside of the unit", grouped, elsewhere(member, 200), policy.ReasonUnit, policy.Stranger},
		{"a member in a unit over TCP", grouped, overTCP(member), policy.ReasonCaller, policy.Stranger},

		{"a user with a program", program, webUser, "", policy.ByUID},
		{"the user with another program", program, runs(webUser, 12), policy.ReasonExecutable, policy.Stranger},
		{"another user with the program", program, anybody, policy.ReasonCaller, policy.Stranger},
		{"the user over TCP: nobody knows the program", program, overTCP(webUser), policy.ReasonExecutable, policy.Stranger},
		{"the user over TCP with the process of another connection", program, peer.Caller{UID: user, PID: 11, CgroupID: 100, Via: peer.ViaTCP}, policy.ReasonExecutable, policy.Stranger},
		{"programs alone", policy.Rule{Executables: []string{"/usr/bin/web"}}, webUser, policy.ReasonCaller, policy.Stranger},
		{"nobody at all", policy.Rule{}, webUser, policy.ReasonCaller, policy.Stranger},

		{"all kinds", all, webUser, "", policy.ByUID},
		{"all kinds by group", all, member, "", policy.ByGroupOnly},
		{"all kinds, another unit", all, elsewhere(webUser, 200), policy.ReasonUnit, policy.Stranger},
		{"all kinds, another program", all, runs(webUser, 12), policy.ReasonExecutable, policy.Stranger},

		{"by number, the user and the unit", both, weakly(webUser), "", policy.ByUID},
		{"by number, the unit alone", byUnit, weakly(anybody), policy.ReasonWeak, policy.Stranger},
		{"by number, a group and the unit", grouped, weakly(member), policy.ReasonWeak, policy.Stranger},
		{"by number, the user and a program", program, weakly(webUser), "", policy.ByUID},
		{"by number, all kinds by group", all, weakly(member), policy.ReasonWeak, policy.Stranger},
		{"by number, the user outside of the unit", both, weakly(elsewhere(webUser, 200)), policy.ReasonUnit, policy.Stranger},
		{"by number, a user alone: that is certain", byUser, weakly(webUser), "", policy.ByUID},

		{"root by a rule for it", root, admin, "", policy.ByUID},
		{"root over TCP, which may be that of a container", root, overTCP(admin), policy.ReasonCaller, policy.Stranger},
		{"root in a unit, over TCP", rootIn, overTCP(admin), "", policy.ByUID},
		{"root in another unit, over TCP", rootIn, overTCP(elsewhere(admin, 200)), policy.ReasonUnit, policy.Stranger},
		{"root with a program, over TCP", policy.Rule{UIDs: []uint32{0}, Executables: []string{"/usr/bin/web"}}, overTCP(admin), policy.ReasonCaller, policy.Stranger},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := callersOf(tt.rule)
			got := decide(t, p, tt.caller)
			if got.Allowed != (tt.reason == "") || got.Reason != tt.reason {
				t.Errorf("got %+v, want reason %q", got, tt.reason)
			}
			if reason := p.Unnamed(tt.caller); reason != tt.reason || p.Named(tt.caller) != (tt.reason == "") {
				t.Errorf("unnamed: %q, named: %v", reason, p.Named(tt.caller))
			}
			if ids := p.Identities(tt.caller); slices.Contains(ids, "vm") != (tt.reason == "") {
				t.Errorf("identities %v", ids)
			}
			if grants := p.Grants(tt.caller); (len(grants) > 0) != (tt.reason == "") {
				t.Errorf("grants %v", grants)
			}
			if standing := p.Standing(tt.caller); standing != tt.standing {
				t.Errorf("standing %v, want %v", standing, tt.standing)
			}
			p.Machine = nil
			if decide(t, p, tt.caller).Allowed && len(tt.rule.Units)+len(tt.rule.Executables) > 0 {
				t.Error("without a machine to ask, it is allowed")
			}
		})
	}
}

func TestADecisionHasItsRuleAndTheCallersFacts(t *testing.T) {
	caller := peer.Caller{UID: 1000, PID: 11, CgroupID: 200, Via: peer.ViaUnix}
	p := callersOf(policy.Rule{UIDs: []uint32{1000}, Units: []string{"web.service", "worker@1.service"}, Executables: []string{"/usr/bin/web"}})
	want := policy.Decision{Allowed: true, Rule: "r", Unit: "worker@1.service", Executable: "/usr/bin/web"}
	if got := decide(t, p, caller); got != want || !got.Passing() {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := decide(t, callersOf(policy.Rule{UIDs: []uint32{1000}}), caller); !got.Allowed || got.Passing() {
		t.Errorf("got %+v: what a user may does not pass", got)
	}
	if !p.ByMachine() || callersOf(policy.Rule{UIDs: []uint32{1000}}).ByMachine() {
		t.Error("which rules need the machine is not known")
	}
}

// A unit that stops, or starts again, is seen by the next decision.
func TestUnitsAreAskedForEachTime(t *testing.T) {
	caller := peer.Caller{UID: 1000, CgroupID: 100, Via: peer.ViaUnix}
	p, units := callersOf(policy.Rule{Units: []string{"web.service"}}), map[string]uint64{"web.service": 100}
	p.Machine = machine{units: units}
	if !decide(t, p, caller).Allowed {
		t.Fatal("refused")
	}
	units["web.service"] = 101
	if got := decide(t, p, caller); got.Allowed {
		t.Errorf("the unit was started again: %+v", got)
	}
	delete(units, "web.service")
	if got := decide(t, p, caller); got.Allowed {
		t.Errorf("the unit has stopped: %+v", got)
	}
}

// The machine is asked for callers whom the rest of the rule names, and for nobody else.
func TestTheMachineIsAskedLast(t *testing.T) {
	asked := 0
	m := thisMachine()
	m.asked = &asked
	p := callersOf(policy.Rule{UIDs: []uint32{1000}, Units: []string{"web.service"}, Executables: []string{"/usr/bin/web"}})
	p.Machine = m
	for _, c := range []peer.Caller{
		{UID: 7, PID: 11, CgroupID: 100}, {UID: 1000, PID: 11}, {UID: 1000, PID: 11, CgroupID: 100, Weak: true, Via: peer.ViaTCP}, {},
	} {
		p.Strict = c.Weak
		if got := decide(t, p, c); got.Allowed || asked != 0 {
			t.Errorf("%+v: %+v, asked %d times", c, got, asked)
		}
	}
}

func TestStrict(t *testing.T) {
	weak := peer.Caller{UID: 1000, PID: 11, CgroupID: 100, Weak: true, Via: peer.ViaUnix}
	for name, rule := range map[string]policy.Rule{
		"a unit":    {UIDs: []uint32{1000}, Units: []string{"web.service"}},
		"a program": {UIDs: []uint32{1000}, Executables: []string{"/usr/bin/web"}},
	} {
		p := callersOf(rule)
		p.Strict = true
		if got := decide(t, p, weak); got.Reason != policy.ReasonWeak {
			t.Errorf("%s: %+v", name, got)
		}
		strong := weak
		strong.Weak = false
		if got := decide(t, p, strong); !got.Allowed {
			t.Errorf("%s, certain: %+v", name, got)
		}
	}
	p := callersOf(policy.Rule{UIDs: []uint32{1000}})
	p.Strict = true
	if got := decide(t, p, weak); !got.Allowed {
		t.Errorf("a user, who is certain: %+v", got)
	}
}

// Nobody administers the agent over TCP, and nobody stands by a right that does not hold.
func TestNobodyIsAnAdministratorOverTCP(t *testing.T) {
	p := &policy.Policy{AdminUIDs: []uint32{990}, AdminGIDs: []uint32{0, 4}}
	for _, c := range []peer.Caller{{UID: 0}, {UID: 990}, {UID: 7, GID: 4}, {UID: 7}} {
		c.Via = peer.ViaTCP
		if p.Admin(c) || p.Standing(c) != policy.Stranger {
			t.Errorf("%+v: admin %v, standing %v", c, p.Admin(c), p.Standing(c))
		}
	}
}

// The rule that comes nearest says why.
func TestReasonOfTheNearestRule(t *testing.T) {
	p := callersOf(policy.Rule{UIDs: []uint32{1000}, Units: []string{"other.service"}})
	second := p.Rules[0]
	second.Name, second.Units, second.Executables = "s", nil, []string{"/usr/bin/other"}
	p.Rules = append(p.Rules, second)
	if got := decide(t, p, peer.Caller{UID: 1000, PID: 11, CgroupID: 100}); got.Reason != policy.ReasonExecutable {
		t.Errorf("got %+v", got)
	}
}

func TestValidateCallers(t *testing.T) {
	for name, tt := range map[string]struct {
		rule policy.Rule
		want string
	}{
		"a unit alone":         {policy.Rule{Units: []string{"web.service"}}, ""},
		"a unit in a slice":    {policy.Rule{Units: []string{"apps.slice/web.service"}}, ""},
		"a program of a unit":  {policy.Rule{Units: []string{"web.service"}, Executables: []string{"/usr/bin/web"}}, ""},
		"programs alone":       {policy.Rule{Executables: []string{"/usr/bin/web"}}, "programs alone"},
		"a unit of a user":     {policy.Rule{Units: []string{"user.slice/web.service"}}, "belong to users"},
		"a slice":              {policy.Rule{Units: []string{"apps.slice"}}, "not the name of a service"},
		"a path of a cgroup":   {policy.Rule{Units: []string{"/system.slice/web.service"}}, "not the name of a service"},
		"a program by name":    {policy.Rule{UIDs: []uint32{1}, Executables: []string{"web"}}, "not an absolute path"},
		"a path with a detour": {policy.Rule{UIDs: []uint32{1}, Executables: []string{"/usr/bin/../bin/web"}}, "without detours"},
	} {
		t.Run(name, func(t *testing.T) {
			err := callersOf(tt.rule).Validate()
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}
