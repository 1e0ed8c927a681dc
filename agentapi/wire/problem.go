package wire

import (
	"maps"
	"net/http"
	"slices"
)

// Problem is the body of every error of the native API (RFC 9457). Programs decide on Code; Detail
// and Hint are for people.
type Problem struct {
	Type   string `json:"type"`   // URI of the code's documentation
	Title  string `json:"title"`  // the same for every problem of a code
	Status int    `json:"status"` // HTTP status
	Code   Code   `json:"code"`

	Detail string `json:"detail,omitempty"` // what happened this time
	Hint   string `json:"hint,omitempty"`   // what to do next
	Field  string `json:"field,omitempty"`  // parameter or header at fault
	// Identity is the configured identity that the problem is about.
	Identity string `json:"identity,omitempty"`
	// Claims is a claims challenge of Entra, a JSON object, with CodeClaimsRequired: a program
	// passes it on to where it can be met.
	Claims string `json:"claims,omitempty"`
	// Reasons, with CodeNotReady, is why the agent is not ready, a sentence each.
	Reasons []string `json:"reasons,omitempty"`
	// RetryAfter repeats the Retry-After header: seconds to wait; 0 when waiting will not help.
	RetryAfter int64 `json:"retry_after,omitempty"`
	// RequestID repeats the [HeaderRequestID] header, to find the request in the agent's audit.
	RequestID string `json:"request_id,omitempty"`
}

// Code names a kind of problem for programs. The set may grow; a code never changes its meaning.
type Code string

// The codes. Their HTTP statuses are those of [Code.Status].
const (
	// CodeMissingParameter: Field is required and absent.
	CodeMissingParameter Code = "missing_parameter"
	// CodeInvalidParameter: Field is unknown, malformed, or given twice.
	CodeInvalidParameter Code = "invalid_parameter"
	// CodeAmbiguousIdentity: no identity was named and several are granted; Detail lists them.
	CodeAmbiguousIdentity Code = "ambiguous_identity"
	// CodeRefusedHeader: header Field marks a request of a browser or of a proxy, which has no
	// business at this socket.
	CodeRefusedHeader Code = "refused_header"
	// CodeUnexpectedBody: the request must not have a body.
	CodeUnexpectedBody Code = "unexpected_body"
	// CodeInvalidResource: Entra does not know the resource.
	CodeInvalidResource Code = "invalid_resource"

	// CodeCallerNotAllowed: no rule names the calling process.
	CodeCallerNotAllowed Code = "caller_not_allowed"
	// CodeNotAllowed: the caller is known, but no rule gives it this identity, resource and token
	// type, or lets it skip the cache. Whether the identity exists is not told.
	CodeNotAllowed Code = "not_allowed"
	// CodeSecretRefused: the secret of a program is missing, or not for this caller.
	CodeSecretRefused Code = "secret_refused"
	// CodeAdminOnly: only an administrator of the agent may do this.
	CodeAdminOnly Code = "admin_only"
	// CodeIdentityNotFound: a rule gives the caller this identity, but the virtual machine does not
	// have it.
	CodeIdentityNotFound Code = "identity_not_found"

	// CodeNotHandshake: the message to be signed is none that a TLS client signs.
	CodeNotHandshake Code = "not_a_handshake"
	// CodeBindingChanged: the identity has another certificate by now; ask for it, and make the
	// handshake with that one.
	CodeBindingChanged Code = "binding_changed"

	// CodeNoEvidence: this machine cannot prove where the key is, or its proof would not be
	// accepted by the machine itself. Only an operator can change that.
	CodeNoEvidence Code = "no_evidence"

	CodeNotFound         Code = "not_found"          // no such path
	CodeNotConfigured    Code = "not_configured"     // the path exists, and the configuration does not turn it on
	CodeMethodNotAllowed Code = "method_not_allowed" // the path exists; see the Allow header

	// CodeThrottled: the platform asked for a pause, or the caller has asked for too many tokens
	// that were not in memory; see RetryAfter.
	CodeThrottled Code = "throttled"
	// CodeUnavailable: TPM, IMDS, attestation or Entra is down or slow; retry after RetryAfter.
	CodeUnavailable Code = "unavailable"
	// CodeAuditUnavailable: the configuration wants each token on record, and the record cannot be
	// written; retry after RetryAfter.
	CodeAuditUnavailable Code = "audit_unavailable"
	// CodeNotReady: the agent is not ready, as its status has it; Reasons says why.
	CodeNotReady Code = "not_ready"
	// CodeTooManyConnections: the caller's user holds too many connections, or all users together
	// that are known by a group only.
	CodeTooManyConnections Code = "too_many_connections"
	// CodeCredentialRefused: the platform refused the agent's credential for good. Only an operator
	// can change that.
	CodeCredentialRefused Code = "credential_refused"
	// CodeClaimsRequired: Entra's policies want more than the credential says; Claims is what.
	CodeClaimsRequired Code = "claims_required"
	// CodeUpgradeRefused: the request wants its connection to speak another protocol, such as
	// WebSocket, which is not passed on.
	CodeUpgradeRefused Code = "upgrade_refused"
	// CodeResourceUnreachable: the agent could not make the request to the resource, or got no
	// answer that it could pass on.
	CodeResourceUnreachable Code = "resource_unreachable"
	// CodeResourceTimeout: nothing was sent or received for too long.
	CodeResourceTimeout Code = "resource_timeout"
	// CodeInternal: a fault of the agent; its log says more.
	CodeInternal Code = "internal"
)

