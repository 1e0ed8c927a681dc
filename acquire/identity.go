package acquire

import (
	"errors"
	"fmt"
	"slices"

	"github.com/keyagent/keyagent/acquire/entra"
	"github.com/keyagent/keyagent/acquire/imds"
)

// Identity is a configured identity: a managed identity of this VM, or an application.
type Identity struct {
	Name string
	// ManagedIdentity or Application, exactly one of them.
	ManagedIdentity *ManagedIdentity
	Application     *Application
	// MinStrength refuses weaker credentials, before they are shown to Entra. Empty: none is
	// refused.
	MinStrength Strength
}

// ManagedIdentity is one of the VM's managed identities.
type ManagedIdentity struct {
	Selector imds.Selector // zero: system-assigned
	Bound    Bound
}

// Application is an app registration, and the credentials it authenticates with.
type Application struct {
	Authority   entra.Authority
	ClientID    string       // GUID
	Region      string       // of the token endpoint; "" is the global one, RegionAuto the VM's
	Credentials []Credential // the first that works is used
}

// RegionAuto stands for the region that the VM is in.
const RegionAuto = "auto"

// Credential is one entry of an application's list. Which members count depends on Source.
type Credential struct {
	Name   string // unique in its list; appears in replies and audit records
	Source Source
	Bound  Bound

	Key           string        // SourceCertificate: name of the key
	SendAssertion SendAssertion // SourceCertificate

	Selector imds.Selector // SourceManagedIdentity
	Identity string        // SourceOIDC: name of another identity
	Audience string        // SourceManagedIdentity, SourceOIDC: of the assertion; "" is that of the cloud

	Path string // SourceAssertionFile
}

// Source says where a credential comes from.
type Source string

// The sources.
const (
	SourceCertificate     Source = "certificate"      // a key in the TPM and its registered certificate
	SourceManagedIdentity Source = "managed_identity" // a managed identity with a federated credential at the application
	SourceOIDC            Source = "oidc"             // another identity of this configuration, with a federated credential there
	SourceAssertionFile   Source = "assertion_file"   // an assertion that another program keeps up to date in a file; never bound
)

// Bound says whether a credential must be of no use without its key.
type Bound string

// The values of Bound.
const (
	BoundRequire Bound = "require" // bound, or not at all
	BoundPrefer  Bound = "prefer"  // bound; unbound only after a definite refusal of the bound form
	BoundNever   Bound = "never"   // unbound
)

// SendAssertion says whether an assertion that the key has signed is sent along with a certificate
// that is presented over mutual TLS.
type SendAssertion string

// The values of SendAssertion.
const (
	AssertionAlways SendAssertion = "always" // what Entra asks for today
	AssertionAuto   SendAssertion = "auto"   // only once Entra has asked for it
	AssertionNever  SendAssertion = "never"
)

// dependsOn names the identities whose tokens are credentials of this one.
func (id Identity) dependsOn() []string {
	var names []string
	if id.Application == nil {
		return nil
	}
	for _, c := range id.Application.Credentials {
		if c.Source == SourceOIDC {
			names = append(names, c.Identity)
		}
	}
	return names
}

func (id Identity) needsKeys() bool {
	return id.Application != nil && slices.ContainsFunc(id.Application.Credentials, func(c Credential) bool { return c.Source == SourceCertificate })
}

// client is the client that IMDS and Entra count the requests of.
type client struct {
	selector      imds.Selector // of a managed identity
	authority     entra.Authority
	applicationID string
}

func (id Identity) client() client {
	if id.ManagedIdentity != nil {
		return client{selector: id.ManagedIdentity.Selector}
	}
	return client{authority: id.Application.Authority, applicationID: id.Application.ClientID}
}

// check refuses what would fail only at the first token.
func (id Identity) check() error {
	if (id.ManagedIdentity == nil) == (id.Application == nil) {
		return fmt.Errorf("identity %q is neither a managed identity nor an application, or is both", id.Name)
	}
	if id.ManagedIdentity != nil {
		return id.ManagedIdentity.Bound.check()
	}
	names := map[string]bool{}
	for _, c := range id.Application.Credentials {
		if names[c.Name] {
			return fmt.Errorf("identity %q has two credentials named %q", id.Name, c.Name)
		}
		names[c.Name] = true
		if err := c.check(); err != nil {
			return fmt.Errorf("identity %q: credential %q: %w", id.Name, c.Name, err)
		}
	}
	if len(names) == 0 {
		return fmt.Errorf("identity %q has no credentials", id.Name)
	}
	return nil
}

func (c Credential) check() error {
	switch c.Source {
	case SourceCertificate, SourceManagedIdentity, SourceOIDC:
		return c.Bound.check()
	case SourceAssertionFile:
		if c.Bound != BoundNever {
			return errors.New("an assertion in a file is never bound: whoever reads the file can use it")
		}
		return nil
	}
	return errNoSuchSource(c.Source)
}

func errNoSuchSource(source Source) error { return fmt.Errorf("there is no source %q", source) }

// check refuses unknown values: they must not mean the weaker form.
func (b Bound) check() error {
	switch b {
	case BoundRequire, BoundPrefer, BoundNever:
		return nil
	}
	return fmt.Errorf("bound is %q, not require, prefer or never", string(b))
}
