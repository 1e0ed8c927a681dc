package setup

import (
	"cmp"
	"strings"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/advice"
)

// next says how the agent is started, looked at and asked for the first token.
func (p *proposer) next() []string {
	start := p.command(advice.Serve)
	if p.facts.Systemd {
		units := "keyagent.socket keyagent.service"
		if p.choices.AppService {
			units = "keyagent-app-service.socket " + units
		}
		start = "systemctl enable --now " + units
	}
	look := p.command(advice.Diagnose)
	if !p.facts.Agent.Root {
		look = "sudo -u " + p.facts.Agent.User + " " + look
	}
	return []string{start, look, p.firstToken()}
}

// command is one of the program's, with the configuration where that is not at its usual place.
func (p *proposer) command(do advice.Verb, flags ...advice.Flag) string {
	if path := cmp.Or(p.choices.Path, config.DefaultPath); path != config.DefaultPath {
		flags = append(flags, advice.Configuration.Is(path))
	}
	return advice.New("%s", advice.Run(do, "", flags...)).Text(p.words)
}

// firstToken is for a user whom the rule names. A unit's programs are known by the unit, so nobody
// can try for them from a shell.
func (p *proposer) firstToken() string {
	c := p.choices
	resource := c.Resources[0]
	if resource == config.AnyResource {
		resource = "https://vault.azure.net"
	}
	get := p.command(advice.GetToken, advice.Identity.Is(c.name()), advice.Resource.Is(resource))
	if len(c.Units) > 0 {
		return "in the unit " + strings.Join(c.Units, " or ") + ": " + get
	}
	if len(c.Users) > 0 && strings.Trim(c.Users[0], "0123456789") != "" {
		return "sudo -u " + c.Users[0] + " " + get
	}
	return get
}
