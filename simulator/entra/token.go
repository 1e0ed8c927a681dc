package entra

import (
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"

	"github.com/keyagent/keyagent/simulator/internal/leg"
	"github.com/keyagent/keyagent/simulator/journal"
)

// maxFormBytes is far above any form of this flow.
const maxFormBytes = 64 << 10

// tokenResponse is a token endpoint's answer (RFC 6749, 5.1, with Entra's additions). The times are in seconds, as numbers.
type tokenResponse struct {
	TokenType    string `json:"token_type"`
	ExpiresIn    int64  `json:"expires_in"`
	ExtExpiresIn int64  `json:"ext_expires_in"`
	RefreshIn    int64  `json:"refresh_in"`
	AccessToken  string `json:"access_token"`
}

func (s *Server) serveToken(w http.ResponseWriter, r *http.Request, e *journal.Entry) {
	requestID := s.setHeaders(w, r)
	reply, err := s.token(w, r, e)
	if err != nil {
		refused := asRefusal(err)
		e.Error = refused.Error()
		e.Set("error_codes", []int{refused.code})
		leg.WriteJSON(w, refused.status, refused.body(s.cfg.Now(), requestID, r.Header.Get("client-request-id")))
		return
	}
	leg.WriteJSON(w, http.StatusOK, reply)
}

// setHeaders sets what every answer has, and returns the server's own id of the request.
func (s *Server) setHeaders(w http.ResponseWriter, r *http.Request) string {
	requestID := uuid.NewString()
	w.Header().Set("x-ms-request-id", requestID)
	w.Header().Set("Pragma", "no-cache")
	if id := r.Header.Get("client-request-id"); id != "" && strings.EqualFold(r.Header.Get("return-client-request-id"), "true") {
		w.Header().Set("client-request-id", id)
	}
	return requestID
}

// token answers a token request: the form, then the client, then the resource, as Entra's errors suggest it goes.
func (s *Server) token(w http.ResponseWriter, r *http.Request, e *journal.Entry) (*tokenResponse, error) {
	if tenant := strings.Split(r.URL.Path, "/")[1]; tenant != s.cfg.TenantID {
		return nil, refuse(http.StatusBadRequest, "invalid_request", 90002, "Tenant '%s' not found.", tenant)
	}
	form, err := readForm(w, r)
	if err != nil {
		return nil, err
	}
	e.Set("client_id", form.Get("client_id"))
	e.Set("scope", form.Get("scope"))
	principal, err := s.authenticate(r.TLS, form.Get("client_id"))
	if err != nil {
		return nil, err
	}
	resource, err := s.resource(form.Get("scope"))
	if err != nil {
		return nil, err
	}
	access, err := s.issue(principal, resource)
	if err != nil {
		return nil, err
	}
	seconds := int64(s.cfg.TokenLife/time.Second) - 1
	return &tokenResponse{TokenType: "Bearer", ExpiresIn: seconds, ExtExpiresIn: seconds, RefreshIn: seconds / 2, AccessToken: access}, nil
}

// readForm reads the request and checks that it is a managed identity's request for a Bearer token, and nothing else.
func readForm(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	if r.Method != http.MethodPost {
		return nil, refuse(http.StatusBadRequest, "invalid_request", 900561, "The endpoint only accepts POST requests. Received a %s request.", r.Method)
	}
	mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || mediaType != "application/x-www-form-urlencoded" {
		return nil, refuse(http.StatusBadRequest, "invalid_request", 900144, "The request body must be of type application/x-www-form-urlencoded.")
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxFormBytes)
	if err := r.ParseForm(); err != nil || r.URL.RawQuery != "" {
		return nil, refuse(http.StatusBadRequest, "invalid_request", 900144, "The request body cannot be read, or the request has a query.")
	}
	return r.PostForm, checkForm(r.PostForm)
}

