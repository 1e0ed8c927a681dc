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

// Rule allows some callers some tokens. Which callers, names.go decides.
type Rule struct {
	Name       string // unique; appears in the audit record
	UIDs, GIDs []uint32
	// Units are system services, as [peer.UnitPath] takes them; Executables are absolute paths of
	// programs, which narrow a rule that names users, groups or units.
	Units, Executables []string

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
	// SignHostsOnly leaves out handshakes that do not show the server.
	SignHostsOnly bool
	// Evidence lets callers have attestation evidence of the identities' keys. A rule with it may
	// name no resource.
	Evidence bool
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

	// Machine answers for units and executables; nil: rules that have some name nobody.
	Machine Machine
	// Strict has rules with units and executables name no caller that is [peer.Caller.Weak].
	Strict bool
}

// Request is what a caller asks for.
type Request struct {
	Identity     string
	Resource     Resource
	TokenType    string
	ForceRefresh bool // past the cache
	Host         Host // at which the agent is to use the token for the caller; zero: nowhere
}

// Decision is the answer to a [Request]. The zero value refuses.
type Decision struct {
	Allowed bool
	Rule    string // name of the rule that allowed it; empty if refused
	Reason  Reason // why it was refused; empty if allowed

	// Unit and Executable are the caller's, if the rule that allowed it lists them. Such a decision
	// holds at this moment only: the unit may stop, and its name may then be another unit's.
	Unit, Executable string
}

// Passing reports whether the decision may be another one for the next request, though caller,
// request and rules are the same.
func (d Decision) Passing() bool { return d.Unit != "" || d.Executable != "" }

// Reason says how far a refused request got with the rule that fitted it best.
type Reason string

// The reasons, from the farthest to the nearest.
const (
	ReasonCaller     Reason = "no rule names the caller"
	ReasonUnit       Reason = "the rules that name the caller's user or group are for units that it is not in"
	ReasonWeak       Reason = "this kernel does not say for certain which unit or program the caller is, and the rule does not take that"
	ReasonExecutable Reason = "the rules that name the caller are for programs that it does not run"
	ReasonIdentity   Reason = "no rule gives the caller this identity"
	ReasonResource   Reason = "no rule gives the caller this resource with this identity"
	ReasonReserved   Reason = `tokens for this resource are credentials of applications: "*" does not cover it, and no rule names it`
	ReasonTokenType  Reason = "no rule gives the caller this token type for this resource"
	ReasonHost       Reason = "no rule gives the caller this host for this resource"
	ReasonFresh      Reason = "no rule that gives the caller this token lets it skip the cache"
)

// progress orders the reasons.
var progress = []Reason{
	ReasonCaller, ReasonUnit, ReasonWeak, ReasonExecutable,
	ReasonIdentity, ReasonResource, ReasonReserved, ReasonTokenType, ReasonHost, ReasonFresh,
}

// Decide answers whether the caller may have what it asks for. The first rule that allows it is
// reported.
func (p *Policy) Decide(c peer.Caller, req Request) Decision {
	nearest := 0
	for i := range p.Rules {
		rule := &p.Rules[i]
		matched, reason := p.matches(rule, c)
		if reason == "" {
			reason = p.refuses(rule, req)
		}
		if reason == "" {
			return Decision{Allowed: true, Rule: rule.Name, Unit: matched.unit, Executable: matched.executable}
		}
		nearest = max(nearest, slices.Index(progress, reason))
	}
	return Decision{Reason: progress[nearest]}
}

// refuses returns why one rule alone does not allow the request of a caller that it names, or "" if
// it does.
func (p *Policy) refuses(r *Rule, req Request) Reason {
	switch {
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
	case req.ForceRefresh && !r.Fresh:
		return ReasonFresh
	}
	return ""
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

// Identities returns the identities that rules give the caller for some resource, in the order of
// the rules, each once.
func (p *Policy) Identities(c peer.Caller) []string {
	return p.identities(c, func(r *Rule) bool { return !r.evidenceOnly() })
}

// identities returns the identities of the rules that name the caller and are wanted.
func (p *Policy) identities(c peer.Caller, wanted func(*Rule) bool) []string {
	var names []string
	for i := range p.Rules {
		if !wanted(&p.Rules[i]) || !p.names(&p.Rules[i], c) {
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
	Sign, Evidence               bool
}

// Grants returns what rules give the caller, by identity, in the order of the rules.
func (p *Policy) Grants(c peer.Caller) []Grant {
	var grants []Grant
	for _, identity := range p.identities(c, func(*Rule) bool { return true }) {
		grant := Grant{Identity: identity, Resources: []string{}, TokenTypes: []string{}}
		for i := range p.Rules {
			if rule := &p.Rules[i]; p.names(rule, c) && slices.Contains(rule.Identities, identity) {
				grant.Evidence = grant.Evidence || rule.Evidence
				if rule.evidenceOnly() {
					continue
				}
				grant.Resources = union(grant.Resources, rule.Resources)
				grant.TokenTypes = union(grant.TokenTypes, rule.TokenTypes)
				grant.Hosts = union(grant.Hosts, rule.Hosts)
				grant.Sign = grant.Sign || rule.Sign
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
		if p.names(rule, c) && slices.Contains(rule.Identities, identity) && slices.Contains(rule.TokenTypes, boundType) && rule.CoversHost(h) {
			resources = union(resources, rule.Resources)
		}
	}
	return resources
}

// union appends the elements of more that are not in all.
func union(all, more []string) []string {
	for _, s := range more {
		if !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return all
}
