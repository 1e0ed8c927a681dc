package daemon

import (
	"errors"
	"fmt"
	"slices"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/acquire/entra"
	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/cloud"
)

// addIdentities translates what is configured into what can be asked for, and how it is acquired.
func (p *plan) addIdentities(identities []config.Identity) error {
	var problems []error
	for _, id := range identities {
		callable := agentapi.Identity{Name: id.Name, Kind: wire.KindManagedIdentity}
		acquired := acquire.Identity{Name: id.Name, MinStrength: acquire.Strength(id.MinStrength)}
		if m := id.ManagedIdentity; m != nil {
			callable.ClientID, callable.ObjectID, callable.ResourceID = m.ClientID, m.ObjectID, m.ResourceID
			acquired.ManagedIdentity = &acquire.ManagedIdentity{Selector: selector(m.ManagedIdentitySelector), Bound: acquire.Bound(m.Bound)}
		}
		if app := id.Application; app != nil {
			callable.Kind, callable.ClientID = wire.KindApplication, app.ClientID
			var err error
			if acquired.Application, err = application(app); err != nil {
				problems = append(problems, fmt.Errorf("identity %q: %w", id.Name, err))
			}
		}
		p.callables = append(p.callables, callable)
		p.identities = append(p.identities, acquired)
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
	// A region that is none would silently mean the global endpoint.
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

// presented selects the managed identities that are, or may be, shown with a binding certificate.
func (p *plan) presented() []imds.Selector {
	var selectors []imds.Selector
	for _, id := range p.identities {
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

// needsKeys reports whether any identity is known by a key of the key store.
func needsKeys(identities []acquire.Identity) bool {
	return slices.ContainsFunc(identities, func(id acquire.Identity) bool {
		return len(certificateCredentials(id)) > 0
	})
}
