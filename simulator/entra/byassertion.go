package entra

import (
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/keyagent/keyagent/simulator/internal/leg"
)

// maxAssertionLife is how long Entra lets a client assertion live.
const maxAssertionLife = 24 * time.Hour

// assertionTypes is what all values of client_assertion_type begin with.
const assertionTypes = "urn:ietf:params:oauth:client-assertion-type:"

// Assertion types without their prefix.
const (
	jwtBearer = "jwt-bearer" // RFC 7523, 2.2
	jwtPoP    = "jwt-pop"    // bound to the connection's certificate
)

// byAssertion authenticates by a client assertion: one that the client has signed, or a token of an issuer that the application
// trusts. The latter have a URL for their issuer.
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

// privateKeyJWT authenticates by an assertion that a registered key has signed (OpenID Connect Core 1.0, 9). Over mutual TLS
// the connection must be by the same key, and the assertion must say so with x5c.
func (s *Server) privateKeyJWT(r *request, app *Application, a *assertion, kind string) (*client, error) {
	r.flow(flowCertificate)
	if r.bound() {
		return nil, refuse(http.StatusBadRequest, "invalid_request", 90023, "The parameter 'client_assertion' does not belong into this request: the connection's certificate is the credential of a bound token.")
	}
	if err := s.checkSignature(app, a); err != nil {
		return nil, err
	}
	if err := s.checkClaims(r, app, a); err != nil {
		return nil, err
	}
	if err := s.checkTransport(r, a, kind); err != nil {
		return nil, err
	}
	if !s.firstUse(app.ClientID, a) {
		return nil, refuse(http.StatusUnauthorized, "invalid_client", 50027, "Invalid JWT token: its jti has been used before.")
	}
	return app.client(r, flowCertificate), nil
}

// checkSignature checks that a certificate registered for the application has signed.
func (s *Server) checkSignature(app *Application, a *assertion) error {
	notRegistered := func(why string) error {
		return refuse(http.StatusUnauthorized, "invalid_client", 700027, "Client assertion failed signature validation: %s. Application '%s'.", why, app.ClientID)
	}
	if a.Type != "JWT" || (a.Algorithm != algorithmPS256 && a.Algorithm != algorithmRS256) {
		return refuse(http.StatusUnauthorized, "invalid_client", 50027, "Invalid JWT token: typ must be JWT, and alg PS256 or RS256.")
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
	return s.checkLife(certificate)
}

// checkClaims checks what a private_key_jwt must say.
func (s *Server) checkClaims(r *request, app *Application, a *assertion) error {
	c := a.claims
	switch {
	case !strings.EqualFold(c.Issuer, app.ClientID) || c.Subject != c.Issuer:
		return refuse(http.StatusUnauthorized, "invalid_client", 700021, "Client assertion application identifier doesn't match 'client_id' parameter.")
	case len(c.Audience) != 1 || c.Audience[0] != r.endpoint:
		return refuse(http.StatusUnauthorized, "invalid_client", 700023, "Client assertion audience claim does not match Realm issuer: want '%s'.", r.endpoint)
	case c.ID == "":
		return refuse(http.StatusUnauthorized, "invalid_client", 50027, "Invalid JWT token: it has no jti.")
	case c.NotBefore == nil || c.Expiry == nil:
		return refuse(http.StatusUnauthorized, "invalid_client", 50027, "Invalid JWT token: nbf and exp must be numbers.")
	case *c.Expiry-*c.NotBefore > maxAssertionLife.Seconds():
		return outsideValidity()
	}
	return s.checkTime(c)
}

// checkTime checks that now is from nbf, if there is one, to exp.
func (s *Server) checkTime(c assertionClaims) error {
	now := float64(s.cfg.Now().UnixMilli()) / 1000
	if c.Expiry == nil || math.IsInf(*c.Expiry, 0) || now > *c.Expiry || (c.NotBefore != nil && now < *c.NotBefore) {
		return outsideValidity()
	}
	return nil
}

func outsideValidity() error {
	return refuse(http.StatusUnauthorized, "invalid_client", 700024, "Client assertion is not within its valid time range.")
}

// checkTransport checks that an assertion over mutual TLS is by the connection's key.
func (s *Server) checkTransport(r *request, a *assertion, kind string) error {
	switch {
	case kind != jwtBearer:
		return certificateMismatch("An assertion of type jwt-pop must be bound to a certificate.")
	case !r.mtls:
		return nil
	case len(a.chain) == 0:
		return refuse(http.StatusUnauthorized, "invalid_client", 700027, "Client assertion over mutual TLS has no x5c.")
	case !r.isBoundTo(leg.Thumbprint(a.chain[0].Raw)):
		return certificateMismatch("The client assertion is by another certificate than that of the TLS connection.")
	}
	return s.checkConnection(r.certificate)
}

func certificateMismatch(description string) error {
	return refuse(http.StatusBadRequest, "invalid_request", 500181, "CertificateValidationFailedTlsCertMismatch: %s", description)
}

// firstUse notes the assertion's jti until it expires, and reports whether it is new.
func (s *Server) firstUse(clientID string, a *assertion) bool {
	now := s.cfg.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, expiry := range s.used {
		if now.After(expiry) {
			delete(s.used, key)
		}
	}
	key := clientID + " " + a.claims.ID
	if _, ok := s.used[key]; ok {
		return false
	}
	s.used[key] = time.Unix(int64(*a.claims.Expiry)+1, 0)
	return true
}
