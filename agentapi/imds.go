package agentapi

import (
	"context"
	"strconv"
	"time"

	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/agentapi/wire"
)

// imdsParams are the parameters of the IMDS protocol that mean something here. bypass_cache, which
// skips the cache there, does not: here that takes a rule.
var imdsParams = []string{
	wire.ParamAPIVersion, wire.ParamResource,
	wire.ParamClientID, wire.ParamObjectID, wire.ParamResourceID, wire.ParamResourceIDAlias,
}

// imdsForm is GET /metadata/identity/oauth2/token.
var imdsForm = tokenForm{understand: (*Server).imdsRequest, body: imdsToken}

func (s *Server) imdsRequest(ctx context.Context, rec *record, query string) (tokenRequest, *problem) {
	params, p := parseQuery(query, imdsParams, ignoreUnknown)
	if p != nil {
		return tokenRequest{}, p
	}
	req := tokenRequest{Request: policy.Request{TokenType: wire.TypeBearer}}
	if !isIMDSVersion(params.get(wire.ParamAPIVersion)) {
		return req, newProblem(wire.CodeInvalidParameter, "api-version must be a date, %s or later", wire.IMDSAPIVersion).withField(wire.ParamAPIVersion)
	}
	value := params.get(wire.ParamResource)
	if value == "" {
		return req, newProblem(wire.CodeMissingParameter, "resource is required").withField(wire.ParamResource)
	}
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

// imdsToken says what is known about a token as IMDS does: every value is a string.
func imdsToken(r wire.TokenResponse) any {
	expiresIn := strconv.FormatInt(r.ExpiresIn, 10)
	return &wire.IMDSToken{
		ClientID: r.ClientID, ExpiresIn: expiresIn, ExpiresOn: strconv.FormatInt(r.ExpiresOn, 10),
		ExtExpiresIn: expiresIn, NotBefore: strconv.FormatInt(r.NotBefore, 10), Resource: r.Resource, TokenType: r.TokenType,
	}
}

// isIMDSVersion reports whether a version is one of those that have this request and answer.
func isIMDSVersion(version string) bool {
	_, err := time.Parse(time.DateOnly, version)
	return err == nil && version >= wire.IMDSAPIVersion // dates of this form sort as they follow each other
}
