package acquire

import (
	"fmt"
	"slices"
	"time"

	"github.com/keyagent/keyagent/internal/secret"
)

// TokenType is the kind of access token that a caller asks for.
type TokenType string

// The token types, as Entra's form field token_type names them.
const (
	TypeBearer TokenType = "bearer"   // an ordinary Bearer token (RFC 6750)
	TypePoP    TokenType = "mtls_pop" // bound to the certificate that it was obtained with (RFC 8705, 3)
)

// Request asks for one access token.
type Request struct {
	Identity string    // name of a configured identity
	Resource string    // resource URI without "/.default", such as https://vault.azure.net; sent as it is
	Type     TokenType // "" is TypeBearer

	// ForceRefresh skips the token cache. The result replaces the cached token.
	ForceRefresh bool
	// Claims is a claims challenge of the resource, a JSON object. It is passed on to Entra, and
	// implies ForceRefresh.
	Claims string
	// Capabilities are what the program that uses the token can do, such as "cp1": handle claims
	// challenges. Each set of capabilities has its own token.
	Capabilities []string

	// Account is charged for the flight that the request causes; nil: it is not counted.
	Account Account

	// ID is what the caller calls the request, for the log of the flight that it causes; empty:
	// nothing.
	ID string
}

// Account limits the flights that one caller may cause, so that it does not use up what IMDS and
// Entra allow an identity that others use, too. Accounts are compared with ==, so an implementation
// is a pointer.
type Account interface {
	// Charge is called once before a flight starts, one ahead of need included; it is not called
	// for a token in the cache or in a flight under way. If it fails, no request is made, and the
	// caller of Token gets its error; an [*Error] needs no Identity. It must not block, and must be
	// safe for concurrent use.
	Charge() error
}

// Strength says how well the credential that obtained a token is protected. It reports facts, never
// configuration.
type Strength string

// The strengths. attested is stronger than tpm, and none is weaker than all. tpm-signed and
// software lie between tpm and none, and neither is stronger than the other: the first cannot be
// stolen from this machine, the second cannot be used by a machine in between that intercepts the
// request.
const (
	StrengthAttested Strength = "attested" // key in a TPM, certificate issued on attestation evidence
	StrengthTPM      Strength = "tpm"      // key in a TPM, without attestation evidence
	// StrengthTPMSigned: an assertion that a key in a TPM signed, sent over a connection without a
	// client certificate. There is nothing to steal on disk or in memory; a machine in between that
	// intercepts an assertion can use it for ten minutes.
	StrengthTPMSigned Strength = "tpm-signed"
	StrengthSoftware  Strength = "software" // key in process memory, and the connection proves it
	StrengthNone      Strength = "none"     // a stolen copy of the credential can be used
)

// reaches reports whether s is at least floor. An unknown strength satisfies the empty floor only.
func (s Strength) reaches(floor Strength) bool {
	switch floor {
	case "":
		return true
	case StrengthNone:
		return slices.Contains([]Strength{StrengthNone, StrengthSoftware, StrengthTPMSigned, StrengthTPM, StrengthAttested}, s)
	case StrengthSoftware:
		return slices.Contains([]Strength{StrengthSoftware, StrengthTPM, StrengthAttested}, s)
	case StrengthTPMSigned:
		return slices.Contains([]Strength{StrengthTPMSigned, StrengthTPM, StrengthAttested}, s)
	case StrengthTPM:
		return slices.Contains([]Strength{StrengthTPM, StrengthAttested}, s)
	case StrengthAttested:
		return s == StrengthAttested
	}
	return false
}

// Binding describes the certificate and the TLS connection that a token was
// obtained over.
type Binding struct {
	// Thumbprint is the certificate's x5t#S256: base64url, without padding, of
	// the SHA-256 of its DER (RFC 8705, 3.1).
	Thumbprint string
	// TLSVersion is the negotiated version, as in "TLS 1.3".
	TLSVersion string
	// SignatureAlgorithm is the TLS SignatureScheme of the client's handshake
	// signature, as in "rsa_pss_rsae_sha256" (RFC 8446, 4.2.3).
	SignatureAlgorithm string
}

// Token is an access token and what is known about it. It is immutable.
type Token struct {
	AccessToken secret.String
	TokenType   string // "Bearer" or "mtls_pop"
	NotBefore   time.Time
	ExpiresOn   time.Time
	RefreshOn   time.Time // from here on a new token is fetched ahead

	Resource   string
	Identity   string
	ClientID   string   // client id that Entra knows the identity by
	ObjectID   string   // of its service principal, if the token says it
	ResourceID string   // of a managed identity in Azure Resource Manager, if the token says it
	Credential string   // name of the credential entry that obtained it; "managed_identity" for a managed identity
	Bound      bool     // the credential was presented over mutual TLS, and is of no use without its key
	Strength   Strength // of that credential, at that time
	Fallback   bool     // an earlier entry of the list, or the bound form of this one, was passed over
	Binding    Binding
	FromCache  bool // this reply came from the cache
}

// Kind classifies an [Error] by what a caller can do about it.
type Kind string

// The kinds of errors.
const (
	// KindUnknownIdentity: no identity of that name is configured, or IMDS says
	// that the VM does not have it.
	KindUnknownIdentity Kind = "unknown_identity"
	// KindInvalidResource: Entra does not know the resource.
	KindInvalidResource Kind = "invalid_resource"
	// KindUnavailable: IMDS, attestation, Entra or the TPM could not be reached
	// or is temporarily failing. Worth a retry.
	KindUnavailable Kind = "unavailable"
	// KindThrottled: the other side asked for a pause of RetryAfter.
	KindThrottled Kind = "throttled"
	// KindRefused: the other side said no for good. A retry will not help.
	KindRefused Kind = "refused"
)

// Error is what [Acquirer.Token] returns. Its text never contains a token, an
// assertion or evidence.
type Error struct {
	Kind       Kind
	Identity   string
	Hint       string        // what to do next, for the operator; may be empty
	RetryAfter time.Duration // for KindUnavailable and KindThrottled; 0 means unknown
	Claims     string        // a claims challenge of Entra, JSON, to be passed on; empty as a rule
	Err        error
}

func (e *Error) Error() string {
	return fmt.Sprintf("acquiring a token for identity %q: %v", e.Identity, e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// ForOperator reports whether Hint is for the operator of the agent rather than for the program
// that asked for the token.
func (e *Error) ForOperator() bool {
	switch e.Kind {
	case KindInvalidResource, KindThrottled:
		return false
	}
	return e.Hint != "" && e.Hint != hintLater && e.Claims == "" && !verdictOf(e.Err).hintsAtRequest()
}
