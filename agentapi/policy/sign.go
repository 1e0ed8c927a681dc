package policy

import (
	"slices"

	"github.com/keyagent/keyagent/agentapi/peer"
)

// The reasons why a caller may not have TLS handshakes signed, besides those of [Policy.Decide].
const (
	ReasonSign   Reason = "no rule lets the caller sign with this identity's key"
	ReasonHidden Reason = "no rule lets the caller sign with this identity's key where the handshake hides the server, as in TLS 1.3"
	ReasonServer Reason = "no rule that lets the caller sign with this identity's key names this server among its hosts"
)

var signingProgress = []Reason{ReasonCaller, ReasonUnit, ReasonWeak, ReasonExecutable, ReasonIdentity, ReasonSign, ReasonHidden, ReasonServer}

// Seen says how much is known of the server of a handshake.
type Seen int

const (
	NoHandshake  Seen = iota // it is not there yet: may the caller have any signed?
	ServerShown              // as in TLS 1.2
	ServerHidden             // as in TLS 1.3
)

// Signing is a TLS handshake that a caller wants signed with the key of an identity.
type Signing struct {
	Identity string
	Seen     Seen
	Server   string // its name, in lower case, if the handshake shows it; "" for one without a name
}

// DecideSigning answers whether the caller may have a handshake signed. Where the handshake shows
// the server, the rule must name that among its hosts, on whatever port: a handshake does not show
// the port.
func (p *Policy) DecideSigning(c peer.Caller, req Signing) Decision {
	nearest := 0
	for i := range p.Rules {
		rule := &p.Rules[i]
		matched, reason := p.matches(rule, c)
		if reason == "" {
			reason = rule.refusesSigning(req)
		}
		if reason == "" {
			return Decision{Allowed: true, Rule: rule.Name, Unit: matched.unit, Executable: matched.executable}
		}
		nearest = max(nearest, slices.Index(signingProgress, reason))
	}
	return Decision{Reason: signingProgress[nearest]}
}

// refusesSigning returns why a rule that names the caller does not let it sign, or "" if it does.
func (r *Rule) refusesSigning(req Signing) Reason {
	switch {
	case !slices.Contains(r.Identities, req.Identity), r.evidenceOnly():
		return ReasonIdentity
	case !r.Sign:
		return ReasonSign
	case req.Seen == ServerHidden && r.SignHostsOnly:
		return ReasonHidden
	case req.Seen == ServerShown && !r.coversName(req.Server):
		return ReasonServer
	}
	return ""
}

// coversName reports whether one of the rule's hosts, without its port, covers a name.
func (r *Rule) coversName(name string) bool {
	host, err := ParseHost(name)
	if err != nil || host.name != name { // with a port, it is no name
		return false
	}
	return slices.ContainsFunc(r.Hosts, func(s string) bool {
		granted, err := parseGranted(s)
		host.port = granted.port
		return err == nil && granted.covers(host)
	})
}
