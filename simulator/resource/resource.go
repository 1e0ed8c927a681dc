package resource

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/keyagent/keyagent/simulator/internal/endpoint"
	"github.com/keyagent/keyagent/simulator/journal"
)

// Operation is the operation's name in journal and faults.
const Operation = "resource"

// clockSkew is how far the token service's clock may be off.
const clockSkew = time.Minute

// Config says which tokens the resource takes.
type Config struct {
	Audience string // URI of the API that is like Azure Key Vault
	Graph    string // URI of the API that is like Microsoft Graph, under /v1.0/; "" means none
	Issuer   string
	Keys     jose.JSONWebKeySet
	Now      func() time.Time // nil means time.Now
	Recorder endpoint.Recorder
}

// Server is the resource. It answers every path, and is safe for concurrent use.
type Server struct {
	cfg       Config
	challenge challenge
}

// New returns the resource. Serve it with TLSConfig.
func New(cfg Config) *Server {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Server{cfg: cfg}
}

// TLSConfig returns the configuration to serve with, certificate being the server's. Clients may
// show a certificate; the token says whether they must.
func TLSConfig(certificate tls.Certificate) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS12,
		Certificates:           []tls.Certificate{certificate},
		ClientAuth:             tls.RequestClientCert,
		SessionTicketsDisabled: true, // a resumed session would prove nothing
	}
}

// Challenge makes the resource refuse tokens that do not carry the claims: a JSON object as in the
// header WWW-Authenticate, with nbf, acrs or xms_cc under access_token. An object without members
// ends it.
func (s *Server) Challenge(claims string) error { return s.challenge.set(claims) }

// maxBodyBytes is how much of a request's body is read.
const maxBodyBytes = 64 << 20

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.cfg.Recorder.Handler(Operation, s.serve).ServeHTTP(w, r)
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request, e *journal.Entry) {
	a := s.api(r)
	token, err := s.token(r, a, e)
	if err != nil {
		e.Error = err.Error()
		refuse(w, a.code(err), err.Error(), fmt.Sprintf(`Bearer error="invalid_token", resource=%q`, a.audience))
		return
	}
	if claims, unmet := s.challenge.unmet(token); unmet {
		e.Error = "the token does not carry the claims that are asked for"
		refuse(w, a.unauthorized, e.Error, fmt.Sprintf(`Bearer realm="", error="insufficient_claims", claims=%q`, claims))
		return
	}
	e.Set("client_id", token.ClientID)
	// An API reads what it accepts. net/http cuts off a client that sends more after the answer.
	_, _ = io.Copy(io.Discard, io.LimitReader(r.Body, maxBodyBytes))
	endpoint.WriteJSON(w, http.StatusOK, Caller{
		ClientID: token.ClientID, ObjectID: token.ObjectID, TenantID: token.TenantID, ResourceID: token.ResourceID,
		Audience: a.audience, Expires: time.Unix(token.Expiry, 0).UTC(), Bound: token.Confirmation != nil,
	})
}

// refuse answers as Key Vault and Graph do. Clients look for the code in the message, too, in
// brackets.
func refuse(w http.ResponseWriter, code, message, header string) {
	w.Header().Set("WWW-Authenticate", header)
	endpoint.WriteJSON(w, http.StatusUnauthorized, map[string]any{
		"error": map[string]string{"code": code, "message": "[" + code + "] " + message},
	})
}

// Caller is what the token of a request says of the caller.
type Caller struct {
	ClientID   string    `json:"client_id"`
	ObjectID   string    `json:"object_id"`
	TenantID   string    `json:"tenant_id"`
	ResourceID string    `json:"resource_id"` // of the managed identity
	Audience   string    `json:"audience"`
	Expires    time.Time `json:"expires"`
	Bound      bool      `json:"bound"` // to the certificate of the connection
}

// tokenClaims are the claims that the resource looks at, beside those that package jwt checks.
type tokenClaims struct {
	ClientID     string   `json:"appid"`
	ObjectID     string   `json:"oid"`
	TenantID     string   `json:"tid"`
	ResourceID   string   `json:"xms_mirid"`
	Capabilities []string `json:"xms_cc"`
	Contexts     []string `json:"acrs"`
	NotBefore    int64    `json:"nbf"` // seconds since 1970
	Expiry       int64    `json:"exp"` // likewise
	Confirmation *struct {
		Thumbprint string `json:"x5t#S256"`
	} `json:"cnf"`
}

// Schemes of the header Authorization, in lower case as they are compared without regard to case
// (RFC 9110, 11.1).
const (
	schemeBearer = "bearer"
	schemePoP    = "mtls_pop"
)

// token verifies the request's token and, if it is bound, that it came over its certificate.
func (s *Server) token(r *http.Request, a api, e *journal.Entry) (tokenClaims, error) {
	authorization := r.Header.Values("Authorization")
	if len(authorization) != 1 {
		return tokenClaims{}, errors.New("no Authorization header, or several")
	}
	scheme, token, _ := strings.Cut(authorization[0], " ")
	scheme = strings.ToLower(scheme)
	if scheme != schemeBearer && scheme != schemePoP {
		return tokenClaims{}, fmt.Errorf("authorization scheme %.20q, want Bearer or mtls_pop", scheme)
	}
	e.Set("scheme", scheme)
	claims, err := s.verify(token, a.audience)
	if err != nil {
		return tokenClaims{}, err
	}
	return claims, claims.checkBinding(scheme, r.TLS)
}

// checkBinding compares what the token is bound to with the client certificate of the connection
// (RFC 8705, 3).
func (t tokenClaims) checkBinding(scheme string, state *tls.ConnectionState) error {
	switch {
	case t.Confirmation == nil && scheme == schemePoP:
		return errors.New("token is not bound to a certificate")
	case t.Confirmation == nil:
		return nil
	case state == nil || len(state.PeerCertificates) == 0:
		return errNoCertificate
	case endpoint.Thumbprint(state.PeerCertificates[0].Raw) != t.Confirmation.Thumbprint:
		return errOtherCertificate
	}
	return nil
}

func (s *Server) verify(token, audience string) (tokenClaims, error) {
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		return tokenClaims{}, errors.New("token is not a JWT signed with RS256")
	}
	keys := s.cfg.Keys.Key(parsed.Headers[0].KeyID)
	if len(keys) != 1 {
		return tokenClaims{}, errors.New("token is signed by an unknown key")
	}
	var registered jwt.Claims
	var own tokenClaims
	if err := parsed.Claims(keys[0].Key, &registered, &own); err != nil {
		return tokenClaims{}, errors.New("token's signature does not verify")
	}
	if registered.Expiry == nil {
		return tokenClaims{}, errors.New("token does not expire")
	}
	expected := jwt.Expected{Issuer: s.cfg.Issuer, AnyAudience: jwt.Audience{audience}, Time: s.cfg.Now()}
	if err := registered.ValidateWithLeeway(expected, clockSkew); err != nil {
		return tokenClaims{}, fmt.Errorf("token refused: %w", err)
	}
	return own, nil
}
