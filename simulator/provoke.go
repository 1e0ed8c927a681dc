package simulator

import (
	"crypto/x509"
	"fmt"

	"github.com/go-jose/go-jose/v4"

	"github.com/keyagent/keyagent/simulator/entra"
	"github.com/keyagent/keyagent/simulator/imds"
)

// Revoke makes Entra refuse the certificate with this thumbprint (x5t#S256) from now on, be it a binding certificate or an application's.
func (p *Platform) Revoke(thumbprint string) { p.entra.Revoke(thumbprint) }

// Reject makes Entra answer this AADSTS code to the client with this certificate (x5t#S256); 0 takes it back.
func (p *Platform) Reject(thumbprint string, code int) { p.entra.Reject(thumbprint, code) }

// DistrustAttestation makes Entra refuse binding certificates that are issued on an attestation token which was used up to now:
// AADSTS1000612. A client gets out of it by attesting anew.
func (p *Platform) DistrustAttestation() { p.imds.Distrust() }

// SetTenant replaces what holds for every client of the tenant.
func (p *Platform) SetTenant(policy entra.TenantPolicy) { p.entra.SetTenant(policy) }

// SetIMDS replaces how IMDS behaves.
func (p *Platform) SetIMDS(b imds.Behaviour) error { return p.imds.Set(b) }

// Challenge makes the resource refuse tokens that do not carry the claims, a JSON object; see [resource.Server.Challenge].
func (p *Platform) Challenge(claims string) error { return p.resource.Challenge(claims) }

// RegisterCertificate adds a certificate to the application of this name, as an operator's upload does.
func (p *Platform) RegisterCertificate(app string, leaf *x509.Certificate) error {
	id, err := p.applicationID(app)
	if err != nil {
		return err
	}
	return p.entra.RegisterCertificate(id, leaf)
}

// ApplicationPolicy is what the directory lets the application of this name do.
func (p *Platform) ApplicationPolicy(app string) (entra.ApplicationPolicy, error) {
	id, err := p.applicationID(app)
	if err != nil {
		return entra.ApplicationPolicy{}, err
	}
	return p.entra.Policy(id)
}

// SetApplication replaces what the directory lets the application of this name do.
func (p *Platform) SetApplication(app string, policy entra.ApplicationPolicy) error {
	id, err := p.applicationID(app)
	if err != nil {
		return err
	}
	return p.entra.SetPolicy(id, policy)
}

// Federate lets tokens of another issuer stand for the application of this name. keys are the issuer's; nil means that the issuer is known already.
func (p *Platform) Federate(app string, credential entra.FederatedCredential, keys *jose.JSONWebKeySet) error {
	id, err := p.applicationID(app)
	if err != nil {
		return err
	}
	return p.entra.Federate(id, credential, keys)
}

func (p *Platform) applicationID(name string) (string, error) {
	for _, a := range p.info.Applications {
		if a.Name == name {
			return a.ClientID, nil
		}
	}
	return "", noApplication(name)
}

func noApplication(name string) error { return fmt.Errorf("no application is called %.40q", name) }
