package config

import (
	"fmt"
	"slices"

	"github.com/keyagent/keyagent/internal/cloud"
)

// The clouds of Microsoft Entra.
const (
	CloudPublic    = cloud.Public
	CloudUSGov     = cloud.USGov
	CloudChina     = cloud.China
	CloudFrance    = cloud.France
	CloudGermany   = cloud.Germany
	CloudSingapore = cloud.Singapore
)

// RegionAuto as [Application.Region] asks IMDS for the VM's region.
const RegionAuto = "auto"

// Application is an app registration of Entra and the credentials it may show.
type Application struct {
	// Tenant is the application's tenant: a GUID or a verified domain. common,
	// organizations and consumers are not tenants.
	Tenant string `yaml:"tenant,omitempty"`
	// ClientID is the application's client (application) id, a GUID.
	ClientID string `yaml:"client_id,omitempty"`
	// Cloud is public, us-gov, china, france, germany or singapore. Default: public.
	Cloud string `yaml:"cloud,omitempty"`
	// Region makes the agent ask Entra's endpoint in one Azure region, as in
	// westeurope, or in the VM's own (auto). Default: the global endpoint.
	Region string `yaml:"region,omitempty"`
	// LoginEndpoint is the base URL of the endpoint without client certificates,
	// https. Only a test platform needs another one than the cloud's.
	LoginEndpoint string `yaml:"login_endpoint,omitempty"`
	// MTLSEndpoint is the base URL of the endpoint that takes client certificates,
	// https. Only a test platform needs another one than the cloud's.
	MTLSEndpoint string `yaml:"mtls_endpoint,omitempty"`
	// Credentials are tried in this order. One that cannot be loaded, or that Entra
	// rejects as a credential (the codes are in credentials.md), gives way to the next.
	// At least one is required.
	Credentials []Credential `yaml:"credentials,omitempty"`
}

// Sources of a client credential.
const (
	SourceCertificate     = "certificate"      // an own key in the TPM and its certificate
	SourceManagedIdentity = "managed_identity" // federated identity credential that trusts a managed identity
	SourceOIDC            = "oidc"             // the same, that trusts another identity of this configuration
	SourceAssertionFile   = "assertion_file"   // an assertion that another program keeps in a file
)

// What [Credential.SendAssertionOverMTLS] can say.
const (
	SendAlways = "always"
	SendAuto   = "auto"
	SendNever  = "never"
)

// Credential is one way for an application to authenticate to Entra.
type Credential struct {
	// Name is what replies, audit and status call the entry: lower-case letters,
	// digits, and hyphens or underscores inside, at most 63. Default: the source; a
	// second entry of a source is source-2, and so on.
	Name string `yaml:"name,omitempty"`
	// Source is certificate, managed_identity, oidc or assertion_file.
	Source string `yaml:"source,omitempty"`
	// Bound is require (the credential is shown over mutual TLS with a key of this VM,
	// or not at all), prefer (without that where Entra or the platform does not take
	// it; each such token says so) or never. Default: require; never for
	// assertion_file, which has no key.
	Bound string `yaml:"bound,omitempty"`

	// Key is the name of a key in the key store: keyagent key create NAME. For source
	// certificate, required.
	Key string `yaml:"key,omitempty"`
	// SendAssertionOverMTLS is always (an assertion signed by the key goes with the
	// certificate, which Entra asks for today), auto (only if Entra asks for it) or
	// never. For source certificate. Default: always.
	SendAssertionOverMTLS string `yaml:"send_assertion_over_mtls,omitempty"`

	// ManagedIdentity is the managed identity of this VM that the app registration
	// trusts; {} is the system-assigned one. For source managed_identity, required.
	ManagedIdentity *ManagedIdentitySelector `yaml:"managed_identity,omitempty"`
	// Identity is the name of another identity of this configuration whose token is
	// the assertion. For source oidc, required.
	Identity string `yaml:"identity,omitempty"`
	// Audience is that of the assertion, as the app registration's federated
	// credential names it. For sources managed_identity and oidc. Default: the
	// cloud's, as in api://AzureADTokenExchange; singapore has none that is known.
	Audience string `yaml:"audience,omitempty"`

	// Path is the absolute path of the file that holds the assertion; it is read
	// anew each time. For source assertion_file, required.
	Path string `yaml:"path,omitempty"`
}

// AssertionAudiences returns the audiences of assertions for federated credentials:
// those of the clouds, and those that credentials of this configuration have, in
// alphabetical order. With a token for one, anyone can act as each application that
// trusts its identity.
func (c *Config) AssertionAudiences() []string {
	var all []string
	for _, in := range cloud.All() {
		if in.ExchangeAudience != "" {
			all = append(all, in.ExchangeAudience)
		}
	}
	for _, id := range c.Identities {
		if id.Application == nil {
			continue
		}
		for _, credential := range id.Application.Credentials {
			if credential.Audience != "" {
				all = append(all, credential.Audience)
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// bindable reports whether a source's credential can be bound to a key of this VM.
func bindable(source string) bool {
	return source == SourceCertificate || source == SourceManagedIdentity || source == SourceOIDC
}

func (m *ManagedIdentity) complete() {
	if m.Bound == "" {
		m.Bound = BoundRequire
	}
}

func (a *Application) complete() {
	if a.Cloud == "" {
		a.Cloud = CloudPublic
	}
	unnamed := map[string]int{}
	for i := range a.Credentials {
		c := &a.Credentials[i]
		if c.Name == "" {
			unnamed[c.Source]++
			c.Name = numbered(c.Source, unnamed[c.Source])
		}
		c.complete(a.Cloud)
	}
}

// numbered is name for the first of its kind, name-2 for the second, and so on.
func numbered(name string, n int) string {
	if n == 1 {
		return name
	}
	return fmt.Sprintf("%s-%d", name, n)
}

func (c *Credential) complete(cloudName string) {
	switch {
	case c.Bound != "":
	case bindable(c.Source):
		c.Bound = BoundRequire
	case c.Source == SourceAssertionFile:
		c.Bound = BoundNever
	}
	switch c.Source {
	case SourceCertificate:
		if c.SendAssertionOverMTLS == "" {
			c.SendAssertionOverMTLS = SendAlways
		}
	case SourceManagedIdentity, SourceOIDC:
		if c.Audience == "" {
			in, _ := cloud.Named(cloudName) // an unknown one is refused elsewhere
			c.Audience = in.ExchangeAudience
		}
	}
}

// signsAssertion reports whether an unbound entry is an assertion that a key in the TPM
// signs.
func (c *Credential) signsAssertion() bool {
	return c.Source == SourceCertificate && c.Bound == BoundNever
}

// signsAssertions reports whether an unbound token of the identity can be obtained with
// such an assertion.
func (id Identity) signsAssertions() bool {
	return id.Application != nil && slices.ContainsFunc(id.Application.Credentials, func(c Credential) bool { return c.signsAssertion() })
}

// neverBound reports whether no token of the identity can be obtained with a key of
// this VM.
func (id Identity) neverBound() bool {
	if id.Application == nil {
		return id.ManagedIdentity != nil && id.ManagedIdentity.Bound == BoundNever
	}
	for _, c := range id.Application.Credentials {
		if c.Bound != BoundNever {
			return false
		}
	}
	return len(id.Application.Credentials) > 0
}
