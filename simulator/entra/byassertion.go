package entra

import (
	"crypto/x509"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/keyagent/keyagent/simulator/internal/endpoint"
)

// assertionSkew is how far a client's clock may be off for its assertion. Microsoft does not
// publish Entra's; five minutes is what Microsoft's own libraries allow that validate tokens
// (Microsoft.IdentityModel, ClockSkew). MSAL for JavaScript rounds nbf up by as much as half a
// second, so that there must be some.
const assertionSkew = 5 * time.Minute

// assertionTypes is what all values of client_assertion_type begin with.
const assertionTypes = "urn:ietf:params:oauth:client-assertion-type:"

// Assertion types without their prefix.
const (
	jwtBearer = "jwt-bearer" // RFC 7523, 2.2
	jwtPoP    = "jwt-pop"    // bound to the connection's certificate
)

// byAssertion authenticates by a client assertion: one that the client has signed, or a token of an
// issuer that the application trusts. The latter have a URL for their issuer.
func (s *Server) byAssertion(r *request, app *Application) (*client, error) {
	kind, ok := strings.CutPrefix(r.form["client_assertion_type"], assertionTypes)
	if !ok || (kind != jwtBearer && kind != jwtPoP) {
		return nil, refuse(http.StatusBadRequest, "invalid_request", 900144, "The request body must contain the parameter 'client_assertion_type' with a supported value.")
	}
	a, err := parseAssertion(r.form["client_assertion"])
	if err != nil {
		return nil, refuse(http.StatusUnauthorized, "invalid_client", 50027, "Invalid JWT token: %v.", err)
	}
	r.entry.Set("assertion", a.describe())
	if strings.HasPrefix(a.claims.Issuer, "https://") {
		return s.federated(r, app, a, kind)
	}
	return s.privateKeyJWT(r, app, a, kind)
}

// privateKeyJWT authenticates by an assertion that a registered key has signed (OpenID Connect Core
// 1.0, 9). Over mutual TLS the connection must be by the same key. A certificate that is trusted by
// subject and issuer is known by x5c only.
func (s *Server) privateKeyJWT(r *request, app *Application, a *assertion, kind string) (*client, error) {
	r.flow(flowCertificate)
	if r.bound() {
		return nil, refuse(http.StatusBadRequest, "invalid_request", 90023, "The parameter 'client_assertion' does not belong into this request: the connection's certificate is the credential of a bound token.")
	}
	certificate, err := s.checkSignature(app, a)
	if err != nil {
		return nil, err
	}
	if err := s.checkClaims(r, app, a); err != nil {
		return nil, err
	}
	if err := s.checkTransport(r, app, certificate, kind); err != nil {
		return nil, err
	}
	return app.client(r, flowCertificate), nil
}

// checkSignature returns the certificate, registered for the application, whose key has signed.
func (s *Server) checkSignature(app *Application, a *assertion) (*x509.Certificate, error) {
	notRegistered := func(why string) (*x509.Certificate, error) {
		return nil, refuse(http.StatusUnauthorized, "invalid_client", codeNotRegistered, "Client assertion failed signature validation: %s. Application '%s'.", why, app.ClientID)
	}
	if a.Type != "JWT" || (a.Algorithm != algorithmPS256 && a.Algorithm != algorithmRS256) {
		return nil, refuse(http.StatusUnauthorized, "invalid_client", 50027, "Invalid JWT token: typ must be JWT, and alg PS256 or RS256.")
	}
	certificate := app.certificateOf(a)
	switch {
	case certificate == nil:
		return notRegistered("the key was not found by the thumbprint in the header (x5t#S256 for PS256, x5t for RS256)")
	case len(a.chain) > 0 && !a.chain[0].Equal(certificate):
		return notRegistered("x5c does not begin with the certificate of the thumbprint")
	case a.verify(certificate) != nil:
		return notRegistered("the signature is invalid")
	}
	s.meet(certificate)
	return certificate, s.checkLife(certificate)
}

// checkClaims checks what a private_key_jwt must say. RFC 7523, 3 demands iss, sub, aud and exp,
// and no more. There is no limit on its life ("Microsoft Entra ID does not place restrictions on
// the exp time currently": Microsoft identity platform, certificate credentials), and it may come
// again: MSAL for JavaScript and for Python use one until it expires.
func (s *Server) checkClaims(r *request, app *Application, a *assertion) error {
	c := a.claims
	switch {
	case !strings.EqualFold(c.Issuer, app.ClientID) || c.Subject != c.Issuer:
		return refuse(http.StatusUnauthorized, "invalid_client", 700021, "Client assertion application identifier doesn't match 'client_id' parameter.")
	case !slices.ContainsFunc(c.Audience, func(audience string) bool { return s.isAudience(r, audience) }):
		return refuse(http.StatusUnauthorized, "invalid_client", 700023, "Client assertion audience claim does not match Realm issuer: want '%s'.", r.endpoint)
	case c.Expiry == nil:
		return refuse(http.StatusUnauthorized, "invalid_client", 50027, "Invalid JWT token: it has no exp.")
	}
	return s.checkTime(c)
}

// isAudience says whether an assertion for audience is meant for the face that r came to. That is
// the tenant's token endpoint under any name of the login face, since a client need not know under
// which name it asks (MSAL for JavaScript names the global host to a regional one, and the login
// host to that for mutual TLS), or its issuer, which the description of AADSTS700023 speaks of;
// over mutual TLS, under a name of that face, too. No client is known to show login an assertion
// that it made for mutual TLS; that it is refused is assumed.
func (s *Server) isAudience(r *request, audience string) bool {
	u, err := url.Parse(audience)
	if err != nil || u.Scheme != "https" || u.User != nil {
		return false
	}
	base := "https://" + u.Host
	login := base == s.cfg.LoginURL || isOneOf(u.Host, LoginNames())
	if mtls := base == s.cfg.MTLSURL || isOneOf(u.Host, MTLSNames()); !login && (!r.mtls || !mtls) {
		return false
	}
	tenant, rest, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	return tenant == s.cfg.TenantID && (isTokenPath(rest) || rest == "v2.0")
}

// checkTime checks that now is from nbf, if there is one, to exp.
func (s *Server) checkTime(c assertionClaims) error {
	now := float64(s.cfg.Now().UnixMilli()) / 1000
	skew := assertionSkew.Seconds()
	if c.Expiry == nil || now > float64(*c.Expiry)+skew || (c.NotBefore != nil && now < float64(*c.NotBefore)-skew) {
		return outsideValidity()
	}
	return nil
}

func outsideValidity() error {
	return refuse(http.StatusUnauthorized, "invalid_client", 700024, "Client assertion is not within its valid time range.")
}

// checkTransport checks that an assertion over mutual TLS, signed by certificate's key, is by the
// connection's key.
func (s *Server) checkTransport(r *request, app *Application, certificate *x509.Certificate, kind string) error {
	switch {
	case kind != jwtBearer:
		return certificateMismatch("An assertion of type jwt-pop must be bound to a certificate.")
	case !r.mtls:
		return nil
	case !r.isBoundTo(endpoint.Thumbprint(certificate.Raw)):
		return certificateMismatch("The client assertion is by another certificate than that of the TLS connection.")
	}
	if err := app.checkTrust(certificate); err != nil {
		return err
	}
	return s.checkConnection(r.certificate)
}

func certificateMismatch(description string) error {
	return refuse(http.StatusBadRequest, "invalid_request", 500181, "CertificateValidationFailedTlsCertMismatch: %s", description)
}
