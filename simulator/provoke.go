package simulator

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"

	"github.com/go-jose/go-jose/v4"

	"github.com/keyagent/keyagent/simulator/entra"
	"github.com/keyagent/keyagent/simulator/imds"
	"github.com/keyagent/keyagent/simulator/pki"
)

// Revoke makes Entra refuse the certificate with this thumbprint (x5t#S256) from now on, be it a
// binding certificate or an application's.
func (p *Platform) Revoke(thumbprint string) { p.entra.Revoke(thumbprint) }

// Reject makes Entra answer this AADSTS code to the client with this certificate (x5t#S256); 0
// takes it back.
func (p *Platform) Reject(thumbprint string, code int) { p.entra.Reject(thumbprint, code) }

// DistrustAttestation makes Entra refuse binding certificates that are issued on an attestation
// token which was used up to now: AADSTS1000612. A client gets out of it by attesting anew.
func (p *Platform) DistrustAttestation() { p.imds.Distrust() }

// SetTenant replaces what holds for every client of the tenant.
func (p *Platform) SetTenant(policy entra.TenantPolicy) { p.entra.SetTenant(policy) }

// SetIMDS replaces how IMDS behaves.
func (p *Platform) SetIMDS(b imds.Behaviour) error { return p.imds.Set(b) }

// Challenge makes the resource refuse tokens that do not carry the claims, a JSON object; see
// [resource.Server.Challenge].
func (p *Platform) Challenge(claims string) error { return p.resource.Challenge(claims) }

// RegisterCertificate adds a certificate to the application of this name, as an operator's upload
// does.
func (p *Platform) RegisterCertificate(app string, leaf *x509.Certificate) error {
	id, err := p.applicationID(app)
	if err != nil {
		return err
	}
	return p.entra.RegisterCertificate(id, leaf)
}

// Trust lets the application of this name have every certificate that issuer, whose key signs it,
// issues to subject, a common name.
func (p *Platform) Trust(app, subject string, issuer *x509.Certificate) error {
	id, err := p.applicationID(app)
	if err != nil {
		return err
	}
	return p.entra.Trust(id, entra.SubjectIssuer{Subject: subject, Issuer: issuer})
}

// IssueTrusted has the platform's own authority issue a certificate over key to subject, a common
// name, and the application of this name trust it by subject and issuer. It returns the certificate
// and the authority's.
func (p *Platform) IssueTrusted(app, subject string, key crypto.PublicKey) ([]*x509.Certificate, error) {
	leaf, err := p.apps.Issue(&x509.CertificateRequest{Subject: pkix.Name{CommonName: subject}, PublicKey: key}, p.clock.Now())
	if err != nil {
		return nil, err
	}
	return []*x509.Certificate{leaf, p.apps.Certificate}, p.Trust(app, subject, p.apps.Certificate)
}

// Certify has the platform's own authority issue a certificate for a request, in PEM, and the
// application of this name trust it by subject and issuer. It returns the certificate and the
// authority's, in PEM: what the operator of a key in a TPM imports.
func (p *Platform) Certify(app string, request []byte) ([]byte, error) {
	chain, err := p.issue(bytes.NewReader(request))
	if err != nil {
		return nil, err
	}
	return pki.EncodePEM(chain...), p.Trust(app, chain[0].Subject.CommonName, chain[1])
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

// Federate lets tokens of another issuer stand for the application of this name. keys are the
// issuer's; nil means that the issuer is known already.
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
