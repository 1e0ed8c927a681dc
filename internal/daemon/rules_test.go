package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/daemon"
	"github.com/keyagent/keyagent/internal/rulebook"
)

// directory is a name service whose users come and go.
type directory struct {
	mu    sync.Mutex
	ids   map[string]uint32
	asked []string
	fails error            // for all names
	fail  map[string]error // for some
}

func (d *directory) find(kind, name string) (uint32, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = append(d.asked, kind+" "+name)
	if d.fails != nil {
		return 0, d.fails
	}
	if err := d.fail[kind+" "+name]; err != nil {
		return 0, err
	}
	if id, ok := d.ids[kind+" "+name]; ok {
		return id, nil
	}
	return 0, fmt.Errorf("%s %q is not known", kind, name)
}

func (d *directory) User(_ context.Context, name string) (uint32, error) { return d.find("user", name) }

func (d *directory) Group(_ context.Context, name string) (uint32, error) {
	return d.find("group", name)
}

func (d *directory) add(account string, id uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ids == nil {
		d.ids = map[string]uint32{}
	}
	d.ids[account] = id
}

func (d *directory) remove(account string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.ids, account)
}

// failFor has the directory answer with an error for one name; nil: as before.
func (d *directory) failFor(account string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail == nil {
		d.fail = map[string]error{}
	}
	d.fail[account] = err
}

// turns lets an agent's pauses between looks for accounts end when the test says so.
type turns struct {
	waits chan time.Duration // what is waited for
	next  chan struct{}
}

func newTurns() *turns { return &turns{make(chan time.Duration), make(chan struct{})} }

func (w *turns) wait(ctx context.Context, d time.Duration) error {
	select {
	case w.waits <- d:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-w.next:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// myRule gives this process' user, by a name, what the stage's rule gives.
func myRule(name string, users, groups []string) config.Rule {
	return config.Rule{
		Name: name, Principals: config.Principals{Users: users, Groups: groups}, Identities: []string{"vm"},
		Resources: []string{resource}, Types: []string{config.TypeBearer},
	}
}

func myID() uint32 { return uint32(os.Getuid()) }

// TestAnUnknownUserCostsTheirRuleAlone is the life of a rule from a start without its user to the
// user's coming.
func TestAnUnknownUserCostsTheirRuleAlone(t *testing.T) {
	s, people, turn := newStage(t), &directory{}, newTurns()
	s.accounts, s.waitForAccounts = people, turn.wait
	storage := myRule("storage", []string{"websvc"}, []string{"webteam"})
	storage.Resources = []string{"https://storage.azure.com"}
	s.cfg.Rules = []config.Rule{myRule("me", []string{fmt.Sprint(myID())}, nil), storage}
	s.start()
	s.mustToken() // the other rule is in force
	ask := func() error {
		_, err := s.client.Token(t.Context(), client.TokenRequest{Identity: "vm", Resource: "https://storage.azure.com"})
		return err
	}
	off := func() string {
		status, err := s.client.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var text []string
		for _, r := range status.RulesOff {
			text = append(text, r.Name+": "+r.Reason)
		}
		return strings.Join(text, "\n")
	}
	if err := ask(); !errors.Is(err, client.ErrRefused) {
		t.Errorf("a rule whose user nobody knows gives a token: %v", err)
	}
	if got := off(); got != "storage: user \"websvc\" is not known\ngroup \"webteam\" is not known" {
		t.Errorf("status says %q", got)
	}
	if log := s.log.String(); strings.Count(log, "level=ERROR") != 1 || !strings.Contains(log, "rule=storage") {
		t.Errorf("the log has\n%s", log)
	}

	// Half of the rule is not the rule. What did not change is not logged again.
	if pause := <-turn.waits; pause != 5*time.Second {
		t.Errorf("the first pause is %s", pause)
	}
	people.add("user websvc", myID())
	turn.next <- struct{}{}
	if pause := <-turn.waits; pause != 10*time.Second {
		t.Errorf("the second pause is %s", pause)
	}
	if err := ask(); !errors.Is(err, client.ErrRefused) || off() != "storage: group \"webteam\" is not known" {
		t.Errorf("with one of two found: %v, status %q", err, off())
	}
	turn.next <- struct{}{}
	for _, want := range []time.Duration{20 * time.Second, 30 * time.Second, 30 * time.Second} {
		if pause := <-turn.waits; pause != want {
			t.Errorf("a pause of %s, want %s", pause, want)
		}
		turn.next <- struct{}{}
	}
	if got := strings.Count(s.log.String(), "level=ERROR"); got != 2 {
		t.Errorf("%d errors in the log, want one for each reason", got)
	}

	<-turn.waits
	people.add("group webteam", 1<<30)
	turn.next <- struct{}{}
	for deadline := time.Now().Add(time.Minute); ask() != nil; { // the look is under way
		if time.Now().After(deadline) {
			t.Fatalf("the rule does not come into force:\n%s", s.log.String())
		}
	}
	if got := off(); got != "" {
		t.Errorf("status says %q", got)
	}
	if !strings.Contains(s.log.String(), `msg="a rule has come into force: all its users and groups were found" rule=storage`) {
		t.Errorf("the log has\n%s", s.log.String())
	}
	people.mu.Lock()
	defer people.mu.Unlock()
	if n := len(slices.DeleteFunc(slices.Clone(people.asked), func(s string) bool { return s != "user websvc" })); n != 3 {
		t.Errorf("a user who was found is asked for %d times, want 3: until they are found, and when the rule comes into force", n)
	}
}

// A rule that was off while a user was missing comes into force with what is known then, and not
// with what was known of its other users before.
func TestARuleComesIntoForceWithTheNumbersOfThatMoment(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*directory) // meanwhile
		off    string           // what is said of the rule then; "" if it is in force
		gives  bool             // this user, whose number bob had, a token
	}{
		{"nothing has changed", func(*directory) {}, "", true},
		{"bob has another number", func(d *directory) { d.add("user bob", myID()+1000) }, "", false},
		{"bob is gone", func(d *directory) { d.remove("user bob") }, `web: user "bob" is not known`, false},
		{"the directory does not answer for bob", func(d *directory) { d.failFor("user bob", errors.New("it sleeps")) }, "web: it sleeps", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, people, turn := newStage(t), &directory{}, newTurns()
			s.accounts, s.waitForAccounts = people, turn.wait
			people.add("user bob", myID())
			s.cfg.Rules = []config.Rule{myRule("web", []string{"bob", "newhire"}, nil)}
			s.start()
			if _, err := s.token(); !errors.Is(err, client.ErrRefused) {
				t.Fatalf("half of a rule is in force: %v", err)
			}
			<-turn.waits
			tt.change(people)
			people.add("user newhire", myID()+2000)
			turn.next <- struct{}{}
			s.awaitLook(turn)
			if got := s.off(); got != tt.off {
				t.Errorf("status says %q", got)
			}
			s.client.Close()
			if _, err := s.token(); (err == nil) != tt.gives {
				t.Errorf("for the number that bob had: %v", err)
			}
		})
	}
}

