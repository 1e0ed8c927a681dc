package agentapi

import (
	"net/http"
	"slices"
	"strings"

	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/agentapi/wire"
)

// selectors are the ways to name an identity in the IMDS shape. IMDS compares
// ids without regard to case, as Azure does everywhere.
var selectors = []struct {
	param string
	of    func(Identity) string
}{
	{wire.ParamClientID, func(id Identity) string { return id.ClientID }},
	{wire.ParamObjectID, func(id Identity) string { return id.ObjectID }},
	{wire.ParamResourceID, func(id Identity) string { return id.ResourceID }},
	{wire.ParamResourceIDAlias, func(id Identity) string { return id.ResourceID }},
}

// imdsParams are the parameters of the IMDS shape that mean something here. One to
// skip the cache (bypass_cache) does not: whoever sends it here did not ask a rule.
var imdsParams = []string{
	wire.ParamAPIVersion, wire.ParamResource,
	wire.ParamClientID, wire.ParamObjectID, wire.ParamResourceID, wire.ParamResourceIDAlias,
}

// imdsToken answers GET /metadata/identity/oauth2/token.
func (s *Server) imdsToken(r *http.Request, rec *record) (reply, *problem) {
	if given := r.Header.Values(wire.HeaderMetadata); len(given) != 1 || !strings.EqualFold(given[0], "true") {
		return reply{}, newProblem(wire.CodeMissingParameter, "Required metadata header not specified").withField(wire.HeaderMetadata)
	}
	params, p := parseQuery(r.URL.RawQuery, imdsParams, ignoreUnknown)
	if p != nil {
		return reply{}, p
	}
	req, p := s.imdsRequest(rec, params)
	rec.asksFor(tokenRequest{Request: req})
	if p != nil {
		return reply{}, p
	}
	token, p := s.obtain(r.Context(), rec, tokenRequest{Request: req})
	if p != nil {
		return reply{}, p
	}
	return reply{token: token.AccessToken, tail: imdsTail(s.tokenResponse(token, req.Resource))}, nil
}

func (s *Server) imdsRequest(rec *record, params params) (policy.Request, *problem) {
	req := policy.Request{TokenType: wire.TypeBearer}
	if params.get(wire.ParamAPIVersion) != wire.IMDSAPIVersion {
		return req, newProblem(wire.CodeInvalidParameter, "api-version must be %s", wire.IMDSAPIVersion).withField(wire.ParamAPIVersion)
	}
	value := params.get(wire.ParamResource)
	if value == "" {
		return req, newProblem(wire.CodeMissingParameter, "resource is required").withField(wire.ParamResource)
	}
	resource, p := parseResource(wire.ParamResource, value)
	if p != nil {
		return req, p
	}
	req.Resource = resource
	req.Identity, p = s.selected(rec, params)
	return req, p
}

// selected returns the identity that the parameters name, out of those that
// rules give the caller. One that exists but is not given, and one that does not
// exist, are the same answer.
func (s *Server) selected(rec *record, params params) (string, *problem) {
	var matches func(Identity) bool
	for _, selector := range selectors {
		value := params.get(selector.param)
		if value == "" {
			continue
		}
		if matches != nil {
			return "", newProblem(wire.CodeInvalidParameter, "more than one of client_id, object_id and msi_res_id").withField(selector.param)
		}
		rec.identity = clip(selector.param+"="+value, maxAuditedBytes) // until it is known which one that is
		matches = func(id Identity) bool { return strings.EqualFold(selector.of(id), value) }
	}
	if matches == nil {
		return rec.onlyIdentity()
	}
	return rec.onlyMatch(matches)
}

func (r *record) onlyMatch(matches func(Identity) bool) (string, *problem) {
	granted := r.rules.Policy.Identities(r.caller)
	var names []string
	for _, id := range r.rules.Identities {
		if matches(id) && slices.Contains(granted, id.Name) {
			names = append(names, id.Name)
		}
	}
	switch len(names) {
	case 0:
		return "", newProblem(wire.CodeIdentityNotFound, "Identity not found")
	case 1:
		return names[0], nil
	}
	return "", ambiguous(names).withHint("ask for one of them with GET " + wire.PathToken)
}
