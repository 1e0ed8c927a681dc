package engine

import (
	"errors"
	"fmt"
	"slices"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/acquire/entra"
	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/cloud"
)

// addIdentities translates the configured identities.
func (p *Plan) addIdentities(identities []config.Identity) error {
	var problems []error
	for _, id := range identities {
		acquired := acquire.Identity{Name: id.Name, MinStrength: acquire.Strength(id.MinStrength)}
		if m := id.ManagedIdentity; m != nil {
			acquired.ManagedIdentity = &acquire.ManagedIdentity{Selector: selector(m.ManagedIdentitySelector), Bound: acquire.Bound(m.Bound)}
		}
		if app := id.Application; app != nil {
			var err error
			if acquired.Application, err = application(app); err != nil {
				problems = append(problems, fmt.Errorf("identity %q: %w", id.Name, err))
			}
		}
		p.Identities = append(p.Identities, acquired)
	}
	return errors.Join(problems...)
}

func selector(m config.ManagedIdentitySelector) imds.Selector {
	return imds.Selector{ClientID: m.ClientID, ObjectID: m.ObjectID, ResourceID: m.ResourceID}
}

func application(app *config.Application) (*acquire.Application, error) {
	in, known := cloud.Named(app.Cloud)
	if !known {
		return nil, fmt.Errorf("cloud %q is not known", app.Cloud)
	}
	if err := entra.CheckTenant(app.Tenant); err != nil {
		return nil, err
	}
	// A name that is no region would silently mean the global endpoint.
	if app.Region != "" && app.Region != config.RegionAuto && !entra.ValidRegion(app.Region) {
		return nil, fmt.Errorf("region %q is not the name of an Azure region, as in westeurope", app.Region)
	}
	made := &acquire.Application{
		Authority: entra.Authority{Cloud: in, Tenant: app.Tenant, LoginURL: app.LoginEndpoint, MTLSURL: app.MTLSEndpoint},
		ClientID:  app.ClientID,
		Region:    app.Region,
	}
	for _, c := range app.Credentials {
		made.Credentials = append(made.Credentials, credential(c))
	}
	return made, nil
}

func credential(c config.Credential) acquire.Credential {
	made := acquire.Credential{
		Name: c.Name, Source: acquire.Source(c.Source), Bound: acquire.Bound(c.Bound),
		Key: c.Key, SendAssertion: acquire.SendAssertion(c.SendAssertionOverMTLS),
		Identity: c.Identity, Audience: c.Audience, Path: c.Path,
	}
	if c.ManagedIdentity != nil {
		made.Selector = selector(*c.ManagedIdentity)
	}
	return made
}

// presented selects the managed identities that use a binding certificate, or may use one.
func (p *Plan) presented() []imds.Selector {
	var selectors []imds.Selector
	for _, id := range p.Identities {
		if m := id.ManagedIdentity; m != nil && m.Bound != acquire.BoundNever {
			selectors = append(selectors, m.Selector)
		}
		if id.Application == nil {
			continue
		}
		for _, c := range id.Application.Credentials {
			if c.Source == acquire.SourceManagedIdentity && c.Bound != acquire.BoundNever {
				selectors = append(selectors, c.Selector)
			}
		}
	}
	return selectors
}

// needsKeys reports whether any identity has a credential with a key of the key store.
func needsKeys(identities []acquire.Identity) bool {
	return slices.ContainsFunc(identities, func(id acquire.Identity) bool {
		return len(CertificateCredentials(id)) > 0
	})
}

// CertificateCredentials returns the credentials of an identity that use a key of the key store.
func CertificateCredentials(id acquire.Identity) []acquire.Credential {
	if id.Application == nil {
		return nil
	}
	var found []acquire.Credential
	for _, c := range id.Application.Credentials {
		if c.Source == acquire.SourceCertificate {
			found = append(found, c)
		}
	}
	return found
}
