package launch

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/keyagent/keyagent/agentapi/wire"
)

// Request is what there is to know before a program is started.
type Request struct {
	Endpoint wire.Endpoint
	Families []Family // none: all
	Environ  []string // that the program would inherit, as os.Environ has it
	ClientID string   // of the identity; empty: not known
	Socket   string   // of the agent, for programs that call it themselves; empty: where it always is
}

// Variable is a variable to set. Its value may be a secret.
type Variable struct {
	Name  string
	Value wire.Secret
}

// Environment is what makes a program ask the agent. It is not to be changed.
type Environment struct {
	Set   []Variable // each name once
	Unset []string   // none of which is in Set
	Notes []Note
}

// siteNameValue is what Azure CLI finds as the name of the site: that there is one is all that
// counts.
const siteNameValue = "keyagent"

// onlyDeployed takes the developer's tools out of DefaultAzureCredential: after a refusal by the
// agent, the SDK must not get a token of a developer who is logged in. Every SDK that knows the
// variable knows this value.
const onlyDeployed = "prod"

// maxSecretBytes is far above what the agent makes, and below what a header may have.
const maxSecretBytes = 4 << 10

// Plan works out the environment of a program.
func Plan(req Request) (Environment, error) {
	hosts, err := check(req.Endpoint)
	if err != nil {
		return Environment{}, fmt.Errorf("the agent's answer cannot be used: %w", err)
	}
	inherited := parse(req.Environ)
	var env Environment
	for _, g := range wanted(req.Families) {
		env.Set = append(env.Set, variables(g, req.Endpoint, inherited)...)
	}
	env.Set = append(env.Set, noProxy(inherited, hosts)...)
	if req.Socket != "" {
		env.add(wire.EnvSocket, req.Socket)
	}
	env.Unset = slices.DeleteFunc(sources(), env.sets)
	slices.Sort(env.Unset)
	env.Notes = notes(req, inherited, env.Unset)
	return env, nil
}

// variables are those of a group.
func variables(g group, e wire.Endpoint, inherited map[string]string) []Variable {
	switch g {
	case appService:
		return []Variable{plain(identityEndpoint, e.AppService), {identityHeader, e.Secret}}
	case older:
		return []Variable{plain(msiEndpoint, e.AppService), {msiSecret, e.Secret}}
	case imdsHost:
		if e.IMDS != "" {
			return []Variable{plain(podIdentityHost, e.IMDS)}
		}
	case cli:
		return []Variable{plain(siteName, siteNameValue)}
	case chain:
		if inherited[tokenCredentials] == "" {
			return []Variable{plain(tokenCredentials, onlyDeployed)}
		}
	}
	return nil
}

func plain(name, value string) Variable { return Variable{name, wire.NewSecret(value)} }

func (e *Environment) add(name, value string) { e.Set = append(e.Set, plain(name, value)) }

func (e *Environment) sets(name string) bool {
	return slices.ContainsFunc(e.Set, func(v Variable) bool { return v.Name == name })
}

// Check reports what the environment of a program that should have been started by [Plan] for some
// families lacks.
func Check(environ []string, families []Family) error {
	inherited := parse(environ)
	for _, g := range wanted(families) {
		if g != appService && g != older {
			continue
		}
		for _, name := range namesOf(g) {
			if inherited[name] == "" {
				return fmt.Errorf("%s is not set", name)
			}
		}
	}
	return nil
}

// Apply returns the environment of a process that would have inherited environ.
func (e Environment) Apply(environ []string) []string {
	var result []string
	for _, entry := range environ {
		name, _, _ := strings.Cut(entry, "=")
		if !e.sets(name) && !slices.Contains(e.Unset, name) {
			result = append(result, entry)
		}
	}
	for _, v := range e.Set {
		result = append(result, v.Name+"="+v.Value.Reveal())
	}
	return result
}

// parse makes a table of an environment. Of a name that is there twice the first counts, as for
// getenv(3).
func parse(environ []string) map[string]string {
	table := make(map[string]string)
	for _, entry := range environ {
		name, value, found := strings.Cut(entry, "=")
		if _, has := table[name]; found && !has {
			table[name] = value
		}
	}
	return table
}

// check refuses endpoints that must not get into an environment, and returns their hosts.
func check(e wire.Endpoint) (hosts []string, err error) {
	secret := e.Secret.Reveal()
	if secret == "" || len(secret) > maxSecretBytes || strings.ContainsFunc(secret, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, errors.New("it has no secret that a header can carry")
	}
	host, err := loopback(e.AppService, true)
	if err != nil {
		return nil, fmt.Errorf("app_service: %w", err)
	}
	hosts = []string{host}
	if e.IMDS == "" {
		return hosts, nil
	}
	if host, err = loopback(e.IMDS, false); err != nil {
		return nil, fmt.Errorf("imds: %w", err)
	}
	if !slices.Contains(hosts, host) {
		hosts = append(hosts, host)
	}
	return hosts, nil
}

// loopback returns the host of a URL on this machine. @azure/identity asks "/" where there is no
// path, and hashicorp's SDK adds a second query to one that is there.
func loopback(text string, path bool) (host string, err error) {
	u, err := url.Parse(text)
	if err != nil {
		return "", errors.New("it is not a URL")
	}
	addr, err := netip.ParseAddrPort(u.Host)
	switch {
	case err != nil || u.Scheme != "http" || !addr.Addr().IsLoopback() || addr.Addr().Zone() != "" || addr.Port() == 0:
		return "", fmt.Errorf("%q is not http:// with a loopback address and a port", text)
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.String() != text:
		return "", fmt.Errorf("%q is more than an address and a path", text)
	case path && strings.Trim(u.Path, "/") == "":
		return "", fmt.Errorf("%q has no path", text)
	case !path && u.Path != "":
		return "", fmt.Errorf("%q has a path", text)
	}
	return addr.Addr().String(), nil
}
