package config

import (
	"encoding/hex"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/uuid"
)

// bypassPattern is a host's name, with or without a leading dot. Its length, maxHostBytes at most,
// is checked beside it: within the pattern it would take each start half a millisecond to compile.
var bypassPattern = regexp.MustCompile(`^\.?[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?$`)

const maxHostBytes = 253

// settingPattern is the name of a setting in an app's settings.
var settingPattern = regexp.MustCompile(`^[A-Za-z0-9_:.-]{1,64}$`)

var namePattern = regexp.MustCompile(`^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$`)

// findings collects the faults.
type findings []string

func (f *findings) add(format string, args ...any) { *f = append(*f, fmt.Sprintf(format, args...)) }

func (f *findings) wantAbsolute(setting, path string) {
	if !filepath.IsAbs(path) {
		f.add("%s: path %q is not absolute", setting, path)
	}
}

// wantCredentialName reports a text that cannot be the name of a systemd credential.
func (f *findings) wantCredentialName(setting, name string) {
	if name != "" && (name != filepath.Base(name) || name[0] == '.') {
		f.add("%s: %q is not the name of a credential", setting, name)
	}
}

// problems makes the checks that need nothing outside the file.
func (c *Config) problems() []string {
	var f findings
	c.checkPlaces(&f)
	c.checkEndpoints(&f)
	c.checkProxy(&f)
	c.checkAttestation(&f)
	c.checkBindingKey(&f)
	c.checkIdentities(&f)
	c.checkCallerIdentity(&f)
	c.checkRules(&f)
	c.checkAudit(&f)
	c.checkLogLevel(&f)
	c.checkEndpoints(&f)
	return f
}

func (c *Config) checkPlaces(f *findings) {
	scheme, rest, _ := strings.Cut(c.TPM, ":")
	switch {
	case filepath.IsAbs(c.TPM):
	case !slices.Contains([]string{"device", "unix", "tcp"}, scheme) || rest == "":
		f.add("tpm: %q is not device:/path, unix:/path or tcp:host:port", c.TPM)
	case scheme != "tcp" && !filepath.IsAbs(rest):
		f.add("tpm: path %q is not absolute", rest)
	}
	f.wantCredentialName("tpm_owner_credential", c.TPMOwnerCredential)
	f.wantAbsolute("state_dir", c.StateDir)
	f.wantAbsolute("socket", c.Socket)
	// A longer path does not fit into sockaddr_un.
	if len(c.Socket) > 107 {
		f.add("socket: path has %d bytes, the kernel takes at most 107", len(c.Socket))
	}
	if c.IMDSEndpoint == "" {
		return
	}
	if u, err := url.Parse(c.IMDSEndpoint); err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		f.add("imds_endpoint: %q is not an http URL", c.IMDSEndpoint)
	}
}

// checkProxy does not repeat the URL: it may hold a password.
func (c *Config) checkProxy(f *findings) {
	p := c.Proxy
	if p.URL == "" {
		if p.Credential != "" || len(p.Bypass) > 0 {
			f.add("proxy.url: missing")
		}
		return
	}
	u, err := url.Parse(p.URL)
	switch {
	case err == nil && u.User != nil:
		f.add("proxy.url: holds a user's name or password: put user:password into a systemd credential and name that in proxy.credential")
	case err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		f.add("proxy.url: not an http or https URL of a host, as in http://proxy.example:3128")
	}
	f.wantCredentialName("proxy.credential", p.Credential)
	for i, host := range p.Bypass {
		if (len(strings.TrimPrefix(host, ".")) > maxHostBytes || !bypassPattern.MatchString(host)) && net.ParseIP(host) == nil {
			f.add("proxy.bypass[%d]: %q is neither a host nor a domain with a leading dot", i, host)
		}
	}
}

