package imds

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/internal/upstream"
)

const legToken = "token"

// TokenRequest asks for a Bearer token (MSI v1).
type TokenRequest struct {
	Resource    string // resource URI, not a scope
	BypassCache bool   // ask for a new token, not one that IMDS has kept
}

// Token is a Bearer token that IMDS obtained from Entra. No key of this machine had a
// part in it.
type Token struct {
	AccessToken secret.String
	ExpiresIn   time.Duration // from the moment of the answer
	RefreshIn   time.Duration // 0 if IMDS gave none, which is usual
	ClientID    string        // GUID of the identity; empty if nothing told it
}

// Token asks for a token by MSI v1. It blocks for as long as the retry schedule takes;
// see the package comment.
func (c *Client) Token(ctx context.Context, sel Selector, req TokenRequest) (*Token, error) {
	if req.Resource == "" {
		return nil, fmt.Errorf("IMDS %s: no resource to ask for", legToken)
	}
	query := sel.query("msi_res_id")
	query.Set("api-version", "2018-02-01")
	query.Set("resource", req.Resource)
	if req.BypassCache {
		query.Set("bypass_cache", "true")
	}
	var wire tokenAnswer
	r := request{leg: legToken, path: "/metadata/identity/oauth2/token", query: query}
	if err := c.call(ctx, r, pauses, &wire); err != nil {
		return nil, err
	}
	token, err := wire.token(sel, c.now())
	if err != nil {
		return nil, fmt.Errorf("IMDS %s: %w: %w", legToken, ErrBadAnswer, err)
	}
	return token, nil
}

// tokenAnswer is the wire form. Of the two expiries each client of IMDS reads another
// one; it gives both.
type tokenAnswer struct {
	TokenType   string   `json:"token_type"`
	AccessToken string   `json:"access_token"`
	ClientID    string   `json:"client_id"`
	ExpiresIn   *decimal `json:"expires_in"` // seconds left
	ExpiresOn   *decimal `json:"expires_on"` // Unix seconds
	RefreshIn   decimal  `json:"refresh_in"` // seconds left
}

// decimal accepts a decimal string, as IMDS writes all its numbers, or a JSON number.
type decimal int64

func (d *decimal) UnmarshalJSON(b []byte) error {
	n, err := strconv.ParseInt(strings.Trim(string(b), `"`), 10, 64)
	if err != nil || n < 0 {
		return errors.New("not a decimal number")
	}
	*d = decimal(n)
	return nil
}

func (a tokenAnswer) token(sel Selector, now time.Time) (*Token, error) {
	switch {
	case a.AccessToken == "":
		return nil, errors.New("no access_token")
	case !strings.EqualFold(a.TokenType, "Bearer"):
		return nil, fmt.Errorf("token_type %q, not Bearer", upstream.Text(a.TokenType))
	}
	life, err := a.life(now)
	if err != nil {
		return nil, err
	}
	clientID, err := a.identity(sel)
	if err != nil {
		return nil, err
	}
	refresh := time.Duration(0)
	if seconds := int64(a.RefreshIn); seconds < int64(life/time.Second) {
		refresh = time.Duration(seconds) * time.Second
	}
	return &Token{secret.New(a.AccessToken), life, refresh, clientID}, nil
}

// maxLifetime is far above what Entra issues and far below what overflows.
const maxLifetime = 7 * 24 * time.Hour

// life prefers the relative expiry, which needs no agreement of clocks.
func (a tokenAnswer) life(now time.Time) (time.Duration, error) {
	var seconds int64
	switch {
	case a.ExpiresIn != nil:
		seconds = int64(*a.ExpiresIn)
	case a.ExpiresOn != nil:
		seconds = int64(*a.ExpiresOn) - now.Unix()
	default:
		return 0, errors.New("neither expires_in nor expires_on")
	}
	if seconds <= 0 || seconds > int64(maxLifetime/time.Second) {
		return 0, fmt.Errorf("the token expires in %d seconds", seconds)
	}
	return time.Duration(seconds) * time.Second, nil
}

// identity returns whose token it is. What the answer says and what Entra wrote into
// the token must be the client id that was asked for: whoever stands in IMDS' place can
// write the one, not the other.
func (a tokenAnswer) identity(sel Selector) (string, error) {
	written := a.written()
	for _, id := range []string{a.ClientID, written} {
		if id == "" {
			continue
		}
		if len(id) != 36 || uuid.Validate(id) != nil {
			return "", fmt.Errorf("client id %q is not a GUID", upstream.Text(id))
		}
		if err := checkAsked(sel, id); err != nil {
			return "", err
		}
	}
	id := cmp.Or(a.ClientID, written)
	if id == "" && sel.ClientID != "" {
		return "", errors.New("neither answer nor token tells whose token it is")
	}
	return id, nil
}

// written returns the client id inside the token, "" if the token is opaque to us.
func (a tokenAnswer) written() string {
	var claims struct {
		AppID string `json:"appid"` // token version 1.0
		AZP   string `json:"azp"`   // token version 2.0
	}
	if upstream.UnverifiedClaims(a.AccessToken, &claims) != nil {
		return ""
	}
	return cmp.Or(claims.AppID, claims.AZP)
}
