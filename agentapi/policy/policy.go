package policy

import (
	"slices"

	"github.com/keyagent/keyagent/agentapi/peer"
)

// AnyResource as the only entry of [Rule.Resources] stands for every resource but those that
// [Policy.Reserves].
const AnyResource = "*"

// boundType is the type of tokens that are of use only together with a key.
const boundType = "mtls_pop"

// Rule allows some callers some tokens. A caller is named if its uid is among UIDs or one of its
// groups among GIDs.
type Rule struct {
	Name       string // unique; appears in the audit record
	UIDs, GIDs []uint32

	Identities []string // names of configured identities
	Resources  []string // in any form that ParseResource accepts, or AnyResource alone
	TokenTypes []string // "bearer", "mtls_pop"
	Fresh      bool     // the caller may skip the cache
	// Hosts are where bound tokens may be used for the caller: in the form of ParseHost, or a
	// domain with a dot before it, for all names below it. None: nowhere.
	Hosts []string
	// Sign lets callers have TLS handshakes signed with the identities' keys: see
	// [Policy.DecideSigning].
	Sign bool
}

// Policy is the set of rules of one configuration. It must not be changed once it is in use; then
// it is safe for concurrent use.
type Policy struct {
	Rules []Rule

	// Audiences are those of the assertions that applications of this configuration prove
	// themselves with, in any form that ParseResource accepts. AnyResource does not cover them, nor
	// what Microsoft's clouds have for this purpose, which need not be among them.
	Audiences []string

	// AdminUIDs and AdminGIDs may read the agent's status, besides root.
	AdminUIDs, AdminGIDs []uint32
}

// Request is what a caller asks for.
type Request struct {
	Identity  string
	Resource  Resource
	TokenType string
	Fresh     bool // past the cache
	Host      Host // at which the agent is to use the token for the caller; zero: nowhere
}

// Decision is the answer to a [Request]. The zero value refuses.
type Decision struct {
	Allowed bool
	Rule    string // name of the rule that allowed it; empty if refused
	Reason  Reason // why it was refused; empty if allowed
}

// Reason says how far a refused request got with the rule that fitted it best.
type Reason string

// The reasons, from the farthest to the nearest.
const (
	ReasonCaller    Reason = "no rule names the caller"
	ReasonIdentity  Reason = "no rule gives the caller this identity"
	ReasonResource  Reason = "no rule gives the caller this resource with this identity"
	ReasonReserved  Reason = `tokens for this resource are credentials of applications: "*" does not cover it, and no rule names it`
	ReasonTokenType Reason = "no rule gives the caller this token type for this resource"
	ReasonHost      Reason = "no rule gives the caller this host for this resource"
	ReasonFresh     Reason = "no rule that gives the caller this token lets it skip the cache"
)

// progress orders the reasons.
var progress = []Reason{ReasonCaller, ReasonIdentity, ReasonResource, ReasonReserved, ReasonTokenType, ReasonHost, ReasonFresh}

// Decide answers whether the caller may have what it asks for. The first rule that allows it is
// reported.
func (p *Policy) Decide(c peer.Caller, req Request) Decision {
	nearest := 0
	for i := range p.Rules {
		rule := &p.Rules[i]
		reason := p.refuses(rule, c, req)
		if reason == "" {
			return Decision{Allowed: true, Rule: rule.Name}
		}
		nearest = max(nearest, slices.Index(progress, reason))
	}
	return Decision{Reason: progress[nearest]}
}

// refuses returns why one rule alone does not allow the request, or "" if it does.
func (p *Policy) refuses(r *Rule, c peer.Caller, req Request) Reason {
	switch {
	case !r.names(c):
		return ReasonCaller
	case !slices.Contains(r.Identities, req.Identity):
		return ReasonIdentity
	case !r.covers(req.Resource):
		return ReasonResource
	case r.coversAny() && p.Reserves(req.Resource):
		return ReasonReserved
	case !slices.Contains(r.TokenTypes, req.TokenType):
		return ReasonTokenType
	case req.Host != Host{} && (req.TokenType != boundType || !r.CoversHost(req.Host)):
		return ReasonHost
	case req.Fresh && !r.Fresh:
		return ReasonFresh
	}
	return ""
}

