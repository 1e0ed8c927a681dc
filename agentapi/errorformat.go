package agentapi

import (
	"cmp"
	"maps"
	"net/http"

	"github.com/keyagent/keyagent/agentapi/wire"
)

// errorFormat says a problem in the terms of a protocol. The body is encoded as JSON. It may change
// how long the caller is told to wait.
type errorFormat func(*problem) (status int, contentType string, body any)

// problemJSON is the format of the native API (RFC 9457).
func problemJSON(p *problem) (status int, contentType string, body any) {
	return p.Status, wire.ContentTypeProblem, p.Problem
}

// sdkErrors is what a protocol of Azure's SDKs has in place of each code of the native API.
type sdkErrors map[wire.Code]sdkError

type sdkError struct {
	status int
	name   string
}

// sdkRetryAfter is the most, in seconds, that programs are told to wait: some of them wait for as
// long as they are told, without a bound, and say nothing meanwhile. If they ask again within a
// longer pause, they get the same error without a new attempt.
const sdkRetryAfter = 5

// format is the [errorFormat] {"error", "error_description"} of such a protocol. A code that is not
// in the table is answered as an internal error. Errors that may pass carry Retry-After.
func (e sdkErrors) format(p *problem) (status int, contentType string, body any) {
	said, ok := e[p.Code]
	if !ok {
		said = e[wire.CodeInternal]
	}
	if said.status == http.StatusTooManyRequests || said.status == http.StatusServiceUnavailable {
		p.RetryAfter = min(cmp.Or(p.RetryAfter, sdkRetryAfter), sdkRetryAfter)
	}
	description := p.Detail
	if p.Hint != "" {
		description += " (" + p.Hint + ")"
	}
	return said.status, wire.ContentTypeJSON, wire.IMDSError{Error: said.name, Description: description}
}

// imdsErrors is the table of the Instance Metadata Service. 400 is final for them and lets a chain
// of credentials go on; 429 and 503 are retried. A refused credential is final too, though the
// native API calls it 502.
var imdsErrors = sdkErrors{
	wire.CodeMissingParameter:  {http.StatusBadRequest, "invalid_request"},
	wire.CodeInvalidParameter:  {http.StatusBadRequest, "invalid_request"},
	wire.CodeAmbiguousIdentity: {http.StatusBadRequest, "invalid_request"},
	wire.CodeRefusedHeader:     {http.StatusBadRequest, "invalid_request"},
	wire.CodeUnexpectedBody:    {http.StatusBadRequest, "invalid_request"},
	wire.CodeNotHandshake:      {http.StatusBadRequest, "invalid_request"},
	wire.CodeBindingChanged:    {http.StatusBadRequest, "invalid_request"},
	wire.CodeInvalidResource:   {http.StatusBadRequest, "invalid_resource"},
	wire.CodeIdentityNotFound:  {http.StatusBadRequest, "identity_not_found"},
	wire.CodeCredentialRefused: {http.StatusBadRequest, "unauthorized_client"},

	wire.CodeCallerNotAllowed: {http.StatusForbidden, "access_denied"},
	wire.CodeNotAllowed:       {http.StatusForbidden, "access_denied"},
	wire.CodeSecretRefused:    {http.StatusForbidden, "access_denied"},
	wire.CodeAdminOnly:        {http.StatusForbidden, "access_denied"},

	wire.CodeClaimsRequired: {http.StatusBadRequest, "interaction_required"},
	wire.CodeNoEvidence:     {http.StatusBadRequest, "unsupported"},

	wire.CodeNotFound:         {http.StatusNotFound, "not_found"},
	wire.CodeNotConfigured:    {http.StatusNotFound, "not_found"},
	wire.CodeMethodNotAllowed: {http.StatusMethodNotAllowed, "invalid_request"},

	wire.CodeUpgradeRefused:      {http.StatusBadRequest, "invalid_request"},
	wire.CodeResourceUnreachable: {http.StatusServiceUnavailable, "temporarily_unavailable"},
	wire.CodeResourceTimeout:     {http.StatusServiceUnavailable, "temporarily_unavailable"},

	wire.CodeThrottled:          {http.StatusTooManyRequests, "too_many_requests"},
	wire.CodeTooManyConnections: {http.StatusServiceUnavailable, "temporarily_unavailable"},
	wire.CodeUnavailable:        {http.StatusServiceUnavailable, "temporarily_unavailable"},
	wire.CodeNotReady:           {http.StatusServiceUnavailable, "temporarily_unavailable"},
	wire.CodeAuditUnavailable:   {http.StatusServiceUnavailable, "temporarily_unavailable"},
	wire.CodeInternal:           {http.StatusInternalServerError, "unknown"},
}

// loopbackErrors is the table of the token listeners on loopback. There are programs that ask for
// two minutes after a 404 and for one after a 500, so neither is there. And 400 lets a chain of
// credentials go on, to a developer's own login for one, so a request that is refused for what it
// asks for, and not for its form, is 403.
var loopbackErrors = imdsErrors.with(sdkErrors{
	wire.CodeNotFound:         {http.StatusBadRequest, "invalid_request"},
	wire.CodeNotConfigured:    {http.StatusBadRequest, "invalid_request"},
	wire.CodeMethodNotAllowed: {http.StatusBadRequest, "invalid_request"},

	wire.CodeIdentityNotFound:  {http.StatusForbidden, "identity_not_found"},
	wire.CodeCredentialRefused: {http.StatusForbidden, "unauthorized_client"},
	wire.CodeClaimsRequired:    {http.StatusForbidden, "interaction_required"},

	wire.CodeInternal: {http.StatusServiceUnavailable, "temporarily_unavailable"},
})

// with returns the table with other entries in the place of some.
func (e sdkErrors) with(others sdkErrors) sdkErrors {
	all := maps.Clone(e)
	maps.Copy(all, others)
	return all
}
