package entra

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/go-jose/go-jose/v4/jwt"
)

// Algorithms of client assertions that are signed with a certificate's key.
const (
	algorithmPS256 = "PS256"
	algorithmRS256 = "RS256"
)

// assertion is a client assertion (RFC 7523) taken apart. Nothing of it is verified.
type assertion struct {
	header
	claims      assertionClaims
	headerNames []string
	chain       []*x509.Certificate // x5c
	compact     string              // all of it; a secret
	signed      string              // what the signature is over
	signature   []byte
}

// header is the part of a JOSE header (RFC 7515, 4.1) that counts here.
type header struct {
	Algorithm string          `json:"alg"`
	Type      string          `json:"typ"`
	SHA1      string          `json:"x5t"`
	SHA256    string          `json:"x5t#S256"`
	Chain     json.RawMessage `json:"x5c"`
	Critical  json.RawMessage `json:"crit"`
}

// assertionClaims are the claims that count here.
type assertionClaims struct {
	Issuer    string       `json:"iss"`
	Subject   string       `json:"sub"`
	Audience  jwt.Audience `json:"aud"`
	NotBefore *numericDate `json:"nbf"`
	Expiry    *numericDate `json:"exp"`

	Confirmation *confirmation `json:"cnf"`
}

// numericDate is a time in seconds since 1970. RFC 7519, 2 makes it a JSON number; MSAL.NET writes
// a string, and Entra takes it.
type numericDate float64

// UnmarshalJSON implements json.Unmarshaler.
func (d *numericDate) UnmarshalJSON(data []byte) error {
	text := string(data)
	if unquoted, err := strconv.Unquote(text); err == nil {
		text = unquoted
	}
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(seconds) || math.IsInf(seconds, 0) {
		return errors.New("not a number of seconds")
	}
	*d = numericDate(seconds)
	return nil
}

// confirmation binds a token to a certificate (RFC 8705, 3.1).
type confirmation struct {
	Thumbprint string `json:"x5t#S256"`
}

// parseAssertion reads a JWS in compact serialization (RFC 7515, 7.1) whose payload is a claims
// set.
func parseAssertion(compact string) (*assertion, error) {
	parts := strings.Split(compact, ".")
	if len(parts) != 3 {
		return nil, errors.New("it is not a signed JWT in compact serialization")
	}
	a := &assertion{compact: compact, signed: parts[0] + "." + parts[1]}
	var err error
	if a.headerNames, err = decodePart(parts[0], &a.header); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	if _, err = decodePart(parts[1], &a.claims); err != nil {
		return nil, fmt.Errorf("claims: %w", err)
	}
	if a.signature, err = base64.RawURLEncoding.Strict().DecodeString(parts[2]); err != nil {
		return nil, errors.New("the signature is not base64url")
	}
	if a.Critical != nil {
		return nil, errors.New("its header has critical extensions")
	}
	a.chain, err = parseChain(a.Chain)
	return a, err
}

// memberNames are the members that parseAssertion knows. Package json would take them in any letter
// case, and Entra does not.
func memberNames() []string {
	return []string{"alg", "typ", "x5t", "x5t#S256", "x5c", "crit", "iss", "sub", "aud", "nbf", "exp", "cnf"}
}

// decodePart decodes a part of a JWT and returns the names of its members. Errors do not repeat it.
func decodePart(part string, into any) ([]string, error) {
	data, err := base64.RawURLEncoding.Strict().DecodeString(part)
	var members map[string]json.RawMessage
	if err != nil || json.Unmarshal(data, &members) != nil || json.Unmarshal(data, into) != nil {
		return nil, errors.New("not base64url of a JSON object with members of the right type")
	}
	for name := range members {
		for _, known := range memberNames() {
			if name != known && strings.EqualFold(name, known) {
				return nil, fmt.Errorf("%s is not spelt so", known)
			}
		}
	}
	return slices.Sorted(maps.Keys(members)), nil
}

// parseChain reads x5c: an array of certificates in base64, leaf first (RFC 7515, 4.1.6), or the
// leaf alone as a string, as MSAL.NET writes it.
func parseChain(x5c json.RawMessage) ([]*x509.Certificate, error) {
	if x5c == nil {
		return nil, nil
	}
	var encoded []string
	var leaf string
	if json.Unmarshal(x5c, &leaf) == nil {
		encoded = []string{leaf}
	} else if json.Unmarshal(x5c, &encoded) != nil {
		return nil, errors.New("x5c is not a list of strings")
	}
	var chain []*x509.Certificate
	for _, text := range encoded {
		der, err := base64.StdEncoding.Strict().DecodeString(text)
		if err != nil {
			return nil, errors.New("x5c is not base64")
		}
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, errors.New("x5c holds something else than certificates")
		}
		chain = append(chain, certificate)
	}
	if len(chain) == 0 {
		return nil, errors.New("x5c is empty")
	}
	return chain, nil
}

// verify checks the signature with the key of a certificate (RFC 7518, 3.3 and 3.5).
func (a *assertion) verify(certificate *x509.Certificate) error {
	key, ok := certificate.PublicKey.(*rsa.PublicKey)
	if !ok {
		return errors.New("the registered key is not an RSA key")
	}
	digest := sha256.Sum256([]byte(a.signed))
	if a.Algorithm == algorithmPS256 {
		return rsa.VerifyPSS(key, crypto.SHA256, digest[:], a.signature, &rsa.PSSOptions{SaltLength: sha256.Size})
	}
	return rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], a.signature)
}

// thumbprint is that of the certificate which the assertion is bound to, or "".
func (a *assertion) thumbprint() string {
	if a.claims.Confirmation == nil {
		return ""
	}
	return a.claims.Confirmation.Thumbprint
}

// describe is what the journal may know of the assertion.
func (a *assertion) describe() map[string]any {
	return map[string]any{
		"alg": a.Algorithm, "headers": a.headerNames, "aud": []string(a.claims.Audience),
		"has_cnf": a.claims.Confirmation != nil, "x5c_count": len(a.chain),
	}
}
