package agentapi

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/agentapi/wire"
)

// sdkParams are the parameters that mean something in the protocols of Azure's SDKs. bypass_cache,
// which skips the cache of IMDS, does not: here that takes a rule.
var sdkParams = []string{
	wire.ParamAPIVersion, wire.ParamResource, wire.ParamClientCapabilities,
	wire.ParamClientID, wire.ParamObjectID, wire.ParamResourceID, wire.ParamResourceIDAlias, wire.ParamPrincipalID, wire.ParamClientIDOld,
}

// sdkProtocol is what the protocols of Azure's SDKs differ in.
type sdkProtocol struct {
	// version refuses an api-version that is not one of the protocol, or the lack of one.
	version func(version string) *problem
	// unnamed returns the identity that a request without a selector means.
	unnamed func(*record) (string, *problem)
}

func (proto sdkProtocol) form() tokenForm {
	return tokenForm{
		understand: proto.understand, body: sdkToken,
		patience: func(cfg Config) time.Duration { return min(cfg.SDKTimeout, cfg.RequestTimeout) },
	}
}

func (proto sdkProtocol) understand(s *Server, ctx context.Context, rec *record, query string) (tokenRequest, *problem) {
	params, p := parseQuery(query, sdkParams, ignoreUnknown)
	if p != nil {
		return tokenRequest{}, p
	}
	req := tokenRequest{Request: policy.Request{TokenType: wire.TypeBearer}}
	if p := proto.version(params.get(wire.ParamAPIVersion)); p != nil {
		return req, p.withField(wire.ParamAPIVersion)
	}
	value := params.get(wire.ParamResource)
	if value == "" {
		return req, newProblem(wire.CodeMissingParameter, "resource is required").withField(wire.ParamResource)
	}
	if req.Resource, p = parseResource(wire.ParamResource, value); p != nil {
		return req, p
	}
	// Without it, Entra is not asked for a token that lives longer and can be revoked: programs
	// that do not say this cannot pass on the challenge that they would get then.
	if slices.Contains(strings.Split(params.get(wire.ParamClientCapabilities), ","), wire.CapabilityCP1) {
		req.capabilities = []string{wire.CapabilityCP1}
	}
	if req.selection, p = selectionOf(params); p != nil {
		return req, p
	}
	if req.selection.of == nil {
		req.Identity, p = proto.unnamed(rec)
		return req, p
	}
	rec.identity = clip(req.selection.String(), maxAuditedBytes) // until it is known which one that is
	req.Identity, p = s.selected(ctx, rec, req)
	return req, p
}

// sdkToken describes a token as IMDS does: every value is a string, except refresh_in, which IMDS
// does not have.
func sdkToken(r wire.TokenResponse) any {
	expiresIn := strconv.FormatInt(r.ExpiresIn, 10)
	return &wire.IMDSToken{
		ClientID: r.ClientID, ExpiresIn: expiresIn, ExpiresOn: strconv.FormatInt(r.ExpiresOn, 10), ExtExpiresIn: expiresIn,
		NotBefore: strconv.FormatInt(r.NotBefore, 10), Resource: r.Resource, TokenType: r.TokenType,
		RefreshIn: r.RefreshIn,
	}
}
