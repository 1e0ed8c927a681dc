package entra

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/keyagent/keyagent/internal/secret"
)

// AssertionType is the form field client_assertion_type.
type AssertionType string

// Types of client assertions.
const (
	// AssertionBearer: it can be used by any sender (RFC 7523, 2.2).
	AssertionBearer AssertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
	// AssertionPoP: it is bound to the client certificate of the connection.
	AssertionPoP AssertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-pop"
)

// Values of Request.TokenType.
const (
	TokenTypeBearer = "bearer"
	TokenTypePoP    = "mtls_pop" // bound to the client certificate (RFC 8705, 3)
)

// Request is a token request of the client credentials grant. The flows differ in what they fill in
// besides Endpoint, ClientID and Scope:
//
//	flow                               TokenType  Assertion        AssertionType    on TLS
//	managed identity (MSI v2)          bearer     -                -                certificate
//	managed identity, bound            mtls_pop   -                -                certificate
//	app certificate, classic           -          private_key_jwt  AssertionBearer  -
//	app certificate, Bearer over mTLS  -          private_key_jwt  AssertionBearer  certificate
//	the same without assertion         -          -                -                certificate
//	app certificate, bound token       mtls_pop   -                -                certificate
//	exchange                           -          bound token      AssertionPoP     the token's
//	exchange, bound token              mtls_pop   bound token      AssertionPoP     the token's
//	exchange without certificate       -          token            AssertionBearer  -
//
// The exchange is the second request of a federated credential: its assertion is the token that the
// assertion request obtained. client_info and req_cnf are never sent.
type Request struct {
	Endpoint  string // URL of the token endpoint, see [Authority] and [ManagedIdentityEndpoint]
	ClientID  string // GUID
	Scope     string // see [Scope] and [ManagedIdentityScope]
	TokenType string // TokenTypeBearer, TokenTypePoP, or empty: the field is left out and the answer is a Bearer token

	// Assertion authenticates the client. AssertionType belongs to it.
	Assertion     secret.String
	AssertionType AssertionType
	// Sign, if set, makes the assertion for each attempt: Entra accepts an assertion that the
	// client signs itself only once.
	Sign func() (secret.String, error)

	Claims string // JSON for the form field claims, see [MergeClaims]; optional

	// Thumbprint is x5t#S256 of the connection's client certificate (RFC 8705, 3.1). It is not
	// sent; a mtls_pop token in the answer must be bound to it.
	Thumbprint string
}

// defaultScope is the suffix of a scope that asks for all permissions that were granted.
const defaultScope = "/.default"

// Scope makes the scope of a resource URI. A trailing slash stays: "https://r/" has the scope
// "https://r//.default", and Entra writes "https://r/" into the token, which some resources require
// (Microsoft identity platform, "Scopes and permissions", trailing slash and /.default).
func Scope(resource string) string {
	if strings.HasSuffix(resource, defaultScope) {
		return resource
	}
	return resource + defaultScope
}

// ManagedIdentityScope is [Scope] for a managed identity (MSI v2). Microsoft's clients leave out a
// trailing slash of the resource there (MSAL.NET, ManagedIdentity/V2); no client is known that
// sends it.
func ManagedIdentityScope(resource string) string {
	return Scope(strings.TrimSuffix(resource, "/"))
}

// check refuses requests that no token endpoint accepts, and one for a bound token whose binding
// could not be checked.
func (r Request) check() error {
	switch {
	case r.Endpoint == "" || r.ClientID == "" || r.Scope == "":
		return errors.New("token request without endpoint, client id or scope")
	case r.TokenType != "" && r.TokenType != TokenTypeBearer && r.TokenType != TokenTypePoP:
		return fmt.Errorf("token request for unknown token type %q", r.TokenType)
	case r.TokenType == TokenTypePoP && r.Thumbprint == "":
		return errors.New("token request for a bound token without the certificate that it is to be bound to")
	case (r.Assertion.IsZero() && r.Sign == nil) != (r.AssertionType == ""):
		return errors.New("token request with half an assertion: type and value belong together")
	}
	return nil
}

func (r Request) form() url.Values {
	form := url.Values{
		"grant_type": {"client_credentials"},
		"client_id":  {r.ClientID},
		"scope":      {r.Scope},
	}
	for name, value := range map[string]string{
		"token_type":            r.TokenType,
		"client_assertion":      r.Assertion.Reveal(),
		"client_assertion_type": string(r.AssertionType),
		"claims":                r.Claims,
	} {
		if value != "" {
			form.Set(name, value)
		}
	}
	return form
}
