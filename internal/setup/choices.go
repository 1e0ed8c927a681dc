package setup

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/keyagent/keyagent/config"
)

// AppServiceAddress is where programs that know nothing of keyagent reach the agent, if that is
// chosen: below 1024, so that no other user can take the port.
const AppServiceAddress = "127.0.0.1:840"

// Choices are what the operator has chosen. The zero value has chosen nothing.
type Choices struct {
	Name string // of the identity; empty: vm, or app for an application

	// Managed selects the managed identity, which with Application is the one that the application
	// trusts; the zero value is the one that IMDS gives without being told.
	Managed     config.ManagedIdentitySelector
	Application string // client id of an application; empty: none, the managed identity itself
	Tenant      string // of the application
	Bound       string // require, prefer or never; empty: require

	Users, Groups, Units []string
	Resources            []string
	Types                []string // of tokens; none: bearer

	AppService bool   // programs that know nothing of keyagent
	Path       string // of the configuration; empty: the usual one

	// TPM is the transport to the TPM; empty: what was found.
	TPM string
	// Base are settings for all machines, as [config.ParsePart] takes them; nil: none.
	Base     []byte
	BaseName string // of its file, for messages
}

// Missing returns what was not chosen and has no default, in the words of a question.
func (c *Choices) Missing() []string {
	var all []string
	if len(c.Users)+len(c.Groups)+len(c.Units) == 0 {
		all = append(all, "who may have tokens")
	}
	if len(c.Resources) == 0 {
		all = append(all, "tokens for which resources")
	}
	return all
}

func (c *Choices) name() string {
	if c.Application != "" {
		return cmp.Or(c.Name, "app")
	}
	return cmp.Or(c.Name, "vm")
}

// check finds what contradicts itself before anything is proposed. What a value must look like is
// for package config to say.
func (c *Choices) check() error {
	var problems []error
	if missing := c.Missing(); len(missing) > 0 {
		problems = append(problems, fmt.Errorf("not chosen: %s", strings.Join(missing, ", and ")))
	}
	switch {
	case c.Application == "" && c.Tenant != "":
		problems = append(problems, errors.New("a tenant is of use only with an application"))
	case c.Application != "" && c.Tenant == "":
		problems = append(problems, errors.New("an application needs its tenant"))
	}
	if !slices.Contains([]string{"", config.BoundRequire, config.BoundPrefer, config.BoundNever}, c.Bound) {
		problems = append(problems, fmt.Errorf("bound: %q is not require, prefer or never", c.Bound))
	}
	for _, value := range slices.Concat(c.Users, c.Groups, c.Units, c.Resources, []string{c.Name, c.Tenant, c.Application}) {
		if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			problems = append(problems, fmt.Errorf("%q has a control character", value))
		}
	}
	return errors.Join(problems...)
}

var notInRuleName = regexp.MustCompile(`[^a-z0-9]+`)

// ruleName is made of whom the rule names first.
func (c *Choices) ruleName() string {
	first := cmp.Or(slices.Concat(c.Units, c.Users, c.Groups)...)
	first = strings.TrimSuffix(first[strings.LastIndexByte(first, '/')+1:], ".service")
	return cmp.Or(strings.Trim(notInRuleName.ReplaceAllString(strings.ToLower(first), "-"), "-"), "callers")
}
