package upstream

import (
	"encoding/base64"
	"errors"
	"strings"

	// Unlike the standard library's, this decoder takes names as they are written and
	// refuses one that comes twice.
	"github.com/go-jose/go-jose/v4/json"
)

// UnverifiedClaims decodes the claims of a JWT (RFC 7519, compact form) into out, as encoding/json
// would, but with exact names, each once. The signature is not checked: anybody may have written
// the claims. Errors do not show the token.
func UnverifiedClaims(jwt string, out any) error {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return errors.New("not a JWT")
	}
	payload, err := base64.RawURLEncoding.Strict().DecodeString(parts[1])
	if err != nil || len(payload) == 0 || payload[0] != '{' {
		return errors.New("not a JWT: no claims")
	}
	if json.Unmarshal(payload, out) != nil {
		return errors.New("not a JWT with the claims expected")
	}
	return nil
}
