package policy

import (
	"slices"

	"github.com/keyagent/keyagent/agentapi/peer"
)

// The reasons why a caller may not have TLS handshakes signed, besides those of [Policy.Decide].
const (
	ReasonSign   Reason = "no rule lets the caller sign with this identity's key"
	ReasonServer Reason = "no rule that lets the caller sign with this identity's key names this server among its hosts"
)

var signingProgress = []Reason{ReasonCaller, ReasonIdentity, ReasonSign, ReasonServer}

// Signing is a TLS handshake that a caller wants signed with the key of an identity.
type Signing struct {
	Identity string
	// Server is the name of the server, in lower case, if the handshake shows it.
	Server      string
	ServerKnown bool
}

// DecideSigning answers whether the caller may have a handshake signed. Where the handshake shows
// the server, the rule must name that among its hosts, on whatever port: a handshake does not show
// the port.
func (p *Policy) DecideSigning(c peer.Caller, req Signing) Decision {
	nearest := 0
	for i := range p.Rules {
		rule := &p.Rules[i]
		reason := rule.refusesSigning(c, req)
		if reason == "" {
			return Decision{Allowed: true, Rule: rule.Name}
		}
		nearest = max(nearest, slices.Index(signingProgress, reason))
	}
	return Decision{Reason: signingProgress[nearest]}
}

func (r *Rule) refusesSigning(c peer.Caller, req Signing) Reason {
	switch {
	case !r.names(c):
		return ReasonCaller
	case !slices.Contains(r.Identities, req.Identity):
		return ReasonIdentity
	case !r.Sign:
		return ReasonSign
	case req.ServerKnown && !r.coversName(req.Server):
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