// checkForm wants each field of the flow exactly once, the optional ones at most once, and no others.
func checkForm(form url.Values) error {
	for _, name := range []string{"grant_type", "client_id", "scope", "token_type"} {
		if len(form[name]) != 1 || form.Get(name) == "" {
			return refuse(http.StatusBadRequest, "invalid_request", 900144, "The request body must contain the following parameter once: '%s'.", name)
		}
	}
	known := []string{"grant_type", "client_id", "scope", "token_type", "claims", "client_info"}
	for name, values := range form {
		if !slices.Contains(known, name) || len(values) != 1 {
			return refuse(http.StatusBadRequest, "invalid_request", 90023, "The parameter '%.40s' does not belong into this request.", name)
		}
	}
	if form.Get("grant_type") != "client_credentials" {
		return refuse(http.StatusBadRequest, "unsupported_grant_type", 70003, "The app requested an unsupported grant type '%.40s'.", form.Get("grant_type"))
	}
	if form.Get("token_type") != "bearer" {
		return refuse(http.StatusBadRequest, "invalid_request", 392196, "The resource does not support certificate-bound tokens. Request token_type 'bearer'.")
	}
	return nil
}

// resource finds the resource that scope asks for.
func (s *Server) resource(scope string) (string, error) {
	resource, ok := strings.CutSuffix(scope, "/.default")
	if !ok || strings.Contains(scope, " ") {
		return "", refuse(http.StatusBadRequest, "invalid_scope", 1002012, "The provided value for scope %.200s is not valid. Client credential flows must have a scope value with /.default suffixed to the resource identifier.", scope)
	}
	if !slices.Contains(s.cfg.Resources, resource) {
		return "", refuse(http.StatusBadRequest, "invalid_resource", 500011, "The resource principal named %.200s was not found in the tenant named %s.", resource, s.cfg.TenantID)
	}
	return resource, nil
}

// accessClaims are the claims of an access token beyond the registered ones (Entra, version 1.0, application token).
type accessClaims struct {
	jwt.Claims
	AppID            string `json:"appid"`
	AuthorizedParty  string `json:"azp"`
	AppAuthContext   string `json:"appidacr"` // "2": the client authenticated with a certificate
	IdentityProvider string `json:"idp"`
	TokenKind        string `json:"idtyp"`
	ObjectID         string `json:"oid"`
	TenantID         string `json:"tid"`
	ResourceID       string `json:"xms_mirid"`
	UniqueID         string `json:"uti"`
	Version          string `json:"ver"`
}

func (s *Server) issue(p *Principal, resource string) (string, error) {
	now := s.cfg.Now()
	claims := accessClaims{
		Claims: jwt.Claims{
			Issuer:    s.Issuer(),
			Subject:   p.ObjectID,
			IssuedAt:  jwt.NewNumericDate(now),
			NotBefore: jwt.NewNumericDate(now),
			Expiry:    jwt.NewNumericDate(now.Add(s.cfg.TokenLife)),
		},
		AppID: p.ClientID, AuthorizedParty: p.ClientID, AppAuthContext: "2", IdentityProvider: s.Issuer(), TokenKind: "app",
		ObjectID: p.ObjectID, TenantID: s.cfg.TenantID, ResourceID: p.ResourceID, UniqueID: uuid.NewString(), Version: "1.0",
	}
	audience := struct {
		Audience string `json:"aud"` // Entra writes one string, not an array
	}{resource}
	token, err := jwt.Signed(s.signer).Claims(claims).Claims(audience).Serialize()
	if err != nil {
		return "", fmt.Errorf("signing the access token: %w", err)
	}
	return token, nil
}

func (s *Server) serveKeys(w http.ResponseWriter, _ *http.Request, _ *journal.Entry) {
	leg.WriteJSON(w, http.StatusOK, s.keys)
}

func serveUnknown(w http.ResponseWriter, _ *http.Request, _ *journal.Entry) {
	leg.WriteJSON(w, http.StatusNotFound, map[string]string{"error": "not_found"})
}
