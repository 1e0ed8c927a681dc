package agentapi_test

import (
	"testing"
	"time"

	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/policy"
)

// No user or unit can use up the bound of another one, of signatures and of requests passed on to
// IMDS.
func TestCallersOfOneAccount(t *testing.T) {
	inUnit := func(uid uint32, cgroup uint64) peer.Caller { return peer.Caller{UID: uid, CgroupID: cgroup} }
	for _, c := range []struct {
		name     string
		one, two peer.Caller
		standing policy.Standing
		together bool
	}{
		{"two users whom rules name", inUnit(1000, 7), inUnit(1001, 7), policy.ByUID, false},
		{"one user in two units", inUnit(1000, 7), inUnit(1000, 8), policy.ByUID, true},
		{"two users of one unit that a rule names", inUnit(1000, 7), inUnit(1001, 7), policy.ByUnitOnly, true},
		{"two units that rules name", inUnit(1000, 7), inUnit(1000, 8), policy.ByUnitOnly, false},
		{"two users of a group that a rule names", inUnit(1000, 7), inUnit(1001, 8), policy.ByGroupOnly, true},
		{"two strangers", inUnit(1000, 7), inUnit(1001, 8), policy.Stranger, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			for bound, charge := range agentapi.ChargesOf(time.Unix(0, 0)) {
				for charge(c.one, c.standing) == 0 {
				}
				if refused := charge(c.two, c.standing) > 0; refused != c.together {
					t.Errorf("%s: the second is refused after the first used it up: %v, want %v", bound, refused, c.together)
				}
			}
		})
	}
}

// A unit that is started again and again is another cgroup each time.
func TestAccountsWithNothingOnThemAreForgotten(t *testing.T) {
	if most := agentapi.LimitersAfter(10_000, time.Hour); most > 256 {
		t.Errorf("%d accounts are remembered", most)
	}
}
