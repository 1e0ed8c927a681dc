package imds

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/internal/upstream"
)

const opToken = "token"

// TokenRequest asks for a Bearer token (MSI v1).
type TokenRequest struct {
	Resource    string // resource URI, not a scope
	BypassCache bool   // ask for a new token, not one that IMDS has kept
}

// Token is a Bearer token that IMDS obtained from Entra. No key of this machine was used for it.
type Token struct {
	AccessToken secret.String
	ExpiresIn   time.Duration // from the moment of the answer
	RefreshIn   time.Duration // 0 if IMDS gave none, which is usual
	ClientID    string        // GUID of the identity; empty if neither answer nor token says it
}

// Token requests a token by MSI v1. It blocks for as long as the retry schedule takes; see the
// package comment.
func (c *Client) Token(ctx context.Context, sel Selector, req TokenRequest) (*Token, error) {
	if req.Resource == "" {
		return nil, fmt.Errorf("IMDS %s: no resource to ask for", opToken)
	}
	query := sel.query("msi_res_id")
	query.Set("api-version", "2018-02-01")
	query.Set("resource", req.Resource)
	if req.BypassCache {
		query.Set("bypass_cache", "true")
	}
	r := request{operation: opToken, path: "/metadata/identity/oauth2/token", query: query}
	answer, err := c.call(ctx, r, pauses)
	if err != nil {
		return nil, err
	}
	token, err := readToken(answer, sel, c.now())
	if err != nil {
		return nil, badAnswer(opToken, err)
	}
	return token, nil
}

// readToken reads the token, its type, its life and its identity. Nothing else is needed.
func readToken(answer upstream.Members, sel Selector, now time.Time) (*Token, error) {
	token, err := answer.Text("access_token")
	if err != nil {
		return nil, err
	}
	kind, err := answer.Text("token_type")
	if err != nil {
		return nil, err
	}
	if !strings.EqualFold(kind, "Bearer") {
		return nil, fmt.Errorf("token_type %q, not Bearer", upstream.Text(kind))
	}
	life, err := lifeOf(answer, now)
	if err != nil {
		return nil, err
	}
	clientID, err := identity(answer, token, sel)
	if err != nil {
		return nil, err
	}
	refresh := time.Duration(0)
	if seconds, err := answer.Number("refresh_in"); err == nil && seconds > 0 && seconds < int64(life/time.Second) {
		refresh = time.Duration(seconds) * time.Second
	}
	return &Token{secret.New(token), life, refresh, clientID}, nil
}

// maxLifetime is far above what Entra issues and far below what overflows.
const maxLifetime = 7 * 24 * time.Hour

// lifeOf prefers the relative expiry, which does not depend on two clocks. Microsoft's clients
// differ in which of the two they read; IMDS gives both, and hosts other than Azure's VMs have
// given the absolute one in forms of their own.
func lifeOf(answer upstream.Members, now time.Time) (time.Duration, error) {
	seconds, errIn := answer.Number("expires_in")
	if errIn != nil {
		on, errOn := answer.Number("expires_on")
		if errOn != nil {
			return 0, fmt.Errorf("neither expires_in nor expires_on tells when the token expires: %w; %w", errIn, errOn)
		}
		seconds = on - now.Unix()
	}
	if seconds <= 0 || seconds > int64(maxLifetime/time.Second) {
		return 0, fmt.Errorf("the token expires in %d seconds", seconds)
	}
	return time.Duration(seconds) * time.Second, nil
}

// identity returns the client id of the token. What the answer says and what Entra wrote into the
// token must be the requested client id: a server in IMDS' place can write the first, but not the
// second.
func identity(answer upstream.Members, token string, sel Selector) (string, error) {
	said, _ := answer.Text("client_id") // the token may say it, too
	inside := written(token)
	if said != "" && inside != "" && !strings.EqualFold(said, inside) {
		return "", fmt.Errorf("client_id is %q, and the token is of %q", upstream.Text(said), upstream.Text(inside))
	}
	for _, id := range []string{said, inside} {
		if id == "" {
			continue
		}
		if err := checkGUID("client_id", id); err != nil {
			return "", err
		}
		if err := checkAsked(sel, id); err != nil {
			return "", err
		}
	}
	id := cmp.Or(said, inside)
	if id == "" && sel.ClientID != "" {
		return "", errors.New("neither client_id nor the token names the identity that it is of")
	}
	return id, nil
}

// written returns the client id inside the token, "" if the token cannot be read.
func written(token string) string {
	var claims struct {
		AppID string `json:"appid"` // token version 1.0
		AZP   string `json:"azp"`   // token version 2.0
	}
	if upstream.UnverifiedClaims(token, &claims) != nil {
		return ""
	}
	return cmp.Or(claims.AppID, claims.AZP)
}