var problems = map[Code]struct {
	status int
	title  string
}{
	CodeMissingParameter:  {http.StatusBadRequest, "A required parameter is missing"},
	CodeInvalidParameter:  {http.StatusBadRequest, "A parameter is not valid"},
	CodeAmbiguousIdentity: {http.StatusBadRequest, "Several identities are possible"},
	CodeRefusedHeader:     {http.StatusBadRequest, "Requests of browsers and proxies are refused"},
	CodeUnexpectedBody:    {http.StatusBadRequest, "The request must not have a body"},
	CodeInvalidResource:   {http.StatusBadRequest, "The resource is not known"},

	CodeNotHandshake:   {http.StatusBadRequest, "This is not what a TLS client signs"},
	CodeBindingChanged: {http.StatusConflict, "The identity has another certificate"},

	CodeCallerNotAllowed: {http.StatusForbidden, "The caller is not named by any rule"},
	CodeNotAllowed:       {http.StatusForbidden, "No rule allows this"},
	CodeSecretRefused:    {http.StatusForbidden, "The secret is not valid for the caller"},
	CodeAdminOnly:        {http.StatusForbidden, "Only an administrator may do this"},
	CodeIdentityNotFound: {http.StatusForbidden, "The virtual machine does not have the identity"},

	CodeClaimsRequired: {http.StatusForbidden, "Entra demands more claims"},

	CodeNoEvidence: {http.StatusNotImplemented, "There is no evidence of the key"},

	CodeNotFound:         {http.StatusNotFound, "There is no such path"},
	CodeNotConfigured:    {http.StatusNotFound, "The configuration does not turn this on"},
	CodeMethodNotAllowed: {http.StatusMethodNotAllowed, "The path does not take this method"},

	CodeThrottled:           {http.StatusTooManyRequests, "A pause is needed"},
	CodeUnavailable:         {http.StatusServiceUnavailable, "The identity is not available at the moment"},
	CodeAuditUnavailable:    {http.StatusServiceUnavailable, "The audit record cannot be written"},
	CodeNotReady:            {http.StatusServiceUnavailable, "The agent is not ready"},
	CodeTooManyConnections:  {http.StatusServiceUnavailable, "Too many connections"},
	CodeCredentialRefused:   {http.StatusBadGateway, "The platform refused the agent's credential"},
	CodeUpgradeRefused:      {http.StatusBadRequest, "Connections cannot be upgraded"},
	CodeResourceUnreachable: {http.StatusBadGateway, "The resource could not be called"},
	CodeResourceTimeout:     {http.StatusGatewayTimeout, "The resource was silent for too long"},
	CodeInternal:            {http.StatusInternalServerError, "The agent failed"},
}

// problemTypes is the document that explains the codes.
const problemTypes = "https://github.com/keyagent/keyagent/blob/main/agentapi/wire/openapi.yaml#"

// NewProblem returns a problem of a code with the title and status that all problems of that code
// share. An unknown code becomes [CodeInternal].
func NewProblem(code Code, detail string) Problem {
	p, ok := problems[code]
	if !ok {
		code, p = CodeInternal, problems[CodeInternal]
	}
	return Problem{
		Type:   problemTypes + string(code),
		Title:  p.title,
		Status: p.status,
		Code:   code,
		Detail: detail,
	}
}

// Status returns the HTTP status of the code in the native API.
func (c Code) Status() int { return NewProblem(c, "").Status }

// RefusedByPolicy reports whether the agent's own rules said no, as opposed to anything that went
// wrong.
func (c Code) RefusedByPolicy() bool {
	return c == CodeCallerNotAllowed || c == CodeNotAllowed || c == CodeSecretRefused || c == CodeAdminOnly
}

// Codes returns every code in alphabetical order.
func Codes() []Code { return slices.Sorted(maps.Keys(problems)) }
