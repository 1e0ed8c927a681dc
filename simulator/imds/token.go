package imds

import (
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/keyagent/keyagent/simulator/journal"
)

// tokenVersion is the first version of the managed identity v1 interface, and the one that is
// documented. Programs send others, such as the newest one of the instance metadata (HashiCorp
// Vault: 2021-05-01), and get the same answer.
const tokenVersion = "2018-02-01"

// isTokenVersion takes every date from tokenVersion on.
func isTokenVersion(version string) bool {
	_, err := time.Parse(time.DateOnly, version)
	return err == nil && version >= tokenVersion
}

// cachedToken is an access token that IMDS has got for an identity.
type cachedToken struct {
	text      string
	notBefore time.Time
	expires   time.Time
}

// staleAt is when IMDS gets another one: at half its life, as callers are to have some left.
func (t cachedToken) staleAt() time.Time { return t.notBefore.Add(t.expires.Sub(t.notBefore) / 2) }

// tokenResponse is the answer of managed identity v1. All values are JSON strings.
type tokenResponse struct {
	AccessToken  string `json:"access_token"`
	ClientID     string `json:"client_id"`
	ExpiresIn    string `json:"expires_in"` // seconds
	ExpiresOn    string `json:"expires_on"` // seconds since 1970
	ExtExpiresIn string `json:"ext_expires_in"`
	NotBefore    string `json:"not_before"` // seconds since 1970
	RefreshToken string `json:"refresh_token"`
	Resource     string `json:"resource"`
	TokenType    string `json:"token_type"`
}

// accessToken is managed identity v1: IMDS itself talks to Entra and hands out a Bearer token.
func (s *Server) accessToken(r *http.Request, e *journal.Entry) (any, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, refuse("query cannot be read")
	}
	if v := query["api-version"]; len(v) != 1 || !isTokenVersion(v[0]) {
		return nil, refuse("api-version must be a date, %s or later", tokenVersion)
	}
	if v := query["resource"]; len(v) != 1 || v[0] == "" {
		return nil, refuse("Required audience parameter not specified")
	}
	id, err := s.selected(query, "msi_res_id")
	if err != nil {
		return nil, err
	}
	resource, bypass := query.Get("resource"), query.Get("bypass_cache") == "true"
	e.Set("client_id", id.ClientID)
	e.Set("resource", resource)
	e.Set("bypass_cache", bypass)
	token, err := s.cachedToken(id.ClientID, resource, bypass)
	if err != nil {
		return nil, &refusal{status: http.StatusBadRequest, code: "invalid_resource", description: err.Error()}
	}
	return s.tokenAnswer(token, id, resource), nil
}

func (s *Server) tokenAnswer(token cachedToken, id *Identity, resource string) tokenResponse {
	left := strconv.FormatInt(int64(token.expires.Sub(s.cfg.Now())/time.Second), 10)
	return tokenResponse{
		AccessToken: token.text, ClientID: id.ClientID, TokenType: "Bearer", Resource: resource,
		ExpiresIn: left, ExtExpiresIn: left,
		ExpiresOn: strconv.FormatInt(token.expires.Unix(), 10), NotBefore: strconv.FormatInt(token.notBefore.Unix(), 10),
	}
}

// cachedToken returns the token that is there already, unless it is old or to be bypassed.
func (s *Server) cachedToken(clientID, resource string, bypass bool) (cachedToken, error) {
	now, key := s.cfg.Now(), clientID+" "+resource
	s.mu.Lock()
	defer s.mu.Unlock()
	if token, ok := s.tokens[key]; ok && !bypass && now.Before(token.staleAt()) {
		return token, nil
	}
	text, life, err := s.cfg.Token(clientID, resource)
	if err != nil {
		return cachedToken{}, err
	}
	token := cachedToken{text, now, now.Add(life)}
	s.tokens[key] = token
	return token, nil
}
