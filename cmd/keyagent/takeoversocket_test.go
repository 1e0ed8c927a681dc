package main

import (
	"strings"
	"testing"

	"github.com/keyagent/keyagent/simulator"
)

// The firewall keeps direct connections from the configured address only: a socket at another one
// would be open to them.
func TestASocketAtAnotherAddressIsNotTakenForTheTakeover(t *testing.T) {
	v := newVictim(t, simulator.Config{})
	ln, passed := socketUnit(t, "tcp", "127.0.0.1:0")
	v.startPassed("takeover", "\nendpoints:\n  takeover: {listen: \"127.0.0.1:842\", users: [\"4101\"]}\n", passed)
	<-v.ended
	code := v.agent.ProcessState.ExitCode()
	v.kill()
	if says := v.output.String(); code != exitFailed || !strings.Contains(says, "endpoints.takeover.listen is 127.0.0.1:842") || !strings.Contains(says, ln.Addr().String()) {
		t.Errorf("it ends with %d and says\n%s", code, says)
	}
}
