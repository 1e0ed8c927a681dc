package setup

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/advice"
)

// render writes the configuration. Texts are in double quotes, as JSON has them, which YAML reads
// as they are (YAML 1.2, 7.3.1).
func (p *proposer) render() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# The agent's configuration, as %s proposed it. Every setting is explained in", advice.New("%s", advice.Run(advice.Setup, "")).Text(p.words))
	line("# docs/configuration.md. After a change, %s says whether it can be used.", advice.New("%s", advice.Run(advice.CheckConfiguration, "")).Text(p.words))
	if p.tpm != "" {
		line("tpm: %s", strconv.Quote(p.tpm))
	}
	if p.attestation != "" {
		line("attestation:\n  provider: %s", p.attestation)
	}
	if base := strings.TrimSpace(string(p.choices.Base)); base != "" {
		line("\n%s", base)
	}
	line("\nidentities:")
	p.renderIdentity(line)
	p.renderRule(line)
	if p.choices.AppService {
		line("\nendpoints:\n  app_service:\n    listen: %s", strconv.Quote(AppServiceAddress))
	}
	return b.String()
}

func (p *proposer) renderIdentity(line func(string, ...any)) {
	line("  - name: %s", strconv.Quote(p.choices.name()))
	if p.floor != "" {
		line("    min_strength: %s", p.floor)
	}
	if p.choices.Application == "" {
		p.renderManaged(line, "    ", p.bound != config.BoundRequire)
		return
	}
	line("    application:\n      tenant: %s\n      client_id: %s", strconv.Quote(p.choices.Tenant), strconv.Quote(p.choices.Application))
	if p.cloud != "" {
		line("      cloud: %s", p.cloud)
	}
	line("      region: %s", p.region)
	line("      credentials:\n        - source: %s", config.SourceManagedIdentity)
	if p.bound != config.BoundRequire {
		line("          bound: %s", p.bound)
	}
	p.renderManaged(line, "          ", false)
}

// renderManaged writes the managed identity, with how it is bound where that belongs to it.
func (p *proposer) renderManaged(line func(string, ...any), indent string, withBound bool) {
	m := p.choices.Managed
	var settings []string
	for _, s := range []struct{ name, value string }{{"client_id", m.ClientID}, {"object_id", m.ObjectID}, {"resource_id", m.ResourceID}} {
		if s.value != "" {
			settings = append(settings, s.name+": "+strconv.Quote(s.value))
		}
	}
	if withBound {
		settings = append(settings, "bound: "+p.bound)
	}
	line("%smanaged_identity: {%s}", indent, strings.Join(settings, ", "))
}

func (p *proposer) renderRule(line func(string, ...any)) {
	c := p.choices
	line("\nrules:\n  - name: %s", strconv.Quote(c.ruleName()))
	for _, list := range []struct {
		name   string
		values []string
	}{{"users", c.Users}, {"groups", c.Groups}, {"units", c.Units}, {"identities", []string{c.name()}}, {"resources", c.Resources}, {"types", c.Types}} {
		if len(list.values) > 0 {
			line("    %s: [%s]", list.name, quoted(list.values))
		}
	}
}

func quoted(values []string) string {
	all := make([]string, len(values))
	for i, v := range values {
		all[i] = strconv.Quote(v)
	}
	return strings.Join(all, ", ")
}
