package agentapi

import (
	"context"
	"net/http"
	"time"

	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/agentapi/wire"
)

// imdsParams are the parameters of the IMDS shape that mean something here. One to
// skip the cache (bypass_cache) does not: whoever sends it here did not ask a rule.
var imdsParams = []string{
	wire.ParamAPIVersion, wire.ParamResource,
	wire.ParamClientID, wire.ParamObjectID, wire.ParamResourceID, wire.ParamResourceIDAlias,
}

// imdsToken answers GET /metadata/identity/oauth2/token.
func (s *Server) imdsToken(r *http.Request, rec *record) (reply, *problem) {
	params, p := parseQuery(r.URL.RawQuery, imdsParams, ignoreUnknown)
	if p != nil {
		return reply{}, p
	}
	// To find the identity may take a token, too; the caller waits for both no longer than for one.
	ctx, cancel := context.WithTimeout(r.Context(), s.cfg.RequestTimeout)
	defer cancel()
	req, p := s.imdsRequest(ctx, rec, params)
	rec.asksFor(req)
	if p != nil {
		return reply{}, p
	}
	token, p := s.obtain(ctx, rec, req)
	if p != nil {
		return reply{}, p
	}
	return reply{token: token.AccessToken, tail: imdsTail(s.tokenResponse(token, req.Resource))}, nil
}

func (s *Server) imdsRequest(ctx context.Context, rec *record, params params) (tokenRequest, *problem) {
	req := tokenRequest{Request: policy.Request{TokenType: wire.TypeBearer}}
	if !isIMDSVersion(params.get(wire.ParamAPIVersion)) {
		return req, newProblem(wire.CodeInvalidParameter, "api-version must be a date, %s or later", wire.IMDSAPIVersion).withField(wire.ParamAPIVersion)
	}
	value := params.get(wire.ParamResource)
	if value == "" {
		return req, newProblem(wire.CodeMissingParameter, "resource is required").withField(wire.ParamResource)
	}
	var p *problem
	if req.Resource, p = parseResource(wire.ParamResource, value); p != nil {
		return req, p
	}
	if req.selection, p = selectionOf(params); p != nil {
		return req, p
	}
	if req.selection.of != nil {
		rec.identity = clip(req.selection.String(), maxAuditedBytes) // until it is known which one that is
	}
	req.Identity, p = s.selected(ctx, rec, req)
	return req, p
}

// isIMDSVersion reports whether a version is one of those that have this request and answer.
func isIMDSVersion(version string) bool {
	_, err := time.Parse(time.DateOnly, version)
	return err == nil && version >= wire.IMDSAPIVersion // dates of this form sort as they follow each other
}
