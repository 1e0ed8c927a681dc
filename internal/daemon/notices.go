package daemon

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/config"
)

// Notices says what a configuration without faults means that an operator may not
// expect of it, a sentence each.
func Notices(cfg *config.Config) []string {
	if len(cfg.Rules) == 0 {
		return []string{"no rules: nobody gets a token"}
	}
	notices := openPorts(cfg)
	for _, rule := range cfg.Rules {
		if slices.Contains(rule.Resources, config.AnyResource) {
			notices = append(notices, fmt.Sprintf("rule %q: \"*\" does not cover %s: tokens for these are credentials of applications, and a rule gives them only by name",
				rule.Name, strings.Join(cfg.AssertionAudiences(), ", ")))
		}
		if named := reserved(cfg, rule.Resources); len(named) > 0 {
			notices = append(notices, fmt.Sprintf("rule %q gives %s: whoever has such a token can be every application that trusts %s, from any machine",
				rule.Name, strings.Join(named, ", "), strings.Join(rule.Identities, ", ")))
		}
		notices = append(notices, signing(cfg, rule)...)
	}
	return notices
}

// openPorts says which endpoints are at ports that are not the agent's alone.
func openPorts(cfg *config.Config) []string {
	var notices []string
	for name, e := range map[string]*config.LoopbackEndpoint{"app_service": cfg.Endpoints.AppService, "imds": cfg.Endpoints.IMDS} {
		if e != nil && isOpenPort(e.Listen) {
			notices = append(notices, fmt.Sprintf("endpoints.%s.listen: %s: any user of this machine can listen at this port while the agent does not, "+
				"and programs would hand them their secrets: use a port below %d", name, e.Listen, firstOpenPort))
		}
	}
	slices.Sort(notices)
	return notices
}

// firstOpenPort is the first port at which any user may listen, unless the machine is set up
// otherwise.
const firstOpenPort = 1024

func isOpenPort(listen string) bool {
	addr, err := netip.ParseAddrPort(listen)
	return err == nil && addr.Port() >= firstOpenPort
}

// signing says what comes with the right to have handshakes signed.
func signing(cfg *config.Config, rule config.Rule) []string {
	if !rule.Sign || rule.SignHostsOnly {
		return nil
	}
	notices := []string{fmt.Sprintf("rule %q signs in TLS 1.3, which hides the server: its callers can show the certificate of %s to Entra, too, and get any token, also for %s; "+
		"sign_hosts_only: true keeps them to hosts", rule.Name, strings.Join(rule.Identities, ", "), strings.Join(cfg.AssertionAudiences(), ", "))}
	if len(rule.Hosts) == 0 {
		notices = append(notices, fmt.Sprintf("rule %q has no hosts to sign for in TLS 1.2, which Azure Key Vault needs", rule.Name))
	}
	return notices
}

// reserved returns those of a rule's resources whose tokens are credentials of applications.
func reserved(cfg *config.Config, resources []string) []string {
	rules := policy.Policy{Audiences: cfg.AssertionAudiences()}
	var found []string
	for _, name := range resources {
		if resource, err := policy.ParseResource(name); err == nil && rules.Reserves(resource) {
			found = append(found, name)
		}
	}
	return found
}
