package entra

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha1" // x5t is defined as SHA-1 (RFC 7515, 4.1.7); it finds a certificate and proves nothing
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"

	"github.com/keyagent/keyagent/simulator/internal/leg"
)

// Application is an app registration: a client that is no managed identity.
type Application struct {
	ClientID string // GUID
	ObjectID string // GUID of the service principal
	Name     string

	Certificates []*x509.Certificate // registered one by one
	Trusted      []SubjectIssuer     // and by name
	Federated    []FederatedCredential

	ApplicationPolicy
}

// ApplicationPolicy is what the directory lets an application do over mutual TLS.
type ApplicationPolicy struct {
	MTLSEnabled       bool   `json:"mtls_enabled"`        // otherwise AADSTS51000
	AssertionOverMTLS string `json:"assertion_over_mtls"` // for a Bearer token: AssertionRequired, which is meant by "", or AssertionOptional
}

// Values of ApplicationPolicy.AssertionOverMTLS.
const (
	AssertionRequired = "required"
	AssertionOptional = "optional"
)

// SubjectIssuer registers every certificate of one subject that an authority issues (SN/I).
type SubjectIssuer struct {
	Subject string // common name
	Issuer  *x509.Certificate
}

// FederatedCredential lets a token of another issuer stand for the application. All three are compared exactly.
type FederatedCredential struct {
	Issuer   string `json:"issuer"`
	Subject  string `json:"subject"`
	Audience string `json:"audience"`
}

func (a *Application) clone() *Application {
	c := *a
	c.Certificates, c.Trusted, c.Federated = slices.Clone(a.Certificates), slices.Clone(a.Trusted), slices.Clone(a.Federated)
	return &c
}

// application returns a copy of the application, or nil.
func (s *Server) application(clientID string) *Application {
	s.mu.Lock()
	defer s.mu.Unlock()
	if app, ok := s.applications[strings.ToLower(clientID)]; ok {
		return app.clone()
	}
	return nil
}

// change changes the application in place.
func (s *Server) change(clientID string, change func(*Application)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	app, ok := s.applications[strings.ToLower(clientID)]
	if !ok {
		return fmt.Errorf("no application %.40q in tenant %s", clientID, s.cfg.TenantID)
	}
	change(app)
	return nil
}

// RegisterCertificate adds a certificate to an application, as its owner's upload does. Its key must be an RSA key.
func (s *Server) RegisterCertificate(clientID string, leaf *x509.Certificate) error {
	if _, ok := leaf.PublicKey.(*rsa.PublicKey); !ok {
		return errors.New("the certificate's key is not an RSA key")
	}
	return s.change(clientID, func(a *Application) { a.Certificates = append(a.Certificates, leaf) })
}

// Policy returns an application's policy.
func (s *Server) Policy(clientID string) (ApplicationPolicy, error) {
	var policy ApplicationPolicy
	err := s.change(clientID, func(a *Application) { policy = a.ApplicationPolicy })
	return policy, err
}

// Registration is what the directory has of an application's credentials.
type Registration struct {
	Certificates []string              `json:"certificates"` // thumbprints (x5t#S256) of those registered one by one
	Federated    []FederatedCredential `json:"federated"`
}

// Registration returns an application's credentials.
func (s *Server) Registration(clientID string) (Registration, error) {
	r := Registration{Certificates: []string{}, Federated: []FederatedCredential{}} // [] and not null when empty
	err := s.change(clientID, func(a *Application) {
		for _, c := range a.Certificates {
			r.Certificates = append(r.Certificates, leg.Thumbprint(c.Raw))
		}
		r.Federated = append(r.Federated, a.Federated...)
	})
	return r, err
}

// IsRegistered reports whether an application has the certificate with this thumbprint (x5t#S256).
func (s *Server) IsRegistered(thumbprint string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, app := range s.applications {
		if slices.ContainsFunc(app.Certificates, func(c *x509.Certificate) bool { return leg.Thumbprint(c.Raw) == thumbprint }) {
			return true
		}
	}
	return false
}

// SetPolicy replaces an application's policy.
func (s *Server) SetPolicy(clientID string, policy ApplicationPolicy) error {
	if !slices.Contains([]string{"", AssertionRequired, AssertionOptional}, policy.AssertionOverMTLS) {
		return fmt.Errorf("assertion over mTLS %q, want %s or %s", policy.AssertionOverMTLS, AssertionRequired, AssertionOptional)
	}
	return s.change(clientID, func(a *Application) { a.ApplicationPolicy = policy })
}

// Federate adds a federated credential to an application. keys are those of its issuer; nil leaves them as they are.
func (s *Server) Federate(clientID string, credential FederatedCredential, keys *jose.JSONWebKeySet) error {
	return s.change(clientID, func(a *Application) {
		a.Federated = append(a.Federated, credential)
		if keys != nil {
			s.external[credential.Issuer] = *keys
		}
	})
}

// isRegistered says whether the certificate is one of the application's.
func (a *Application) isRegistered(certificate *x509.Certificate) bool {
	same := func(c *x509.Certificate) bool { return bytes.Equal(c.Raw, certificate.Raw) }
	issued := func(t SubjectIssuer) bool { return t.issued(certificate) }
	return slices.ContainsFunc(a.Certificates, same) || slices.ContainsFunc(a.Trusted, issued)
}

func (t SubjectIssuer) issued(certificate *x509.Certificate) bool {
	return !certificate.IsCA && certificate.Subject.CommonName == t.Subject &&
		bytes.Equal(certificate.RawIssuer, t.Issuer.RawSubject) && certificate.CheckSignatureFrom(t.Issuer) == nil
}

// certificateOf finds the registered certificate that the header of an assertion names.
func (a *Application) certificateOf(assertion *assertion) *x509.Certificate {
	candidates := slices.Clone(a.Certificates)
	if len(assertion.chain) > 0 {
		candidates = append(candidates, assertion.chain[0])
	}
	for _, c := range candidates {
		if assertion.names(c) && a.isRegistered(c) {
			return c
		}
	}
	return nil
}

// names says whether the assertion's header has the thumbprint of c that belongs to its algorithm.
func (a *assertion) names(c *x509.Certificate) bool {
	switch a.Algorithm {
	case algorithmPS256:
		// MSAL Go 1.10 writes standard base64, with padding, and Entra takes it.
		return a.SHA256 == leg.Thumbprint(c.Raw) || a.SHA256 == standardBase64(leg.Thumbprint(c.Raw))
	case algorithmRS256:
		sum := sha1.Sum(c.Raw)
		return a.SHA1 == base64.RawURLEncoding.EncodeToString(sum[:])
	}
	return false
}

// standardBase64 rewrites base64url without padding (RFC 4648, 5) as standard base64 (4) of the same 32 bytes.
func standardBase64(urlSafe string) string {
	return strings.NewReplacer("-", "+", "_", "/").Replace(urlSafe) + "="
}
