package config

import (
	"net/netip"
	"slices"
	"strconv"
)

// What of IMDS the agent passes on to users whose traffic it takes over.
const (
	PassInstance        = "instance"        // /metadata/instance and the paths below it
	PassAttested        = "attested"        // /metadata/attested/document
	PassScheduledEvents = "scheduledevents" // /metadata/scheduledevents, to read
	PassNothing         = "none"            // the single entry of a list
)

// Takeover configures the takeover of 169.254.169.254. It takes effect when the
// firewall's rules that keyagent takeover print makes of it are loaded.
type Takeover struct {
	// Listen is where the firewall redirects requests to: 127.0.0.1 and a port below
	// 1024 that nothing else uses, as in 127.0.0.1:842. Required.
	Listen string `yaml:"listen,omitempty"`
	// Users are those whose programs get the agent in the place of IMDS: names or
	// numeric uids. Their subordinate uids (/etc/subuid) go with them. They get tokens
	// by the same rules as at the socket. Root, the agent's own user and Azure's agent
	// cannot be among them: they need IMDS itself. The agent does not start while one
	// of them is not known. Required.
	Users []string `yaml:"users,omitempty"`
	// Pass is what of IMDS they still get, by GET and from IMDS itself: instance
	// (/metadata/instance: what kind of VM this is, its tags and its user data),
	// attested (the attested document), scheduledevents (announced maintenance), or the
	// single entry none. All else is refused. Default: [instance].
	Pass []string `yaml:"pass,omitempty"`
	// RefuseForwarded also refuses what is forwarded to IMDS: of containers and virtual
	// machines with a network of their own, where the firewall does not see whose a
	// program is. Default: false.
	RefuseForwarded bool `yaml:"refuse_forwarded,omitempty"`
}

// Passes returns the names of the parts that are passed on, the default if there is no list.
func (t *Takeover) Passes() []string {
	switch {
	case len(t.Pass) == 0:
		return []string{PassInstance}
	case slices.Contains(t.Pass, PassNothing):
		return nil
	}
	return t.Pass
}

// Port returns the port of Listen; 0 if that is not 127.0.0.1 and a port.
func (t *Takeover) Port() uint16 {
	address, err := netip.ParseAddrPort(t.Listen)
	if err != nil || address.Addr() != netip.AddrFrom4([4]byte{127, 0, 0, 1}) {
		return 0
	}
	return address.Port()
}

// firstOpenPort is the first port at which any user may listen, unless the machine is set up
// otherwise.
const firstOpenPort = 1024

func (t *Takeover) check(f *findings, at string) {
	switch port := t.Port(); {
	case port == 0:
		f.add("%s.listen: %q is not 127.0.0.1 and a port, as in 127.0.0.1:842", at, t.Listen)
	case port >= firstOpenPort:
		f.add("%s.listen: any user could listen at port %d while the agent does not run; choose one below %d", at, port, firstOpenPort)
	}
	if len(t.Users) == 0 {
		f.add("%s.users: none", at)
	}
	for _, user := range t.Users {
		if why := neverTaken(user); why != "" {
			f.add("%s.users: %q cannot be taken over: %s", at, user, why)
		}
	}
	for i, what := range t.Pass {
		f.wantOneOf(at+".pass", what, []string{PassInstance, PassAttested, PassScheduledEvents, PassNothing})
		if slices.Contains(t.Pass[:i], what) {
			f.add("%s.pass: %q is there twice", at, what)
		}
		if what == PassNothing && len(t.Pass) > 1 {
			f.add("%s.pass: %s stands alone", at, PassNothing)
		}
	}
}

// neverTaken says why a user's traffic must not be taken over, as far as the name tells; "" if it
// does not.
func neverTaken(user string) string {
	if uid, err := strconv.ParseUint(user, 10, 32); err == nil && uid == 0 {
		return "root does what it wants, and the platform's own programs run as root"
	}
	switch user {
	case "":
		return "it is no name"
	case "root":
		return "root does what it wants, and the platform's own programs run as root"
	case "waagent", "walinuxagent":
		return "Azure's agent needs IMDS itself"
	}
	return ""
}
