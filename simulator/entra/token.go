package entra

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"

	"github.com/keyagent/keyagent/simulator/internal/endpoint"
	"github.com/keyagent/keyagent/simulator/journal"
)

// tokenResponse is a token endpoint's answer (RFC 6749, 5.1, with Entra's additions). The times are
// in seconds, as numbers.
type tokenResponse struct {
	TokenType    string `json:"token_type"`
	ExpiresIn    int64  `json:"expires_in"`
	ExtExpiresIn int64  `json:"ext_expires_in"`
	RefreshIn    int64  `json:"refresh_in"`
	AccessToken  string `json:"access_token"`
}

func (f *face) serveToken(w http.ResponseWriter, r *http.Request, e *journal.Entry) {
	noteHeaders(r, e)
	reply, err := f.token(w, r, e)
	if err != nil {
		f.writeRefusal(w, r, e, err)
		return
	}
	setHeaders(w, r)
	endpoint.WriteJSON(w, http.StatusOK, reply)
}

// setHeaders sets what every answer has, and returns the server's own id of the request.
func setHeaders(w http.ResponseWriter, r *http.Request) string {
	requestID := uuid.NewString()
	w.Header().Set("x-ms-request-id", requestID)
	w.Header().Set("Pragma", "no-cache")
	if id := r.Header.Get("client-request-id"); id != "" && strings.EqualFold(r.Header.Get("return-client-request-id"), "true") {
		w.Header().Set("client-request-id", id)
	}
	return requestID
}

func (f *face) writeRefusal(w http.ResponseWriter, r *http.Request, e *journal.Entry, err error) {
	refused := asRefusal(err)
	e.Error = refused.Error()
	e.Set("error_codes", []int{refused.code})
	requestID := setHeaders(w, r)
	endpoint.WriteJSON(w, refused.status, refused.body(f.cfg.Now(), requestID, r.Header.Get("client-request-id")))
}

// token answers a token request: the form, then the client, then the resource, as Entra's errors
// suggest it goes.
func (f *face) token(w http.ResponseWriter, r *http.Request, e *journal.Entry) (*tokenResponse, error) {
	if tenant := strings.Split(r.URL.Path, "/")[1]; tenant != f.cfg.TenantID {
		return nil, refuse(http.StatusBadRequest, "invalid_request", 90002, "Tenant '%.40s' not found.", tenant)
	}
	form, err := readForm(w, r, e)
	if err != nil {
		return nil, err
	}
	req := &request{form: form, mtls: f.mtls, certificate: f.clientCertificate(r), endpoint: f.baseOf(r) + r.URL.Path, entry: e}
	c, err := f.authenticate(req)
	if err != nil {
		return nil, err
	}
	return f.grant(req, c)
}

// grant issues what the authenticated client asks for.
func (s *Server) grant(r *request, c *client) (*tokenResponse, error) {
	claims, err := r.readClaims()
	if err != nil {
		return nil, err
	}
	resource, err := s.resource(r.scopes(c.flow), c.flow)
	if err != nil {
		return nil, err
	}
	if err := s.checkBoundAllowed(r, resource); err != nil {
		return nil, err
	}
	token := accessClaims{AppID: c.id, ObjectID: c.objectID, ResourceID: c.resourceID, Capabilities: claims.capabilities, Contexts: claims.contexts}
	tokenType := "Bearer"
	if r.bound() {
		tokenType = "mtls_pop"
	}
	if r.bound() || (c.flow == flowFederated && r.mtls && s.tenantPolicy().BoundBearer) {
		token.bind(endpoint.Thumbprint(c.binding.Raw))
	}
	access, err := s.issue(token, resource)
	if err != nil {
		return nil, err
	}
	seconds := int64(s.cfg.TokenLife/time.Second) - 1
	return &tokenResponse{TokenType: tokenType, ExpiresIn: seconds, ExtExpiresIn: seconds, RefreshIn: seconds / 2, AccessToken: access}, nil
}

// resource finds the resource that the scope asks for.
func (s *Server) resource(scopes []string, flow string) (string, error) {
	scope := strings.Join(scopes, " ")
	resource, ok := strings.CutSuffix(scope, "/.default")
	if !ok || strings.Contains(scope, " ") {
		return "", refuse(http.StatusBadRequest, "invalid_scope", 1002012, "The provided value for scope %.200s is not valid. Client credential flows must have a scope value with /.default suffixed to the resource identifier.", scope)
	}
	if !s.hasResource(resource, flow) {
		return "", s.noResource(resource)
	}
	return resource, nil
}

