package entra

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/internal/upstream"
)

// TokenResponse is a 200 answer that passed the checks.
type TokenResponse struct {
	AccessToken  secret.String
	TokenType    string        // "Bearer" or "mtls_pop"
	ExpiresIn    time.Duration // from the moment of the answer
	ExtExpiresIn time.Duration // what Entra allows while it is down; 0 if it gave none
	RefreshIn    time.Duration // 0 if Entra gave none

	// Confirmation is the thumbprint x5t#S256 of the certificate that the token says
	// it is bound to (RFC 8705, 3.1); empty if it says nothing. Of a Bearer token it
	// is a hint for caches and logs: nobody checked the token's signature.
	Confirmation string
}

// seconds accepts a JSON number or a decimal string, as Entra's answers have
// carried both.
type seconds time.Duration

// maxLifetime is far above what Entra issues and far below what overflows.
const maxLifetime = 7 * 24 * time.Hour

func (s *seconds) UnmarshalJSON(b []byte) error {
	n, err := strconv.ParseInt(strings.Trim(string(b), `"`), 10, 64)
	if err != nil || n < 0 || n > int64(maxLifetime/time.Second) {
		return errors.New("not a number of seconds")
	}
	*s = seconds(time.Duration(n) * time.Second)
	return nil
}

func parseToken(body []byte, r Request) (*TokenResponse, error) {
	var wire struct {
		TokenType    string  `json:"token_type"`
		AccessToken  string  `json:"access_token"`
		ExpiresIn    seconds `json:"expires_in"`
		ExtExpiresIn seconds `json:"ext_expires_in"`
		RefreshIn    seconds `json:"refresh_in"`
	}
	want := tokenTypeAnswered(r.TokenType)
	switch err := json.Unmarshal(body, &wire); {
	case err != nil:
		return nil, fmt.Errorf("%w: not the JSON expected", ErrBadAnswer)
	case wire.AccessToken == "":
		return nil, fmt.Errorf("%w: no access_token", ErrBadAnswer)
	case !strings.EqualFold(wire.TokenType, want):
		return nil, fmt.Errorf("%w: token_type %q where %q was asked for", ErrBadAnswer, upstream.Text(wire.TokenType), want)
	case wire.ExpiresIn == 0:
		return nil, fmt.Errorf("%w: no expires_in", ErrBadAnswer)
	}
	thumbprint, err := confirmation(wire.AccessToken)
	if want == TokenTypePoP {
		if err := checkBinding(thumbprint, err, r.Thumbprint); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrBadAnswer, err)
		}
	}
	return &TokenResponse{
		AccessToken:  secret.New(wire.AccessToken),
		TokenType:    want,
		ExpiresIn:    time.Duration(wire.ExpiresIn),
		ExtExpiresIn: time.Duration(wire.ExtExpiresIn),
		RefreshIn:    time.Duration(wire.RefreshIn),
		Confirmation: thumbprint,
	}, nil
}

func tokenTypeAnswered(asked string) string {
	if asked == TokenTypePoP {
		return TokenTypePoP
	}
	return "Bearer"
}

// confirmation reads the thumbprint from a token. Only the resource can check the
// token's signature; to the client a token may be opaque.
func confirmation(token string) (string, error) {
	var claims struct {
		Confirmation struct {
			Thumbprint string `json:"x5t#S256"`
		} `json:"cnf"`
	}
	if err := upstream.UnverifiedClaims(token, &claims); err != nil {
		return "", err
	}
	thumbprint := claims.Confirmation.Thumbprint
	if sum, err := base64.RawURLEncoding.Strict().DecodeString(thumbprint); err != nil || len(sum) != sha256.Size {
		return "", errors.New("it names no certificate (cnf, x5t#S256)")
	}
	return thumbprint, nil
}

// checkBinding takes err as what became of reading thumbprint.
func checkBinding(thumbprint string, err error, want string) error {
	if err != nil {
		return fmt.Errorf("mtls_pop token: %w", err)
	}
	if subtle.ConstantTimeCompare([]byte(thumbprint), []byte(want)) != 1 {
		return errors.New("mtls_pop token: it is bound to another certificate than the connection's")
	}
	return nil
}
