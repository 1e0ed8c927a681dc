package entra

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
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
	// is a hint for caches and logs: the token's signature was not checked.
	Confirmation string
}

// maxLifetime is far above what Entra issues and far below what overflows.
const maxLifetime = 7 * 24 * time.Hour

// parseToken reads the token, its type and its life. Nothing else is needed.
func parseToken(body []byte, r Request) (*TokenResponse, error) {
	answer, err := readToken(body, r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadAnswer, err)
	}
	return answer, nil
}

func readToken(body []byte, r Request) (*TokenResponse, error) {
	answer, err := upstream.ParseMembers(body)
	if err != nil {
		return nil, err
	}
	token, err := answer.Text("access_token")
	if err != nil {
		return nil, err
	}
	kind, err := answer.Text("token_type")
	if err != nil {
		return nil, err
	}
	want := tokenTypeAnswered(r.TokenType)
	if !strings.EqualFold(kind, want) {
		return nil, fmt.Errorf("token_type %q where %q was asked for", upstream.Text(kind), want)
	}
	expires, err := seconds(answer, "expires_in")
	if err != nil {
		return nil, err
	}
	thumbprint, err := confirmation(token)
	if want == TokenTypePoP {
		if err := checkBinding(thumbprint, err, r.Thumbprint); err != nil {
			return nil, err
		}
	}
	t := &TokenResponse{AccessToken: secret.New(token), TokenType: want, ExpiresIn: expires, Confirmation: thumbprint}
	t.ExtExpiresIn, _ = seconds(answer, "ext_expires_in") // each may be missing
	t.RefreshIn, _ = seconds(answer, "refresh_in")
	return t, nil
}

// seconds returns a duration that is not 0.
func seconds(answer upstream.Members, name string) (time.Duration, error) {
	n, err := answer.Number(name)
	if err != nil {
		return 0, err
	}
	if n <= 0 || n > int64(maxLifetime/time.Second) {
		return 0, fmt.Errorf("%s is %d seconds, want 1 to %d", name, n, int64(maxLifetime/time.Second))
	}
	return time.Duration(n) * time.Second, nil
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

// checkBinding compares a token's thumbprint with that of the connection. err is the error of
// reading it.
func checkBinding(thumbprint string, err error, want string) error {
	if err != nil {
		return fmt.Errorf("mtls_pop token: %w", err)
	}
	if subtle.ConstantTimeCompare([]byte(thumbprint), []byte(want)) != 1 {
		return errors.New("mtls_pop token: it is bound to another certificate than the connection's")
	}
	return nil
}