// hasResource reports whether a flow may ask for a resource. Applications may write a slash behind
// it: Microsoft's own resources are known by both names, and the token's aud is the one that was
// asked for (Microsoft identity platform, "Scopes and permissions", trailing slash and /.default).
// No client is known to send one for a managed identity.
func (s *Server) hasResource(resource, flow string) bool {
	if resource == TokenExchange || slices.Contains(s.cfg.Resources, resource) {
		return true
	}
	return flow != flowManagedIdentity && slices.Contains(s.cfg.Resources, strings.TrimSuffix(resource, "/"))
}

func (s *Server) noResource(resource string) error {
	return refuse(http.StatusBadRequest, "invalid_resource", 500011, "The resource principal named %.200s was not found in the tenant named %s.", resource, s.cfg.TenantID)
}

func (s *Server) checkBoundAllowed(r *request, resource string) error {
	switch {
	case !r.bound():
		return nil
	case s.tenantPolicy().DenyBound:
		return refuse(http.StatusBadRequest, "invalid_request", 3921996, "The tenant '%s' is not eligible for certificate-bound tokens.", s.cfg.TenantID)
	case slices.Contains(s.cfg.BearerOnly, strings.TrimSuffix(resource, "/")):
		return refuse(http.StatusBadRequest, "invalid_request", 392196, "MtlsClientPopTokenNotSupportedByResource: The resource does not support certificate-bound tokens. Request token_type 'bearer'.")
	}
	return nil
}

// accessClaims are the claims of an access token beyond the registered ones (Entra, version 1.0,
// application token).
type accessClaims struct {
	jwt.Claims
	Audience         string         `json:"aud"` // Entra writes one string, not an array
	AppID            string         `json:"appid"`
	AuthorizedParty  string         `json:"azp"`
	AppAuthContext   string         `json:"appidacr"` // "2": the client authenticated with a certificate
	IdentityProvider string         `json:"idp"`
	TokenKind        string         `json:"idtyp"`
	ObjectID         string         `json:"oid"`
	TenantID         string         `json:"tid"`
	ResourceID       string         `json:"xms_mirid,omitempty"`
	UniqueID         string         `json:"uti"`
	Version          string         `json:"ver"`
	Capabilities     []string       `json:"xms_cc,omitempty"`
	Contexts         []string       `json:"acrs,omitempty"`
	Confirmation     *confirmation  `json:"cnf,omitempty"`
	TokenBinding     map[string]any `json:"xms_tb,omitempty"`
}

// bind binds the token to a certificate (RFC 8705, 3.1).
func (c *accessClaims) bind(thumbprint string) {
	c.Confirmation = &confirmation{thumbprint}
	c.TokenBinding = map[string]any{"method": "mtls"}
}

// issue fills in what tokens have in common and signs. Tokens for TokenExchange are of version 2.0,
// as only that one's issuer can be named by a federated credential.
func (s *Server) issue(claims accessClaims, audience string) (string, error) {
	now := s.cfg.Now()
	issuer, version := s.Issuer(), "1.0"
	if audience == TokenExchange {
		issuer, version = s.FederationIssuer(), "2.0"
	}
	claims.Claims = jwt.Claims{
		Issuer:    issuer,
		Subject:   claims.ObjectID,
		IssuedAt:  jwt.NewNumericDate(now),
		NotBefore: jwt.NewNumericDate(now),
		Expiry:    jwt.NewNumericDate(now.Add(s.cfg.TokenLife)),
	}
	claims.Audience, claims.Version = audience, version
	claims.AuthorizedParty, claims.AppAuthContext, claims.TokenKind = claims.AppID, "2", "app"
	claims.IdentityProvider, claims.TenantID, claims.UniqueID = issuer, s.cfg.TenantID, uuid.NewString()
	token, err := jwt.Signed(s.signer).Claims(claims).Serialize()
	if err != nil {
		return "", fmt.Errorf("signing the access token: %w", err)
	}
	return token, nil
}

// ManagedIdentityToken is what the instance metadata service gets for a managed identity of the VM:
// a Bearer token, whose aud claim is resource as it is written, with or without trailing slash, and
// its life.
func (s *Server) ManagedIdentityToken(clientID, resource string) (string, time.Duration, error) {
	at := slices.IndexFunc(s.cfg.Principals, func(p Principal) bool { return p.ClientID == clientID })
	if at < 0 {
		return "", 0, refuse(http.StatusBadRequest, "unauthorized_client", 700016, "Application with identifier '%.40s' was not found in the directory '%s'.", clientID, s.cfg.TenantID)
	}
	if !s.hasResource(strings.TrimSuffix(resource, "/"), flowManagedIdentity) {
		return "", 0, s.noResource(resource)
	}
	p := s.cfg.Principals[at]
	token, err := s.issue(accessClaims{AppID: p.ClientID, ObjectID: p.ObjectID, ResourceID: p.ResourceID}, resource)
	return token, s.cfg.TokenLife, err
}
