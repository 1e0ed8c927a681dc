package policy

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/keyagent/keyagent/agentapi/peer"
)

// Validate returns an error if a rule could never allow anything, or means something else than it
// seems to.
func (p *Policy) Validate() error {
	seen := make(map[string]bool, len(p.Rules))
	for i := range p.Rules {
		rule := &p.Rules[i]
		if rule.Name == "" {
			return fmt.Errorf("rule %d has no name", i+1)
		}
		if seen[rule.Name] {
			return fmt.Errorf("two rules are named %q", rule.Name)
		}
		seen[rule.Name] = true
		if err := rule.validate(); err != nil {
			return fmt.Errorf("rule %q: %w", rule.Name, err)
		}
	}
	return nil
}

func (r *Rule) validate() error {
	if err := r.validateCallers(); err != nil {
		return err
	}
	if err := validateNames("identity", r.Identities); err != nil {
		return err
	}
	if err := validateNames("token type", r.TokenTypes); err != nil {
		return err
	}
	if err := r.validateHosts(); err != nil {
		return err
	}
	return r.validateResources()
}

func (r *Rule) validateCallers() error {
	if len(r.UIDs)+len(r.GIDs)+len(r.Units) == 0 {
		if len(r.Executables) > 0 {
			return errors.New("names programs alone: anybody can start a program; name the users, groups or units who may run it, too")
		}
		return errors.New("names no user and no group, and no unit")
	}
	for _, unit := range r.Units {
		if _, err := peer.UnitPath(unit); err != nil {
			return err
		}
	}
	for _, path := range r.Executables {
		if !filepath.IsAbs(path) || filepath.Clean(path) != path {
			return fmt.Errorf("executable %q is not an absolute path without detours", path)
		}
	}
	return nil
}

// validateNames refuses "*": it would be compared as a name, and whoever wrote it meant more.
func validateNames(what string, names []string) error {
	if len(names) == 0 {
		return fmt.Errorf("names no %s", what)
	}
	if slices.Contains(names, "") {
		return fmt.Errorf("has an empty %s", what)
	}
	if slices.Contains(names, AnyResource) {
		return fmt.Errorf("%q stands for any resource, not for any %s: name each", AnyResource, what)
	}
	return nil
}

func (r *Rule) validateResources() error {
	if r.evidenceOnly() {
		return nil
	}
	if len(r.Resources) == 0 {
		return errors.New("names no resource")
	}
	if slices.Contains(r.Resources, AnyResource) {
		if len(r.Resources) > 1 {
			return fmt.Errorf("%q beside other resources: it must stand alone", AnyResource)
		}
		return nil
	}
	for _, s := range r.Resources {
		if _, err := ParseResource(s); err != nil {
			return err
		}
	}
	return nil
}