func (c *Config) checkBindingKey(f *findings) {
	k := c.BindingKey
	for _, pcr := range k.PCRs {
		if pcr < 0 || pcr > 23 {
			f.add("binding_key.pcrs: %d is not a PCR (0 to 23)", pcr)
		}
	}
	if k.PCRBank != BankSHA256 && k.PCRBank != BankSHA384 {
		f.add("binding_key.pcr_bank: %q is neither %s nor %s", k.PCRBank, BankSHA256, BankSHA384)
	}
	if h := k.PersistentHandle; h != 0 && (h < 0x81010000 || h > 0x817fffff) {
		f.add("binding_key.persistent_handle: 0x%08x is not between 0x81010000 and 0x817fffff", h)
	}
	f.wantCredentialName("binding_key.auth_credential", k.AuthCredential)
	if !k.InsecureSoftware {
		return
	}
	if c.Attestation.Provider != ProviderNone {
		f.add("binding_key.insecure_software: a software key cannot be attested: set attestation.provider: none")
	}
	if len(k.PCRs) > 0 || k.AuthCredential != "" || k.PersistentHandle != 0 {
		f.add("binding_key.insecure_software: the other settings of binding_key are for a key in a TPM")
	}
}

func (c *Config) checkAttestation(f *findings) {
	c.Attestation.check(f)
	for i, digest := range c.Attestation.IDKeyDigests {
		if b, err := hex.DecodeString(digest); err != nil || len(b) != 48 {
			f.add("attestation.id_key_digests[%d]: not the hex form of 48 bytes", i)
		}
	}
	c.Attestation.TDX.check(f)
	for _, file := range []struct{ setting, path string }{
		{"ca_file", c.CAFile},
		{"attestation.amd_roots", c.Attestation.AMDRoots},
		{"attestation.vtpm_roots", c.Attestation.VTPMRoots},
		{"attestation.ak_intermediates", c.Attestation.AKIntermediates},
	} {
		if file.path != "" {
			f.wantAbsolute(file.setting, file.path)
		}
	}
}

func (c *Config) checkIdentities(f *findings) {
	if len(c.Identities) == 0 {
		f.add("identities: none is configured")
	}
	seen := map[string]bool{}
	for i, id := range c.Identities {
		at := fmt.Sprintf("identities[%d]", i)
		if !namePattern.MatchString(id.Name) {
			f.add("%s.name: %q is not made of lower-case letters, digits and inner hyphens (at most 63)", at, id.Name)
		}
		if seen[id.Name] {
			f.add("%s.name: %q is configured twice", at, id.Name)
		}
		seen[id.Name] = true
		c.checkFloor(f, at, id)
		c.checkKind(f, at, id)
	}
}

func (c *Config) checkFloor(f *findings, at string, id Identity) {
	floor := id.MinStrength
	if floor == "" {
		return
	}
	f.wantOneOf(at+".min_strength", floor, []string{StrengthAttested, StrengthTPM, StrengthTPMSigned, StrengthSoftware})
	if c.BindingKey.InsecureSoftware && floor != StrengthSoftware {
		f.add("%s.min_strength: a software key (binding_key.insecure_software) never reaches %s", at, floor)
	}
	switch signed := id.signsAssertions(); {
	case floor == StrengthAttested && c.Attestation.Provider == ProviderNone && !c.BindingKey.InsecureSoftware && !id.neverBound():
		f.add("%s.min_strength: without attestation (attestation.provider: none) no certificate is issued on evidence, so no token reaches %s; it can be %s", at, floor, StrengthTPM)
	case !id.neverBound(), signed && floor == StrengthTPMSigned:
	case signed:
		f.add("%s.min_strength: nothing of this identity is ever bound, so no token of it reaches %s; it can be %s", at, floor, StrengthTPMSigned)
	default:
		f.add("%s.min_strength: nothing of this identity is ever bound, so no token of it reaches %s", at, floor)
	}
}

