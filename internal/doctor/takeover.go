package doctor

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/keyagent/keyagent/internal/advice"
)

// takeoverTimeout bounds a connection on this machine.
const takeoverTimeout = 2 * time.Second

// checkTakeover says for whom 169.254.169.254 is taken over, and whether somebody listens where the
// firewall sends them. The firewall's rules are root's to see.
func (d *doctor) checkTakeover(ctx context.Context) {
	const check = "takeover"
	t := d.cfg.Endpoints.Takeover
	if t == nil || d.unread() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, takeoverTimeout)
	defer cancel()
	taken := fmt.Sprintf("169.254.169.254 is for the agent, at %s, where programs of these users are concerned: %s; they still get of it: %s",
		t.Listen, strings.Join(t.Users, ", "), strings.Join(append(t.Passes(), "nothing else"), ", "))
	look := d.opts.Say("as root, %s says whether the firewall's rules are in force", advice.Run(advice.CheckTakeover, ""))
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", t.Listen)
	switch {
	case err == nil:
		_ = conn.Close()
		d.add(check, VerdictOK, look, "%s", taken)
	case d.running != nil:
		d.add(check, VerdictFail, "see the agent's log, and restart it: until then these programs get no answer where the rules are in force", "%s; the agent runs, and nobody listens there: %v", taken, err)
	default:
		d.add(check, VerdictWarn, "start the agent: until then these programs get no answer where the rules are in force; "+look, "%s; nobody listens there", taken)
	}
}
