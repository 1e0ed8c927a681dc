package agentapi

import (
	"net/http"

	"github.com/keyagent/keyagent/agentapi/wire"
)

// shape is how a route writes its errors. The zero value is no shape.
type shape int

const (
	_      shape = iota
	native       // problem+json
	imds         // as the Instance Metadata Service
)

// imdsErrors gives each code what SDKs understand. 400 is final for them and
// lets a chain of credentials go on; 429 and 503 are retried. A refused
// credential is final too, though the native API calls it 502.
var imdsErrors = map[wire.Code]struct {
	status int
	name   string
}{
	wire.CodeMissingParameter:  {http.StatusBadRequest, "invalid_request"},
	wire.CodeInvalidParameter:  {http.StatusBadRequest, "invalid_request"},
	wire.CodeAmbiguousIdentity: {http.StatusBadRequest, "invalid_request"},
	wire.CodeRefusedHeader:     {http.StatusBadRequest, "invalid_request"},
	wire.CodeUnexpectedBody:    {http.StatusBadRequest, "invalid_request"},
	wire.CodeInvalidResource:   {http.StatusBadRequest, "invalid_resource"},
	wire.CodeIdentityNotFound:  {http.StatusBadRequest, "identity_not_found"},
	wire.CodeCredentialRefused: {http.StatusBadRequest, "unauthorized_client"},

	wire.CodeCallerNotAllowed: {http.StatusForbidden, "access_denied"},
	wire.CodeNotAllowed:       {http.StatusForbidden, "access_denied"},
	wire.CodeAdminOnly:        {http.StatusForbidden, "access_denied"},

	wire.CodeClaimsRequired: {http.StatusBadRequest, "interaction_required"},

	wire.CodeNotFound:         {http.StatusNotFound, "not_found"},
	wire.CodeMethodNotAllowed: {http.StatusMethodNotAllowed, "invalid_request"},

	wire.CodeThrottled:          {http.StatusTooManyRequests, "too_many_requests"},
	wire.CodeTooManyConnections: {http.StatusServiceUnavailable, "temporarily_unavailable"},
	wire.CodeUnavailable:        {http.StatusServiceUnavailable, "temporarily_unavailable"},
	wire.CodeAuditUnavailable:   {http.StatusServiceUnavailable, "temporarily_unavailable"},
	wire.CodeInternal:           {http.StatusInternalServerError, "unknown"},
}

// problem returns how this shape says p.
func (s shape) problem(p *problem) (status int, contentType string, body any) {
	if s != imds {
		return p.Status, wire.ContentTypeProblem, p.Problem
	}
	said, ok := imdsErrors[p.Code]
	if !ok {
		said = imdsErrors[wire.CodeInternal]
	}
	description := p.Detail
	if p.Hint != "" {
		description += " (" + p.Hint + ")"
	}
	return said.status, wire.ContentTypeJSON, wire.IMDSError{Error: said.name, Description: description}
}