// checkKind checks that an identity is of exactly one kind.
func (c *Config) checkKind(f *findings, at string, id Identity) {
	switch {
	case id.ManagedIdentity == nil && id.Application == nil:
		f.add("%s: neither managed_identity ({} is the system-assigned identity) nor application is there", at)
	case id.ManagedIdentity != nil && id.Application != nil:
		f.add("%s: managed_identity and application exclude each other", at)
	case id.ManagedIdentity != nil:
		id.ManagedIdentity.check(f, at+".managed_identity")
		f.wantOneOf(at+".managed_identity.bound", id.ManagedIdentity.Bound, bounds)
	default:
		c.checkApplication(f, at, id)
	}
}

func (m *ManagedIdentitySelector) check(f *findings, at string) {
	selectors := 0
	for _, id := range []struct{ setting, value string }{{"client_id", m.ClientID}, {"object_id", m.ObjectID}} {
		if id.value == "" {
			continue
		}
		selectors++
		if !isGUID(id.value) {
			f.add("%s.%s: %q is not a GUID", at, id.setting, id.value)
		}
	}
	if m.ResourceID != "" {
		selectors++
		if !strings.HasPrefix(m.ResourceID, "/subscriptions/") {
			f.add("%s.resource_id: %q does not begin with /subscriptions/", at, m.ResourceID)
		}
	}
	if selectors > 1 {
		f.add("%s: more than one of client_id, object_id, resource_id", at)
	}
}

func (c *Config) checkRules(f *findings) {
	seen := map[string]bool{}
	for i, r := range c.Rules {
		at := fmt.Sprintf("rules[%d]", i)
		switch {
		case r.Name == "":
			f.add("%s.name: missing; audit records refer to it", at)
		case seen[r.Name]:
			f.add("%s.name: %q is used twice", at, r.Name)
		}
		seen[r.Name] = true
		r.checkCallers(f, at)
		c.checkGrant(f, at, r)
	}
}

func (c *Config) checkGrant(f *findings, at string, r Rule) {
	if len(r.Identities) == 0 {
		f.add("%s.identities: none", at)
	}
	for _, name := range r.Identities {
		if _, ok := c.identity(name); !ok {
			f.add("%s.identities: %q is not a configured identity", at, name)
		}
	}
	if len(r.Resources) == 0 && (!r.Evidence || r.Sign) {
		f.add("%s.resources: none (\"*\" means any)", at)
	}
	for _, resource := range r.Resources {
		if resource == AnyResource && len(r.Resources) == 1 {
			continue
		}
		if !isResource(resource) {
			f.add("%s.resources: %q is neither a resource URI nor an application id (\"*\" can only stand alone)", at, resource)
		}
	}
	for _, t := range r.Types {
		c.checkType(f, at+".types", t, r.Identities)
	}
	if r.SignHostsOnly && (!r.Sign || len(r.Hosts) == 0) {
		f.add("%s.sign_hosts_only: it narrows sign: true to hosts, and one of these is not there", at)
	}
	if len(r.Hosts) > 0 && !slices.Contains(r.Types, TypePoP) {
		f.add("%s.hosts: they are for tokens of type %s, which is not among the rule's types", at, TypePoP)
	}
}

// checkType checks a token type of a rule for identities.
func (c *Config) checkType(f *findings, setting, tokenType string, identities []string) {
	if tokenType != TypeBearer && tokenType != TypePoP {
		f.add("%s: %q is not a token type (%s, %s)", setting, tokenType, TypeBearer, TypePoP)
	}
	if tokenType != TypePoP {
		return
	}
	for _, name := range identities {
		if id, ok := c.identity(name); ok && id.neverBound() {
			f.add("%s: %s: nothing of identity %q is ever bound, and such a token is bound to a certificate", setting, TypePoP, name)
		}
	}
}

func isGUID(s string) bool { return len(s) == 36 && uuid.Validate(s) == nil }

// isResource accepts a URI, such as https://vault.azure.net or api://name, and
// the application id that Entra takes in its place.
func isResource(s string) bool {
	u, err := url.Parse(s)
	return isGUID(s) || err == nil && u.Scheme != "" && !strings.ContainsAny(s, "*?# ")
}
