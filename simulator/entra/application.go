package entra

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha1" // x5t is defined as SHA-1 (RFC 7515, 4.1.7); it finds a certificate and proves nothing
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"

	"github.com/keyagent/keyagent/simulator/internal/endpoint"
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
	MTLSEnabled       bool   `json:"mtls_enabled"`        // whether it may authenticate there at all
	MTLSRefusal       int    `json:"mtls_refusal"`        // AADSTS code where it may not: 51000, which is meant by 0, or 700027
	PlainCertificates bool   `json:"plain_certificates"`  // whether a certificate that was merely uploaded will do; otherwise AADSTS392189
	AssertionOverMTLS string `json:"assertion_over_mtls"` // for a Bearer token: AssertionRequired, which is meant by "", or AssertionOptional
}

// Refusals of an application over mutual TLS.
const (
	codeNotEnabled    = 51000
	codeNotRegistered = 700027
	codeOnlyTrusted   = 392189
)

// Values of ApplicationPolicy.AssertionOverMTLS.
const (
	AssertionRequired = "required"
	AssertionOptional = "optional"
)

// SubjectIssuer registers every certificate of one subject that an authority issues (SN/I).
type SubjectIssuer struct {
	Subject string            // common name
	Issuer  *x509.Certificate // whose key signs the certificates
}

// FederatedCredential lets a token of another issuer stand for the application. All three are
// compared exactly.
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

// RegisterCertificate adds a certificate to an application, as its owner's upload does. Its key
// must be an RSA key.
func (s *Server) RegisterCertificate(clientID string, leaf *x509.Certificate) error {
	if _, ok := leaf.PublicKey.(*rsa.PublicKey); !ok {
		return errors.New("the certificate's key is not an RSA key")
	}
	return s.change(clientID, func(a *Application) { a.Certificates = append(a.Certificates, leaf) })
}

// Trust lets an application have every certificate of a subject that an authority issues.
func (s *Server) Trust(clientID string, trusted SubjectIssuer) error {
	switch {
	case trusted.Subject == "":
		return errors.New("no subject: a common name is wanted")
	case !trusted.Issuer.IsCA:
		return fmt.Errorf("the certificate of %.80q is not an authority's", trusted.Issuer.Subject)
	}
	return s.change(clientID, func(a *Application) { a.Trusted = append(a.Trusted, trusted) })
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
	Trusted      []TrustedSubject      `json:"trusted"`
	Federated    []FederatedCredential `json:"federated"`
}

// TrustedSubject is a [SubjectIssuer] in words.
type TrustedSubject struct {
	Subject string `json:"subject"` // common name
	Issuer  string `json:"issuer"`  // RFC 2253
}

// Registration returns an application's credentials.
func (s *Server) Registration(clientID string) (Registration, error) {
	r := Registration{Certificates: []string{}, Trusted: []TrustedSubject{}, Federated: []FederatedCredential{}} // [] and not null when empty
	err := s.change(clientID, func(a *Application) {
		for _, c := range a.Certificates {
			r.Certificates = append(r.Certificates, endpoint.Thumbprint(c.Raw))
		}
		for _, t := range a.Trusted {
			r.Trusted = append(r.Trusted, TrustedSubject{t.Subject, t.Issuer.Subject.String()})
		}
		r.Federated = append(r.Federated, a.Federated...)
	})
	return r, err
}

// IsRegistered reports whether an application has the certificate with this thumbprint (x5t#S256):
// it was uploaded, or has come with a request and is trusted.
func (s *Server) IsRegistered(thumbprint string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.met[thumbprint] {
		return true
	}
	for _, app := range s.applications {
		if slices.ContainsFunc(app.Certificates, func(c *x509.Certificate) bool { return endpoint.Thumbprint(c.Raw) == thumbprint }) {
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
	if !slices.Contains([]int{0, codeNotEnabled, codeNotRegistered}, policy.MTLSRefusal) {
		return fmt.Errorf("refusal over mTLS %d, want %d or %d", policy.MTLSRefusal, codeNotEnabled, codeNotRegistered)
	}
	return s.change(clientID, func(a *Application) { a.ApplicationPolicy = policy })
}

// Federate adds a federated credential to an application. keys are those of its issuer; nil leaves
// them as they are.
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
	return slices.ContainsFunc(a.Certificates, same) || a.isTrusted(certificate)
}

// isTrusted says whether the certificate is the application's by subject and issuer.
func (a *Application) isTrusted(certificate *x509.Certificate) bool {
	return slices.ContainsFunc(a.Trusted, func(t SubjectIssuer) bool { return t.issued(certificate) })
}

// checkTrust checks that a registered certificate may authenticate a TLS connection. The source is
// what the integration tests of MSAL.NET (MtlsTransportUserFlowTests, 2026-07) and MSAL Go
// (bearer_mtls_integration_test, 2026-08) say of the service: "mTLS endpoint only supports
// SNI/federated identity". Microsoft's documentation does not have it, nor the status.
func (a *Application) checkTrust(certificate *x509.Certificate) error {
	if a.PlainCertificates || a.isTrusted(certificate) {
		return nil
	}
	return refuse(http.StatusBadRequest, "invalid_request", codeOnlyTrusted,
		"The mTLS endpoint only supports SNI/federated identity: the client certificate is not trusted by subject name and issuer for application '%s'.", a.ClientID)
}

// mtlsDisabled is the refusal of an application that may not authenticate over mutual TLS: 51000
// with the status 412 (MSAL.NET, MtlsTransportUserFlowTests), or 700027, which is seen where an
// application is not on Entra's list (microsoft-identity-web, pull request 3997).
func (a *Application) mtlsDisabled() error {
	if a.MTLSRefusal == codeNotRegistered {
		return refuse(http.StatusUnauthorized, "invalid_client", codeNotRegistered,
			"The certificate used to sign the client assertion is not registered on application '%s', or the application is not enabled for mutual TLS.", a.ClientID)
	}
	return refuse(http.StatusPreconditionFailed, "invalid_request", codeNotEnabled, "The feature MtlsClientAuth is disabled for application '%s'.", a.ClientID)
}

// meet notes a certificate that is an application's, so that it can be revoked by its thumbprint.
func (s *Server) meet(certificate *x509.Certificate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.met[endpoint.Thumbprint(certificate.Raw)] = true
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
		return a.SHA256 == endpoint.Thumbprint(c.Raw) || a.SHA256 == standardBase64(endpoint.Thumbprint(c.Raw))
	case algorithmRS256:
		sum := sha1.Sum(c.Raw)
		return a.SHA1 == base64.RawURLEncoding.EncodeToString(sum[:])
	}
	return false
}

// standardBase64 rewrites base64url without padding (RFC 4648, 5) as standard base64 (4) of the
// same 32 bytes.
func standardBase64(urlSafe string) string {
	return strings.NewReplacer("-", "+", "_", "/").Replace(urlSafe) + "="
}