// A rule in force goes on with the numbers that it has, whatever becomes of another rule that names
// the same user. If that one's look finds another number, it applies to both.
func TestARuleInForceKeepsItsNumbers(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*directory)
		gives  bool
	}{
		{"bob is gone", func(d *directory) { d.remove("user bob") }, true},
		{"the directory does not answer for bob", func(d *directory) { d.failFor("user bob", errors.New("it sleeps")) }, true},
		{"bob has another number", func(d *directory) { d.add("user bob", myID()+1000) }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, people, turn := newStage(t), &directory{}, newTurns()
			s.accounts, s.waitForAccounts = people, turn.wait
			people.add("user bob", myID())
			other := myRule("other", []string{"bob", "newhire"}, nil)
			other.Resources = []string{otherResource}
			s.cfg.Rules = []config.Rule{myRule("web", []string{"bob"}, nil), other}
			s.start()
			s.mustToken()
			<-turn.waits
			tt.change(people)
			people.add("user newhire", myID()+2000)
			turn.next <- struct{}{}
			s.awaitLook(turn)
			s.client.Close()
			if _, err := s.token(); (err == nil) != tt.gives {
				t.Errorf("by the rule in force: %v", err)
			}
			if _, err := s.client.Token(t.Context(), client.TokenRequest{Identity: "vm", Resource: otherResource}); !errors.Is(err, client.ErrRefused) {
				t.Errorf("by the other rule, for the number that bob had: %v", err)
			}
		})
	}
}

// off is what the status says of rules that are not in force.
func (s *stage) off() string {
	var text []string
	for _, r := range s.status().RulesOff {
		text = append(text, r.Name+": "+r.Reason)
	}
	return strings.Join(text, "\n")
}

// awaitLook waits until what a look has found is in force: the agent waits for the next one, or the
// rule has come into force.
func (s *stage) awaitLook(turn *turns) {
	s.t.Helper()
	s.await("the end of the look", func() bool {
		select {
		case <-turn.waits:
			return true
		default:
			return strings.Contains(s.log.String(), "a rule has come into force")
		}
	})
}

// await waits until something that is under way has happened.
func (s *stage) await(what string, happened func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(time.Minute); !happened(); s.status() { // which gives the agent its time
		if time.Now().After(deadline) {
			s.t.Fatalf("%s: it does not happen:\n%s", what, s.log.String())
		}
	}
}

