package config

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

var (
	credentialNamePattern = regexp.MustCompile(`^[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?$`)
	regionPattern         = regexp.MustCompile(`^[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?$`)
	// A domain has at least two labels, so that neither common nor a typing error is one.
	domainPattern = regexp.MustCompile(`^(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.)+[a-zA-Z][a-zA-Z0-9-]{0,61}[a-zA-Z0-9]$`)
)

// maxReferences bounds a chain of identities in which each is the oidc source of the one before.
const maxReferences = 3

var (
	clouds  = []string{CloudPublic, CloudUSGov, CloudChina, CloudFrance, CloudGermany, CloudSingapore}
	sources = []string{SourceCertificate, SourceManagedIdentity, SourceOIDC, SourceAssertionFile}
	bounds  = []string{BoundRequire, BoundPrefer, BoundNever}
)

// wantOneOf reports a value that is not in the list.
func (f *findings) wantOneOf(setting, value string, allowed []string) {
	if !slices.Contains(allowed, value) {
		f.add("%s: %q is not one of %s", setting, value, strings.Join(allowed, ", "))
	}
}

func (c *Config) checkApplication(f *findings, at string, id Identity) {
	a := id.Application
	a.checkRegistration(f, at+".application")
	if len(a.Credentials) == 0 {
		f.add("%s.application.credentials: none is configured", at)
	}
	seen := map[string]bool{}
	for i, credential := range a.Credentials {
		at := fmt.Sprintf("%s.application.credentials[%d]", at, i)
		credential.check(f, at)
		if seen[credential.Name] {
			f.add("%s.name: %q is used twice", at, credential.Name)
		}
		seen[credential.Name] = true
		credential.checkFloor(f, at, id.MinStrength)
		c.checkReferences(f, at, id, credential)
	}
}

// isSecret reports whether a name is that of a secret, which can be copied.
func isSecret(name string) bool {
	name = strings.ToLower(name)
	return strings.Contains(name, "secret") || strings.Contains(name, "password")
}

func takesNoSecrets() string {
	return "keyagent takes no secrets; sources are " + strings.Join(sources, ", ")
}

// checkFloor finds an entry that cannot reach the strength that its identity demands.
func (c *Credential) checkFloor(f *findings, at, floor string) {
	switch {
	case floor == "":
	case c.signsAssertion() && floor == StrengthTPMSigned:
	case c.Bound == BoundNever:
		f.add("%s.bound: never: unbound, source %s does not reach min_strength %s: this entry can never be used", at, c.Source, floor)
	case floor == StrengthAttested && c.Source == SourceCertificate:
		f.add("%s.source: certificate: the issuer of an app's certificate sees no attestation, so the strength is never %s: this entry can never be used", at, floor)
	}
}

func (a *Application) checkRegistration(f *findings, at string) {
	if problem := tenantProblem(a.Tenant); problem != "" {
		f.add("%s.tenant: %s", at, problem)
	}
	if !isGUID(a.ClientID) {
		f.add("%s.client_id: %q is not a GUID", at, a.ClientID)
	}
	f.wantOneOf(at+".cloud", a.Cloud, clouds)
	if a.Region != "" && !regionPattern.MatchString(a.Region) {
		f.add("%s.region: %q is neither %s nor the name of a region, as in westeurope", at, a.Region, RegionAuto)
	}
	checkEndpoint(f, at+".login_endpoint", a.LoginEndpoint)
	checkEndpoint(f, at+".mtls_endpoint", a.MTLSEndpoint)
}

// tenantProblem says why a text does not name one tenant, or nothing if it does.
func tenantProblem(tenant string) string {
	switch {
	case slices.Contains([]string{"common", "organizations", "consumers"}, strings.ToLower(tenant)):
		return fmt.Sprintf("%q stands for many tenants; an application gets tokens in one: name it", tenant)
	case !isGUID(tenant) && (len(tenant) > 253 || !domainPattern.MatchString(tenant)):
		return fmt.Sprintf("%q is neither a GUID nor a domain", tenant)
	}
	return ""
}

func checkEndpoint(f *findings, setting, endpoint string) {
	if endpoint == "" {
		return
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		f.add("%s: not an https URL with a host, and nothing else but a path", setting)
	}
}

// check checks an entry by itself.
func (c *Credential) check(f *findings, at string) {
	switch {
	case slices.Contains(sources, c.Source):
	case isSecret(c.Source):
		f.add("%s.source: %q: %s", at, c.Source, takesNoSecrets())
		return
	default:
		f.wantOneOf(at+".source", c.Source, sources)
		return // the other checks depend on that
	}
	if !credentialNamePattern.MatchString(c.Name) {
		f.add("%s.name: %q is not made of lower-case letters, digits and inner hyphens or underscores (at most 63)", at, c.Name)
	}
	f.wantOneOf(at+".bound", c.Bound, bounds)
	if c.Bound != BoundNever && !bindable(c.Source) {
		f.add("%s.bound: %s: an assertion in a file can be copied, and no key of this VM stands behind it: it can only be never", at, c.Bound)
	}
	c.checkForeign(f, at)
	switch c.Source {
	case SourceCertificate:
		c.checkCertificate(f, at)
	case SourceManagedIdentity:
		if c.ManagedIdentity == nil {
			f.add("%s.managed_identity: missing ({} is the system-assigned identity)", at)
		} else {
			c.ManagedIdentity.check(f, at+".managed_identity")
		}
		c.checkAudience(f, at)
	case SourceOIDC:
		c.checkAudience(f, at)
	case SourceAssertionFile:
		f.wantAbsolute(at+".path", c.Path)
	}
}

