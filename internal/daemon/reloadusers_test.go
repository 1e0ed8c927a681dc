package daemon_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
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

// A directory that is down at a reload takes no rule away; one that says that a user is gone
// does.
func TestADirectoryAtAReload(t *testing.T) {
	gone := fmt.Errorf("user %q is %w", "websvc", accounts.ErrUnknown)
	for _, tt := range []struct {
		name  string
		fails error
		off   bool
	}{{"answers", nil, false}, {"is down", errors.New("it sleeps"), false}, {"knows the user no more", gone, true}} {
		t.Run(tt.name, func(t *testing.T) {
			s, people := newStage(t), &directory{}
			s.accounts, s.waitForAccounts = people, newTurns().wait
			people.add("user websvc", myID())
			s.cfg.Rules = []config.Rule{myRule("web", []string{"websvc"}, nil)}
			s.start()
			s.mustToken()
			people.mu.Lock()
			people.fails = tt.fails
			people.mu.Unlock()
			s.mustReload(nothing)
			s.client.Close()
			if _, err := s.token(); (err != nil) != tt.off || len(s.status().RulesOff) > 0 != tt.off {
				t.Errorf("got %v, off are %+v", err, s.status().RulesOff)
			}
		})
	}
}