func TestAnUnknownUserDoesNotKeepTheAgentFromStarting(t *testing.T) {
	mine := myRule("me", []string{fmt.Sprint(myID())}, nil)
	for _, tc := range []struct {
		name   string
		rules  []config.Rule
		admins config.Principals
		fails  error
		off    string // rules of the status
		admin  string // part of what it says of administrators
	}{
		{"a user", []config.Rule{mine, myRule("a", []string{"nobody-here"}, nil)}, config.Principals{}, nil, "a", ""},
		{"a group", []config.Rule{myRule("a", nil, []string{"nobody-here"}), mine}, config.Principals{}, nil, "a", ""},
		{"a known user beside an unknown one", []config.Rule{myRule("a", []string{fmt.Sprint(myID()), "nobody-here"}, nil)}, config.Principals{}, nil, "a", ""},
		{"a number that nobody has", []config.Rule{mine, myRule("a", []string{"4294967295"}, nil)}, config.Principals{}, nil, "a", ""},
		{"one user of two rules", []config.Rule{myRule("a", []string{"nobody-here"}, nil), mine, myRule("b", []string{"nobody-here"}, nil)}, config.Principals{}, nil, "a b", ""},
		{"every rule", []config.Rule{myRule("a", []string{"nobody-here"}, nil)}, config.Principals{}, nil, "a", ""},
		{"an administrator", []config.Rule{mine}, config.Principals{Users: []string{"nobody-here", fmt.Sprint(myID())}}, nil, "", "nobody-here"},
		{"a name service that does not answer", []config.Rule{mine, myRule("a", []string{"websvc"}, nil)}, config.Principals{}, errors.New("it sleeps"), "a", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			s.machine().WithoutApplications() // which lack their keys
			people := &directory{fails: tc.fails}
			s.accounts, s.waitForAccounts = people, newTurns().wait
			s.cfg.Rules, s.cfg.Admins = tc.rules, tc.admins
			s.start()
			status, err := s.client.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var off []string
			for _, r := range status.RulesOff {
				off = append(off, r.Name)
			}
			if got := strings.Join(off, " "); got != tc.off || !status.Ready {
				t.Errorf("off are %q, want %q; ready: %v", got, tc.off, status.Ready)
			}
			if (tc.admin == "") != (status.AdminsUnknown == "") || !strings.Contains(status.AdminsUnknown, tc.admin) {
				t.Errorf("of administrators, status says %q", status.AdminsUnknown)
			}
			if _, err := s.token(); (err == nil) != slices.ContainsFunc(tc.rules, func(r config.Rule) bool { return r.Name == "me" }) {
				t.Errorf("this user, whom the rule %q names: %v", "me", err)
			}
			if people.asked != nil && len(people.asked) != 1 {
				t.Errorf("asked for %q, want each once", people.asked)
			}
		})
	}
}

// What a rule gives is checked whether or not its users are known: it would be refused on the day
// when they come.
func TestARuleThatIsOffMustBeGoodAllTheSame(t *testing.T) {
	s := newStage(t)
	bad := myRule("a", []string{"nobody-here"}, nil)
	bad.Resources = []string{"https://a.example//"}
	s.cfg.Rules = []config.Rule{bad}
	d, err := daemon.Open(t.Context(), s.cfg, daemon.Options{Accounts: &directory{}})
	if err == nil || !strings.Contains(err.Error(), `rule "a": resource`) {
		t.Errorf("%v, %v", d, err)
	}
}

func TestCheckTellsAMissingUserFromAllElse(t *testing.T) {
	s := newStage(t)
	s.cfg.Rules = []config.Rule{myRule("a", []string{"nobody-here"}, []string{"no-group-here"})}
	err := daemon.Check(t.Context(), s.cfg)
	off, ok := errors.AsType[*rulebook.OffError](err)
	if !ok || len(off.Rules) != 1 || off.Rules[0].Name != "a" {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{`rule "a": user "nobody-here" is not known on this machine`, `group "no-group-here"`, "by number (gid)"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %v", want, err)
		}
	}
	s.cfg.CAFile = filepath.Join(t.TempDir(), "none.pem")
	err = daemon.Check(t.Context(), s.cfg)
	if _, ok := errors.AsType[*rulebook.OffError](err); ok || !strings.Contains(err.Error(), "nobody-here") || !strings.Contains(err.Error(), "ca_file") {
		t.Errorf("with a file missing, too: %v", err)
	}
	s.cfg.CAFile, s.cfg.Rules = "", nil
	if err := daemon.Check(t.Context(), s.cfg); err != nil {
		t.Error(err)
	}
}
