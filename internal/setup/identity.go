package setup

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/advice"
)

// decideIdentity settles what the identity is and how strong its credential must be.
func (p *proposer) decideIdentity() error {
	p.add(OK, "identity "+p.choices.name(), p.identityText(), "%s", p.whichText())
	if h := p.facts.Host; h.NoIdentity != "" && h.Fault == "" && h.V2 == Present {
		p.add(Warn, "identity "+p.choices.name()+": at the host", "not there", "IMDS does not name it: %s", h.NoIdentity)
	}
	if p.choices.Application != "" {
		p.decidePlace()
	}
	return p.decideBound()
}

func (p *proposer) identityText() string {
	managed := "the VM's managed identity"
	switch m := p.choices.Managed; {
	case m.ClientID != "":
		managed = "managed identity with client id " + m.ClientID
	case m.ObjectID != "":
		managed = "managed identity with object id " + m.ObjectID
	case m.ResourceID != "":
		managed = "managed identity " + m.ResourceID
	}
	if p.choices.Application == "" {
		return managed
	}
	return fmt.Sprintf("application %s of tenant %s, which trusts %s", p.choices.Application, p.choices.Tenant, managed)
}

func (p *proposer) whichText() string {
	h := p.facts.Host
	named := ""
	if h.ClientID != "" {
		named = fmt.Sprintf("IMDS names it: client id %s, tenant %s", h.ClientID, h.TenantID)
	}
	if p.choices.Managed != (config.ManagedIdentitySelector{}) {
		return cmp.Or(named, "you chose it")
	}
	return cmp.Or(named, "none was chosen, so it is the one that IMDS gives without being told")
}

// decidePlace takes cloud and region of the machine for the application.
func (p *proposer) decidePlace() {
	switch p.facts.Host.Cloud {
	case "AzurePublicCloud":
		p.add(OK, "cloud", config.CloudPublic, "IMDS: %s", p.facts.Host.Cloud)
	case "AzureUSGovernmentCloud", "AzureUSGovernment":
		p.cloud = config.CloudUSGov
		p.add(OK, "cloud", p.cloud, "IMDS: %s", p.facts.Host.Cloud)
	case "AzureChinaCloud":
		p.cloud = config.CloudChina
		p.add(OK, "cloud", p.cloud, "IMDS: %s", p.facts.Host.Cloud)
	default:
		p.add(Warn, "cloud", config.CloudPublic, "IMDS does not say which; it is the default")
	}
	p.region = config.RegionAuto
	p.add(OK, "region", p.region, "tokens come from Entra's endpoint in the VM's own region (%s)", cmp.Or(p.facts.Host.Region, "which IMDS has not said now"))
}

// decideBound asks for bound credentials. Less is the operator's choice, never the proposal's.
func (p *proposer) decideBound() error {
	p.bound = cmp.Or(p.choices.Bound, config.BoundRequire)
	h := p.facts.Host
	chosen := p.choices.Bound != ""
	switch {
	case p.bound == config.BoundNever:
		p.add(Warn, "bound", p.bound, "you chose it: no key of this machine takes part, and whoever reads a credential under way can use it elsewhere")
		return nil
	case p.bound == config.BoundPrefer && h.V2 == Absent:
		p.add(Warn, "bound", p.bound, "you chose it: this host has no binding certificates (MSI v2), so tokens come without, each says so, and they are bound once the host has them")
		return nil
	case p.bound == config.BoundPrefer:
		p.add(Warn, "bound", p.bound, "you chose it: where the platform gives no binding certificate, tokens come without, and each says so")
		return nil
	case h.V2 == Absent:
		return &UnboundError{h.Endpoint}
	}
	p.floor = config.StrengthTPM
	why := "tokens are obtained with a certificate over a key of this TPM, or not at all"
	if chosen {
		why = "you chose it: " + why
	}
	p.add(OK, "bound", p.bound, "%s", why)
	p.add(OK, "min_strength", p.floor, "a second lock: a token of a weaker credential would be refused")
	if h.V2 == Unknown {
		p.add(Warn, "binding certificates", "not known", "whether the host has them (MSI v2) could not be found out (%s); if it has none, no token comes", cmp.Or(h.Fault, "it gave no clear answer"))
	}
	return nil
}

// decideRule writes down the users and units that were chosen, and what is unusual about them.
func (p *proposer) decideRule() error {
	c := p.choices
	if len(c.Units) > 0 && len(c.Users) == 0 && p.facts.WeakUnits != "" {
		return fmt.Errorf("a rule with a unit alone names nobody here (%s): choose the unit's user, too", p.facts.WeakUnits)
	}
	p.add(OK, "rule "+c.ruleName(), whoText(c), "you chose them; nobody else gets a token")
	p.add(OK, "resources", strings.Join(c.Resources, ", "), "you chose them; tokens for others are refused")
	if slices.Contains(c.Resources, config.AnyResource) {
		p.add(Warn, "resources: any", `"*"`, "whoever the rule names can have a token for every API: name those that are needed")
	}
	if len(c.Units) > 0 && p.facts.NoUnits != "" {
		p.add(Warn, "units", strings.Join(c.Units, ", "), "callers cannot be known by their unit here: %s", p.facts.NoUnits)
	}
	if len(c.Units) == 0 && slices.ContainsFunc(c.Users, func(u string) bool { return u == "root" || u == "0" }) {
		p.add(Warn, "users: root", "root", "every program that runs as root is named: name the unit, too")
	}
	for _, who := range p.facts.Unknown {
		p.add(Warn, "not known here", "to be created", "%s; the rule is in force once it is there", who)
	}
	return nil
}

// whoText is whom the rule names: a caller must be one of the users or groups, and in one of the
// units.
func whoText(c Choices) string {
	var who, where []string
	for _, name := range c.Users {
		who = append(who, "user "+name)
	}
	for _, name := range c.Groups {
		who = append(who, "a member of group "+name)
	}
	for _, name := range c.Units {
		where = append(where, "in unit "+name)
	}
	all := strings.Join(who, " or ")
	if len(who) > 0 && len(where) > 0 {
		all += ", and "
	}
	return all + strings.Join(where, " or ")
}

// decideEndpoint opens the endpoint for unmodified programs, if that was chosen.
func (p *proposer) decideEndpoint() error {
	if !p.choices.AppService {
		p.add(OK, "endpoints", "none", "programs use the agent's socket; for programs that know nothing of keyagent, choose %s",
			advice.New("%s", advice.AppService).Text(p.words))
		return nil
	}
	if p.base.Settings["endpoints"] {
		return fmt.Errorf("%s has endpoints of its own: say there what is wanted", p.choices.BaseName)
	}
	p.add(OK, "endpoints.app_service", AppServiceAddress, "you chose it, for programs that know nothing of keyagent; below 1024, so that no other user can take the port")
	if p.facts.InUse != "" {
		p.add(Warn, "endpoints.app_service: port", AppServiceAddress, "%s", p.facts.InUse)
	}
	return nil
}