// checkForeign finds settings that belong to another source: they would have no effect, which their
// author does not expect.
func (c *Credential) checkForeign(f *findings, at string) {
	for _, s := range []struct {
		setting string
		given   bool
		sources []string
	}{
		{"key", c.Key != "", []string{SourceCertificate}},
		{"send_assertion_over_mtls", c.SendAssertionOverMTLS != "", []string{SourceCertificate}},
		{"managed_identity", c.ManagedIdentity != nil, []string{SourceManagedIdentity}},
		{"identity", c.Identity != "", []string{SourceOIDC}},
		{"audience", c.Audience != "", []string{SourceManagedIdentity, SourceOIDC}},
		{"path", c.Path != "", []string{SourceAssertionFile}},
	} {
		if s.given && !slices.Contains(s.sources, c.Source) {
			f.add("%s.%s: a setting of source %s; this entry's is %s", at, s.setting, strings.Join(s.sources, " and "), c.Source)
		}
	}
}

func (c *Credential) checkCertificate(f *findings, at string) {
	if c.Key == "" {
		f.add("%s.key: missing; it names a key in the key store (keyagent key create NAME)", at)
	} else if !namePattern.MatchString(c.Key) {
		f.add("%s.key: %q is not the name of a key", at, c.Key)
	}
	f.wantOneOf(at+".send_assertion_over_mtls", c.SendAssertionOverMTLS, []string{SendAlways, SendAuto, SendNever})
}

func (c *Credential) checkAudience(f *findings, at string) {
	switch {
	case c.Audience == "":
		f.add("%s.audience: missing, and none is known for this cloud; the app registration's federated credential names it", at)
	case !isResource(c.Audience) || strings.HasSuffix(c.Audience, "/.default"):
		f.add("%s.audience: %q is not the URI of an audience (without /.default)", at, c.Audience)
	}
}

// checkReferences checks an entry's references to the rest of the configuration.
func (c *Config) checkReferences(f *findings, at string, id Identity, credential Credential) {
	switch {
	case credential.Source == SourceCertificate && c.BindingKey.InsecureSoftware:
		f.add("%s.source: certificate: keys of applications are in the TPM, and binding_key.insecure_software uses none", at)
	case credential.Source == SourceOIDC:
		c.checkBehind(f, at, id, credential)
	}
}

// checkBehind checks the identity whose token an entry uses as its assertion.
func (c *Config) checkBehind(f *findings, at string, id Identity, credential Credential) {
	behind, ok := c.identity(credential.Identity)
	chain := c.chainProblem(id.Name, behind)
	switch {
	case credential.Identity == "":
		f.add("%s.identity: missing; it names the identity whose token is the assertion", at)
	case credential.Identity == id.Name:
		f.add("%s.identity: %q is this identity itself", at, id.Name)
	case !ok:
		f.add("%s.identity: %q is not a configured identity", at, credential.Identity)
	case chain != "":
		f.add("%s.identity: %s", at, chain)
	case credential.Bound != BoundNever && behind.neverBound():
		f.add("%s.bound: %s: identity %q is never bound, so its token cannot be: it can only be never", at, credential.Bound, behind.Name)
	}
}

// chainProblem returns why a chain of references that starts with these two identities does not
// end, "" if it does.
func (c *Config) chainProblem(name string, behind Identity) string {
	chain := c.endless(behind, []string{name})
	path, last := strings.Join(chain, " -> "), len(chain)-1
	switch {
	case chain == nil:
		return ""
	case slices.Contains(chain[:last], chain[last]):
		return "a circle: " + path
	}
	return fmt.Sprintf("more than %d references: %s", maxReferences, path)
}

// endless returns a chain of references from an identity that is circular or has more than
// maxReferences; nil if there is none.
func (c *Config) endless(id Identity, before []string) []string {
	chain := append(slices.Clone(before), id.Name)
	switch {
	case slices.Contains(before, id.Name), len(before) > maxReferences:
		return chain
	case id.Application == nil:
		return nil
	}
	for _, credential := range id.Application.Credentials {
		if credential.Source != SourceOIDC {
			continue
		}
		if behind, ok := c.identity(credential.Identity); ok {
			if found := c.endless(behind, chain); found != nil {
				return found
			}
		}
	}
	return nil
}

func (c *Config) identity(name string) (Identity, bool) {
	i := slices.IndexFunc(c.Identities, func(id Identity) bool { return id.Name == name })
	if i < 0 {
		return Identity{}, false
	}
	return c.Identities[i], true
}
