package entra

import (
	"net/http"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// federated authenticates by a token of an issuer that the application trusts: RFC 7523, 3.
func (s *Server) federated(r *request, app *Application, a *assertion, kind string) (*client, error) {
	r.flow(flowFederated)
	if err := s.checkIssuer(a); err != nil {
		return nil, err
	}
	if err := s.checkTime(a.claims); err != nil {
		return nil, err
	}
	if err := app.checkFederated(a.claims); err != nil {
		return nil, err
	}
	if err := s.checkBinding(r, a, kind); err != nil {
		return nil, err
	}
	return app.client(r, flowFederated), nil
}

// checkIssuer verifies the signature with the keys of the issuer that the assertion names. The
// tenant's own keys stand for both forms of its name.
func (s *Server) checkIssuer(a *assertion) error {
	keys, ok := s.keys, true
	if a.claims.Issuer != s.FederationIssuer() && a.claims.Issuer != s.Issuer() {
		s.mu.Lock()
		keys, ok = s.external[a.claims.Issuer]
		s.mu.Unlock()
	}
	if !ok {
		return unmatched(700211, a.claims)
	}
	parsed, err := jwt.ParseSigned(a.compact, []jose.SignatureAlgorithm{jose.RS256, jose.PS256, jose.ES256})
	if err == nil {
		err = parsed.Claims(keys, &jwt.Claims{})
	}
	if err != nil {
		return refuse(http.StatusUnauthorized, "invalid_client", 700027, "Client assertion failed signature validation with the keys of its issuer.")
	}
	return nil
}

// checkFederated finds the federated credential for the assertion.
func (a *Application) checkFederated(c assertionClaims) error {
	var audience, issuer, subject bool
	for _, f := range a.Federated {
		sameAudience := len(c.Audience) == 1 && c.Audience[0] == f.Audience
		sameIssuer := sameAudience && c.Issuer == f.Issuer
		audience, issuer, subject = audience || sameAudience, issuer || sameIssuer, subject || (sameIssuer && c.Subject == f.Subject)
	}
	switch {
	case !audience:
		return refuse(http.StatusUnauthorized, "invalid_client", 70022204, "No federated credential of application '%s' matches the audience %.200q of the assertion.", a.ClientID, []string(c.Audience))
	case !issuer:
		return unmatched(700211, c)
	case !subject:
		return unmatched(700213, c)
	}
	return nil
}

// unmatched is an error with the claims that were presented: 700211 is for an issuer that does not
// match, 700213 for a subject.
func unmatched(code int, c assertionClaims) error {
	return refuse(http.StatusUnauthorized, "invalid_client", code,
		"No federated credential matches the assertion that was presented: subject '%.200s', issuer '%.200s'.", c.Subject, c.Issuer)
}

// checkBinding checks that a bound assertion came over mutual TLS with its certificate and as
// jwt-pop, and one that is not bound in neither way.
func (s *Server) checkBinding(r *request, a *assertion, kind string) error {
	bound := a.claims.Confirmation != nil
	switch {
	case bound && kind != jwtPoP:
		return certificateMismatch("An assertion that is bound to a certificate must be sent as jwt-pop.")
	case kind == jwtPoP && !bound:
		return certificateMismatch("An assertion of type jwt-pop must be bound to a certificate.")
	case bound && !r.isBoundTo(a.thumbprint()):
		return certificateMismatch("The client assertion is bound to another certificate than that of the TLS connection.")
	case !bound && r.mtls:
		return certificateMismatch("An assertion over mutual TLS must be bound to the certificate of the TLS connection.")
	case !bound:
		return nil
	}
	return s.checkConnection(r.certificate)
}