func (r *Rule) names(c peer.Caller) bool {
	return slices.Contains(r.UIDs, c.UID) || slices.ContainsFunc(r.GIDs, c.InGroup)
}

func (r *Rule) covers(asked Resource) bool {
	if asked == (Resource{}) {
		return false
	}
	if r.coversAny() {
		return true
	}
	return slices.ContainsFunc(r.Resources, func(s string) bool {
		granted, err := ParseResource(s)
		return err == nil && granted.compared == asked.compared
	})
}

func (r *Rule) coversAny() bool { return len(r.Resources) == 1 && r.Resources[0] == AnyResource }

// Named reports whether any rule names the caller. Whoever is not named learns nothing.
func (p *Policy) Named(c peer.Caller) bool {
	return slices.ContainsFunc(p.Rules, func(r Rule) bool { return r.names(c) })
}

// Standing says what makes a caller known to a policy, as far as it matters for how many callers
// one person can be: a user has one uid of its own, yet may have thousands of others (subuid(5)),
// and each keeps the user's groups.
type Standing int

const (
	Stranger    Standing = iota // neither named by a rule nor an administrator
	ByGroupOnly                 // known by one of its groups, and by nothing else
	ByUID                       // known by its uid, whatever its groups are
)

// Standing returns what makes the caller known.
func (p *Policy) Standing(c peer.Caller) Standing {
	if c.UID == 0 || slices.Contains(p.AdminUIDs, c.UID) ||
		slices.ContainsFunc(p.Rules, func(r Rule) bool { return slices.Contains(r.UIDs, c.UID) }) {
		return ByUID
	}
	if p.Named(c) || p.Admin(c) {
		return ByGroupOnly
	}
	return Stranger
}

// Identities returns the identities that rules give the caller for some resource, in the order of
// the rules, each once.
func (p *Policy) Identities(c peer.Caller) []string {
	var names []string
	for i := range p.Rules {
		if !p.Rules[i].names(c) {
			continue
		}
		for _, name := range p.Rules[i].Identities {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// Grant is what rules give a caller with one identity: the sum of them, of which one rule must
// allow a request as a whole.
type Grant struct {
	Identity                     string
	Resources, TokenTypes, Hosts []string
}

// Grants returns what rules give the caller, by identity, in the order of [Policy.Identities].
func (p *Policy) Grants(c peer.Caller) []Grant {
	var grants []Grant
	for _, identity := range p.Identities(c) {
		grant := Grant{Identity: identity}
		for i := range p.Rules {
			if rule := &p.Rules[i]; rule.names(c) && slices.Contains(rule.Identities, identity) {
				grant.Resources = union(grant.Resources, rule.Resources)
				grant.TokenTypes = union(grant.TokenTypes, rule.TokenTypes)
				grant.Hosts = union(grant.Hosts, rule.Hosts)
			}
		}
		grants = append(grants, grant)
	}
	return grants
}

// BoundResources returns the resources that rules give the caller at a host with an identity: the
// sum of them, of which one rule must allow a request as a whole.
func (p *Policy) BoundResources(c peer.Caller, identity string, h Host) []string {
	var resources []string
	for i := range p.Rules {
		rule := &p.Rules[i]
		if rule.names(c) && slices.Contains(rule.Identities, identity) && slices.Contains(rule.TokenTypes, boundType) && rule.CoversHost(h) {
			resources = union(resources, rule.Resources)
		}
	}
	return resources
}

// union appends what is not there yet.
func union(all, more []string) []string {
	for _, s := range more {
		if !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return all
}

// Admin reports whether the caller may administer the agent.
func (p *Policy) Admin(c peer.Caller) bool {
	return c.UID == 0 || slices.Contains(p.AdminUIDs, c.UID) || slices.ContainsFunc(p.AdminGIDs, c.InGroup)
}
