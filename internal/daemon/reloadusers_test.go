package daemon_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/accounts"
)

// The looks for users of a configuration that was replaced end, and cannot bring its rules back.
func TestLooksForUsersEndWithTheirConfiguration(t *testing.T) {
	s, people, turn := newStage(t), &directory{}, newTurns()
	s.accounts, s.waitForAccounts = people, turn.wait
	s.cfg.Rules = []config.Rule{myRule("old", []string{"oldsvc"}, nil)}
	s.start()
	<-turn.waits
	people.add("user oldsvc", myID())
	s.mustReload(func(c *config.Config) { c.Rules = []config.Rule{myRule("new", []string{"newsvc"}, nil)} })
	if pause := <-turn.waits; pause != 5*time.Second { // of the new configuration; the old one's has ended
		t.Errorf("the first pause is %s", pause)
	}
	turn.next <- struct{}{}
	<-turn.waits
	if _, err := s.token(); !errors.Is(err, client.ErrRefused) {
		t.Errorf("a rule of the old configuration is in force: %v", err)
	}
	if off := s.status().RulesOff; len(off) != 1 || off[0].Name != "new" {
		t.Errorf("off are %+v", off)
	}
	people.mu.Lock()
	asked := slices.Clone(people.asked)
	people.mu.Unlock()
	if n := strings.Count(strings.Join(asked, "\n"), "oldsvc"); n != 1 {
		t.Errorf("asked for %q", asked)
	}
	people.add("user newsvc", myID())
	turn.next <- struct{}{}
	s.client.Close()
	for deadline := time.Now().Add(time.Minute); ; s.client.Close() { // the look is under way
		if _, err := s.token(); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// A directory that is down at a reload takes no rule away: numbers of before count on, and are said
// to be unconfirmed, until they are confirmed or refuted. getent says of a directory that is not
// running what it says of one that does not have the user any more, so this takes effect after ten
// minutes only.
func TestADirectoryAtAReload(t *testing.T) {
	gone, sleeps := fmt.Errorf("user %q is %w", "websvc", accounts.ErrUnknown), errors.New("it sleeps")
	for _, tt := range []struct {
		name   string
		fails  error            // at the reload
		after  func(*directory) // before the next look
		later  time.Duration    // that the next look is
		gives  bool             // after that look
		log    string           // part of what is said then
		asking bool             // it goes on
	}{
		{name: "answers", gives: true},
		{name: "is down, and confirms", fails: sleeps, after: func(d *directory) { d.failFor("user websvc", nil) }, gives: true, log: `level=INFO msg="a number of the configuration before was confirmed" user=websvc`},
		{name: "is down for long", fails: sleeps, later: time.Hour, gives: true, asking: true},
		{name: "is down, and has another number", fails: sleeps, after: func(d *directory) {
			d.failFor("user websvc", nil)
			d.add("user websvc", myID()+1)
		}, log: `level=WARN msg="a user or group has another number than before`},
		{name: "is down, then knows the user no more", fails: sleeps, after: func(d *directory) { d.failFor("user websvc", gone) }, gives: true, asking: true, log: "counts no more at the time that is said here"},
		{name: "is not running, and confirms", fails: gone, after: func(d *directory) { d.failFor("user websvc", nil) }, gives: true, log: "was confirmed"},
		{name: "is not running for a while", fails: gone, later: 10*time.Minute - time.Second, gives: true, asking: true},
		{name: "knows the user no more", fails: gone, later: 10 * time.Minute, asking: true, log: `level=ERROR msg="a number of the configuration before was not confirmed, and counts no more" user=websvc`},
		{name: "knows the user no more, then is down", fails: gone, later: 10 * time.Minute, after: func(d *directory) { d.failFor("user websvc", sleeps) }, asking: true, log: "counts no more"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, people, turn := newStage(t), &directory{}, newTurns()
			clock := s.setClock()
			s.accounts, s.waitForAccounts = people, turn.wait
			people.add("user websvc", myID())
			s.cfg.Rules = []config.Rule{myRule("web", []string{"websvc"}, nil)}
			s.start()
			s.mustToken()
			people.failFor("user websvc", tt.fails)
			s.mustReload(nothing)
			s.client.Close()
			s.mustToken()
			list := s.status().Unconfirmed
			if tt.fails == nil {
				if len(list) > 0 {
					t.Errorf("unconfirmed are %+v", list)
				}
				return
			}
			if len(list) != 1 || list[0].Kind != "user" || list[0].Name != "websvc" || list[0].Number != myID() || list[0].Reason != tt.fails.Error() ||
				(list[0].Until != nil) != errors.Is(tt.fails, gone) {
				t.Errorf("unconfirmed are %+v", list)
			}
			if log := s.log.String(); !strings.Contains(log, `level=WARN msg="a number is from the configuration before`) || !strings.Contains(log, fmt.Sprintf("user=websvc number=%d", myID())) {
				t.Errorf("the log has\n%s", log)
			}
			<-turn.waits
			told := len(s.log.String())
			clock.Add(int64(tt.later))
			if tt.after != nil {
				tt.after(people)
			}
			turn.next <- struct{}{}
			if tt.asking {
				<-turn.waits
			} else {
				s.await("the look", func() bool { return strings.Contains(s.log.String()[told:], tt.log) })
			}
			s.client.Close()
			if _, err := s.token(); (err == nil) != tt.gives {
				t.Errorf("for the number of before: %v", err)
			}
			if log := s.log.String()[told:]; !strings.Contains(log, tt.log) {
				t.Errorf("the log has\n%s", log)
			}
			status := s.status()
			if off := tt.asking && !tt.gives; len(status.RulesOff) > 0 != off || len(status.Unconfirmed) > 0 != (tt.asking && tt.gives) {
				t.Errorf("off are %+v, unconfirmed are %+v", status.RulesOff, status.Unconfirmed)
			}
		})
	}
}

// Reloads again and again do not prolong what a number has left.
func TestReloadsDoNotProlongANumber(t *testing.T) {
	s, people, turn := newStage(t), &directory{}, newTurns()
	clock := s.setClock()
	s.accounts, s.waitForAccounts = people, turn.wait
	people.add("user websvc", myID())
	s.cfg.Rules = []config.Rule{myRule("web", []string{"websvc"}, nil)}
	s.start()
	people.failFor("user websvc", fmt.Errorf("user %q is %w", "websvc", accounts.ErrUnknown))
	for n := range 4 {
		s.mustReload(nothing)
		s.client.Close()
		if _, err := s.token(); (err == nil) != (n < 3) {
			t.Errorf("%d minutes after the first reload: %v", 4*n, err)
		}
		clock.Add(int64(4 * time.Minute))
	}
}

// What was not in force before a reload does not come into force by a number of before it.
func TestNothingNewComesIntoForceByAnOldNumber(t *testing.T) {
	for _, tt := range []struct {
		name   string
		before []config.Rule // besides the rule web, of websvc
		after  config.Rule
	}{
		{"a new rule", nil, myRule("new", []string{"websvc"}, nil)},
		{"a rule that was off", []config.Rule{myRule("new", []string{"websvc", "newhire"}, nil)}, myRule("new", []string{"websvc", "newhire"}, nil)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, people := newStage(t), &directory{}
			s.accounts, s.waitForAccounts = people, newTurns().wait
			people.add("user websvc", myID())
			web := myRule("web", []string{"websvc"}, nil)
			web.Resources = []string{otherResource}
			s.cfg.Rules = append([]config.Rule{web}, tt.before...)
			s.start()
			people.add("user newhire", myID()+1)
			people.failFor("user websvc", errors.New("it sleeps"))
			s.mustReload(func(c *config.Config) {
				c.Rules = []config.Rule{web, tt.after}
				c.Admins = config.Principals{Users: []string{"websvc"}}
			})
			s.client.Close()
			if _, err := s.token(); !errors.Is(err, client.ErrRefused) {
				t.Errorf("it is in force: %v", err)
			}
			if _, err := s.client.Token(t.Context(), client.TokenRequest{Identity: "vm", Resource: otherResource}); err != nil {
				t.Errorf("what was in force is not: %v", err)
			}
			if status := s.status(); s.off() != "new: it sleeps" || status.AdminsUnknown != "it sleeps" || len(status.Unconfirmed) != 1 {
				t.Errorf("off are %q, of administrators %q, unconfirmed %+v", s.off(), status.AdminsUnknown, status.Unconfirmed)
			}
		})
	}
}

// setClock gives the agent a clock that only the test sets forward, in nanoseconds.
func (s *stage) setClock() *atomic.Int64 {
	start := time.Now()
	passed := &atomic.Int64{}
	s.now = func() time.Time { return start.Add(time.Duration(passed.Load())) }
	return passed
}
