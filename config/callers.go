package config

import "path/filepath"

// What caller_identity can say.
const (
	CallerIdentityAvailable = "available"
	CallerIdentityStrict    = "strict"
)

// checkCallerIdentity checks how certain the identity of callers must be.
func (c *Config) checkCallerIdentity(f *findings) {
	if c.CallerIdentity != CallerIdentityAvailable && c.CallerIdentity != CallerIdentityStrict {
		f.add("caller_identity: %q is neither %s nor %s", c.CallerIdentity, CallerIdentityAvailable, CallerIdentityStrict)
	}
}

// checkCallers checks whom a rule names.
func (r *Rule) checkCallers(f *findings, at string) {
	switch {
	case len(r.Users)+len(r.Groups)+len(r.Units) > 0:
	case len(r.Executables) > 0:
		f.add("%s.executables: they only narrow a rule: anybody can start a program. Name the users, groups or units who may run it, too", at)
	default:
		f.add("%s: names neither users nor groups nor units", at)
	}
	for _, path := range r.Executables {
		if !filepath.IsAbs(path) || filepath.Clean(path) != path {
			f.add("%s.executables: %q is not an absolute path without detours", at, path)
		}
	}
}

// OverTCP reports whether programs reach the agent over loopback TCP.
func (e *Endpoints) OverTCP() bool { return e.AppService != nil || e.IMDS != nil || e.Takeover != nil }

// NeedsUnixSocket reports whether a rule names nobody over TCP, where neither groups nor programs
// are known.
func (r *Rule) NeedsUnixSocket() bool {
	return len(r.Executables) > 0 || len(r.Groups) > 0 && len(r.Users) == 0
}

// NamesRootAlone reports whether a rule names root without a unit. That is the root of every
// container without a user namespace, too.
func (r *Rule) NamesRootAlone() bool {
	if len(r.Units) > 0 {
		return false
	}
	for _, user := range r.Users {
		if user == "root" || user == "0" {
			return true
		}
	}
	return false
}
