package wire

import (
	"log/slog"
	"time"
)

// TokenResponse is the body of a successful GET [PathToken].
type TokenResponse struct {
	AccessToken Secret `json:"access_token"`
	TokenType   string `json:"token_type"` // "Bearer" or "mtls_pop"
	ExpiresIn   int64  `json:"expires_in"` // seconds from the time of the answer, rounded down
	ExpiresOn   int64  `json:"expires_on"` // Unix seconds
	NotBefore   int64  `json:"not_before"` // Unix seconds; 0: not known
	// RefreshIn is when to ask anew: seconds from the time of the answer, after which the agent has
	// another token as a rule; 0: when the token is about to expire.
	RefreshIn int64  `json:"refresh_in,omitempty"`
	Resource  string `json:"resource"`  // as asked for, without "/.default"
	Identity  string `json:"identity"`  // name in the agent's configuration
	ClientID  string `json:"client_id"` // that Entra knows the identity by

	// Credential is the name of the credential that obtained the token: "managed_identity", or that
	// of an application's entry. Bound says that it was shown over mutual TLS, and Strength how
	// well it was protected at that time: one of [Strengths].
	Credential string `json:"credential"`
	Bound      bool   `json:"bound"`
	Strength   string `json:"strength"`
	// Fallback says that a credential earlier in the list, or the bound form of this one, was
	// passed over.
	Fallback bool `json:"fallback"`
	// Binding is the certificate and TLS connection over which the token was obtained; nil if none
	// was shown.
	Binding *Binding `json:"binding,omitempty"`
}

// Expiry returns the time from which the token must not be used.
func (t TokenResponse) Expiry() time.Time { return time.Unix(t.ExpiresOn, 0) }

// LogValue implements [slog.LogValuer]: a JSON log handler would encode the struct, and with it the
// token.
func (t TokenResponse) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("identity", t.Identity),
		slog.String("resource", t.Resource),
		slog.String("token_type", t.TokenType),
		slog.Time("expires_on", t.Expiry()),
		slog.String("strength", t.Strength),
	)
}

// Binding describes a binding certificate in use.
type Binding struct {
	Thumbprint         string `json:"thumbprint"`                    // x5t#S256, base64url (RFC 8705, 3.1)
	TLSVersion         string `json:"tls_version,omitempty"`         // as in "TLS 1.3"
	SignatureAlgorithm string `json:"signature_algorithm,omitempty"` // TLS SignatureScheme as in "rsa_pss_rsae_sha256"
}

// IMDSToken is the body of a successful GET [PathIMDSToken] or [PathAppServiceToken]. SDKs differ
// in which expiry they read, so both are always there; azure-identity for Python needs Resource.
type IMDSToken struct {
	AccessToken  Secret `json:"access_token"`
	ClientID     string `json:"client_id"`
	ExpiresIn    string `json:"expires_in"`     // seconds, decimal
	ExpiresOn    string `json:"expires_on"`     // Unix seconds, decimal
	ExtExpiresIn string `json:"ext_expires_in"` // same as ExpiresIn
	NotBefore    string `json:"not_before"`     // Unix seconds, decimal
	// RefreshIn is in how many seconds to ask anew; 0: when the token is about to expire. Without
	// it, programs in Go keep a token until minutes before its end, whatever its life is. It is a
	// number, since MSAL for Python adds it to one and fails with text.
	RefreshIn    int64  `json:"refresh_in,omitempty"`
	RefreshToken string `json:"refresh_token"` // always empty
	Resource     string `json:"resource"`      // as asked for
	TokenType    string `json:"token_type"`    // "Bearer"
}

// IMDSError is the body of an error of [PathIMDSToken] and [PathAppServiceToken].
type IMDSError struct {
	Error       string `json:"error"`
	Description string `json:"error_description"`
}
