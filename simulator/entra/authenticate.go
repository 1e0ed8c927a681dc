package entra

import (
	"crypto/x509"
	"net/http"
	"slices"
	"strings"

	"github.com/keyagent/keyagent/simulator/internal/endpoint"
	"github.com/keyagent/keyagent/simulator/journal"
	"github.com/keyagent/keyagent/simulator/pki"
)

// Flows, as the journal names them.
const (
	flowManagedIdentity = "managed_identity"
	flowCertificate     = "certificate"
	flowFederated       = "federated"
)

// request is a token request whose form has the fields of some flow.
type request struct {
	form        map[string]string
	mtls        bool              // came over the mutual-TLS face
	certificate *x509.Certificate // of the TLS connection, or nil
	endpoint    string            // URL that was asked
	entry       *journal.Entry
}

// client is the authenticated client of a request.
type client struct {
	id         string
	objectID   string
	resourceID string            // of a managed identity
	binding    *x509.Certificate // what its tokens may be bound to, or nil
	flow       string
}

// bound says whether the request asks for a certificate-bound token.
func (r *request) bound() bool { return r.form["token_type"] == "mtls_pop" }

func (r *request) has(field string) bool { _, ok := r.form[field]; return ok }

// flow notes which flow the request is taken for.
func (r *request) flow(name string) { r.entry.Set("flow", name) }

// authenticate finds the client of a request. What the directory knows of it decides on the flow.
func (s *Server) authenticate(r *request) (*client, error) {
	id := r.form["client_id"]
	at := slices.IndexFunc(s.cfg.Principals, func(p Principal) bool { return strings.EqualFold(p.ClientID, id) })
	if at >= 0 {
		return s.managedIdentity(r, s.cfg.Principals[at])
	}
	if app := s.application(id); app != nil {
		return s.applicationClient(r, app)
	}
	return nil, refuse(http.StatusBadRequest, "unauthorized_client", 700016, "Application with identifier '%.40s' was not found in the directory '%s'.", id, s.cfg.TenantID)
}

// managedIdentity authenticates by the binding certificate of the connection alone.
func (s *Server) managedIdentity(r *request, p Principal) (*client, error) {
	r.flow(flowManagedIdentity)
	if err := r.without("client_assertion", "client_assertion_type", "client_secret"); err != nil {
		return nil, err
	}
	switch r.form["token_type"] {
	case "", "bearer", "mtls_pop":
	default:
		return nil, refuse(http.StatusBadRequest, "invalid_request", 90023, "The token_type '%.20s' is not supported.", r.form["token_type"])
	}
	if r.certificate == nil {
		return nil, noCredential()
	}
	if err := s.checkBindingCertificate(r.certificate); err != nil {
		return nil, err
	}
	if r.certificate.Subject.CommonName != p.ClientID {
		return nil, refuse(http.StatusUnauthorized, "invalid_client", 700027, "The client certificate is not registered for application '%s': it was issued to '%.40s'.", p.ClientID, r.certificate.Subject.CommonName)
	}
	return &client{p.ClientID, p.ObjectID, p.ResourceID, r.certificate, flowManagedIdentity}, nil
}

// checkBindingCertificate checks that the managed identity issuer issued certificate for client
// authentication, and that it still counts.
func (s *Server) checkBindingCertificate(certificate *x509.Certificate) error {
	if err := certificate.CheckSignatureFrom(s.cfg.Issuer); err != nil || certificate.Issuer.String() != s.cfg.Issuer.Subject.String() {
		return refuse(http.StatusUnauthorized, "invalid_client", 7000277, "The client certificate was not issued by %s.", pki.IdentityIssuerName)
	}
	if certificate.IsCA || !slices.Contains(certificate.ExtKeyUsage, x509.ExtKeyUsageClientAuth) || certificate.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return refuse(http.StatusUnauthorized, "invalid_client", 7000277, "The client certificate is not one for client authentication.")
	}
	return s.checkLife(certificate)
}

// applicationClient authenticates by what the request brings: an assertion, the connection's
// certificate, or both.
func (s *Server) applicationClient(r *request, app *Application) (*client, error) {
	switch tokenType := r.form["token_type"]; {
	case tokenType != "" && tokenType != "bearer" && (!r.mtls || !r.bound()): // there is nothing here that it could be bound to
		return nil, refuse(http.StatusBadRequest, "invalid_request", 90023, "The token_type '%.20s' is not supported for this client on this endpoint.", tokenType)
	case r.has("client_secret") && r.has("client_assertion"):
		return nil, r.without("client_secret")
	case r.has("client_secret"):
		return nil, refuse(http.StatusUnauthorized, "invalid_client", 7000215, "Invalid client secret provided.")
	case r.mtls && !app.MTLSEnabled:
		return nil, app.mtlsDisabled()
	case r.has("client_assertion"):
		return s.byAssertion(r, app)
	case r.has("client_assertion_type"):
		return nil, missing("client_assertion")
	}
	return s.byCertificate(r, app)
}

// byCertificate authenticates by the TLS connection alone: RFC 8705, 2.
func (s *Server) byCertificate(r *request, app *Application) (*client, error) {
	if r.certificate == nil || (!r.bound() && app.AssertionOverMTLS != AssertionOptional) {
		return nil, noCredential()
	}
	r.flow(flowCertificate)
	if !app.isRegistered(r.certificate) {
		return nil, refuse(http.StatusUnauthorized, "invalid_client", codeNotRegistered, "The client certificate is not registered for application '%s'.", app.ClientID)
	}
	s.meet(r.certificate)
	if err := app.checkTrust(r.certificate); err != nil {
		return nil, err
	}
	if err := s.checkConnection(r.certificate); err != nil {
		return nil, err
	}
	return app.client(r, flowCertificate), nil
}

func (a *Application) client(r *request, flow string) *client {
	return &client{id: a.ClientID, objectID: a.ObjectID, binding: r.certificate, flow: flow}
}

// checkConnection checks a registered certificate that authenticates a TLS connection. One that
// states purposes must state this one.
func (s *Server) checkConnection(certificate *x509.Certificate) error {
	usages := certificate.ExtKeyUsage
	stated := len(usages)+len(certificate.UnknownExtKeyUsage) > 0
	if stated && !slices.Contains(usages, x509.ExtKeyUsageClientAuth) && !slices.Contains(usages, x509.ExtKeyUsageAny) {
		return refuse(http.StatusUnauthorized, "invalid_client", 7000277, "The client certificate is not one for client authentication.")
	}
	if certificate.KeyUsage != 0 && certificate.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return refuse(http.StatusUnauthorized, "invalid_client", 7000277, "The client certificate is not one for signatures.")
	}
	return s.checkLife(certificate)
}

// isBoundTo says whether the connection's certificate is the one with this thumbprint.
func (r *request) isBoundTo(thumbprint string) bool {
	return r.certificate != nil && endpoint.Thumbprint(r.certificate.Raw) == thumbprint
}
