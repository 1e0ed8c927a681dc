package token

import (
	"bytes"
	"encoding/base64"
	"errors"
	"math"
	"regexp"
	"strings"
	"time"

	"github.com/keyagent/keyagent/attest/internal/strictjson"
	"github.com/keyagent/keyagent/internal/secret"
)

// maxKept is how long a token is used at most, whatever end it states: an issuer's keys and rules
// change.
const maxKept = 24 * time.Hour

// compact is the form of a signed JWT (RFC 7515, 7.1): three parts, none of them empty.
var compact = regexp.MustCompile(`^([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+$`)

// readToken reads what a program has written: one signed JWT that has not expired, and at most one
// end of line after it. The signature is its recipient's to verify. Errors do not show the token.
func readToken(output []byte, now time.Time) (secret.String, time.Time, error) {
	text := string(bytes.TrimSuffix(bytes.TrimSuffix(output, []byte("\n")), []byte("\r")))
	parts := compact.FindStringSubmatch(text)
	if parts == nil {
		return secret.String{}, time.Time{}, errors.New("its output is not one signed JWT in compact form, on one line")
	}
	var header struct {
		Algorithm string `json:"alg"`
	}
	var claims struct {
		Expires *float64 `json:"exp"`
	}
	if err := errors.Join(readPart(parts[1], &header), readPart(parts[2], &claims)); err != nil {
		return secret.String{}, time.Time{}, errors.New("its output is not a JWT: header or claims are not JSON that can be understood in one way only")
	}
	if header.Algorithm == "" || strings.EqualFold(header.Algorithm, "none") {
		return secret.String{}, time.Time{}, errors.New("the JWT is not signed")
	}
	if claims.Expires == nil || math.Abs(*claims.Expires) > math.MaxUint32 {
		return secret.String{}, time.Time{}, errors.New("the JWT does not say when it expires (exp)")
	}
	expires := time.Unix(int64(*claims.Expires), 0)
	if !now.Before(expires) {
		return secret.String{}, time.Time{}, errors.New("the JWT has expired already, at " + expires.UTC().Format(time.RFC3339) + ": is this machine's clock right?")
	}
	if latest := now.Add(maxKept); expires.After(latest) {
		expires = latest
	}
	return secret.New(text), expires, nil
}

func readPart(part string, into any) error {
	text, err := base64.RawURLEncoding.Strict().DecodeString(part)
	if err != nil {
		return err
	}
	return strictjson.UnmarshalOpen(text, into)
}
