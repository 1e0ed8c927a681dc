package agentapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/agentapi/wire"
)

// maxIdentityBytes limits what a caller may send as the name of an identity.
const maxIdentityBytes = 128

// nativeParams are the parameters of GET /v1/token.
var nativeParams = []string{wire.ParamIdentity, wire.ParamResource, wire.ParamScope, wire.ParamType}

// token answers GET /v1/token.
func (s *Server) token(r *http.Request, rec *record) (reply, *problem) {
	params, p := parseQuery(r.URL.RawQuery, nativeParams, refuseUnknown)
	if p != nil {
		return reply{}, p
	}
	req, p := s.nativeRequest(rec.caller, params)
	rec.asksFor(req)
	if p != nil {
		return reply{}, p
	}
	token, p := s.obtain(r.Context(), rec, req)
	if p != nil {
		return reply{}, p
	}
	return reply{token: token.AccessToken, tail: nativeTail(s.tokenResponse(token, req))}, nil
}

// nativeRequest returns as much of the request as it understood, for the audit,
// also with a problem.
func (s *Server) nativeRequest(caller peer.Caller, params params) (policy.Request, *problem) {
	req := policy.Request{Identity: params.get(wire.ParamIdentity), TokenType: params.get(wire.ParamType)}
	if len(req.Identity) > maxIdentityBytes {
		return req, newProblem(wire.CodeInvalidParameter, "the name is longer than %d bytes", maxIdentityBytes).withField(wire.ParamIdentity)
	}
	if req.TokenType == "" {
		req.TokenType = wire.TypeBearer
	}
	if req.TokenType != wire.TypeBearer {
		return req, newProblem(wire.CodeInvalidParameter, "token type %q is not issued here", req.TokenType).withField(wire.ParamType).
			withHint("use " + wire.TypeBearer)
	}
	resource, p := nativeResource(params)
	if p != nil {
		return req, p
	}
	req.Resource = resource
	if req.Identity == "" {
		req.Identity, p = s.onlyIdentity(caller)
	}
	return req, p
}

func nativeResource(params params) (policy.Resource, *problem) {
	resource, scope := params.get(wire.ParamResource), params.get(wire.ParamScope)
	switch {
	case resource != "" && scope != "":
		return policy.Resource{}, newProblem(wire.CodeInvalidParameter, "resource and scope exclude each other").withField(wire.ParamScope)
	case resource != "":
		return parseResource(wire.ParamResource, resource)
	case scope == "":
		return policy.Resource{}, newProblem(wire.CodeMissingParameter, "resource or scope is required").withField(wire.ParamResource)
	case !strings.HasSuffix(scope, "/.default"):
		return policy.Resource{}, newProblem(wire.CodeInvalidParameter, `scope %q does not end in "/.default"`, clip(scope, maxAuditedBytes)).withField(wire.ParamScope).
			withHint("an application gets all permissions that it was granted, no single ones")
	}
	return parseResource(wire.ParamScope, scope)
}

func parseResource(field, value string) (policy.Resource, *problem) {
	resource, err := policy.ParseResource(value)
	if err != nil {
		return policy.Resource{}, newProblem(wire.CodeInvalidParameter, "%v", err).withField(field)
	}
	return resource, nil
}

// onlyIdentity is what a caller means that names no identity.
func (s *Server) onlyIdentity(caller peer.Caller) (string, *problem) {
	granted := s.policy.Identities(caller)
	if len(granted) == 1 {
		return granted[0], nil
	}
	return "", ambiguous(granted).withField(wire.ParamIdentity)
}

func ambiguous(names []string) *problem {
	return newProblem(wire.CodeAmbiguousIdentity, "several identities are possible: %s", strings.Join(names, ", ")).
		withHint("name one of them")
}

// authorise asks the rules. What it answers to a known caller does not tell
// whether an identity exists.
func (s *Server) authorise(rec *record, req policy.Request) *problem {
	decision := s.policy.Decide(rec.caller, req)
	rec.rule = decision.Rule
	rec.reason = decision.Reason
	if decision.Allowed {
		return nil
	}
	p := newProblem(wire.CodeNotAllowed, "uid %d asks for a %s token for %s as %q: %s",
		rec.caller.UID, req.TokenType, req.Resource, req.Identity, decision.Reason)
	return p.withHint("see the rules in the agent's configuration")
}

// obtain gets a token if it is allowed, and makes sure that it is that token.
func (s *Server) obtain(ctx context.Context, rec *record, req policy.Request) (acquire.Token, *problem) {
	if p := s.authorise(rec, req); p != nil {
		return acquire.Token{}, p
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.RequestTimeout)
	defer cancel()
	token, err := s.cfg.Tokens.Token(ctx, acquire.Request{
		Identity: req.Identity,
		Resource: req.Resource.Asked(),
		Type:     acquire.TokenType(req.TokenType),
	})
	if err != nil {
		p := s.tokenProblem(ctx, err)
		p.Identity = req.Identity
		return acquire.Token{}, p
	}
	if err := checkToken(token, req); err != nil {
		return acquire.Token{}, newProblem(wire.CodeInternal, "the agent got a token that it must not hand out").causedBy(err)
	}
	if !token.ExpiresOn.After(s.cfg.Now()) {
		return acquire.Token{}, newProblem(wire.CodeUnavailable, "the token has expired and there is no new one").retryable(0)
	}
	rec.issues(token)
	return token, nil
}

// checkToken is the last line of defence against a token source that mixes up
// its tokens.
func checkToken(token acquire.Token, req policy.Request) error {
	switch {
	case !isBearerToken(token.AccessToken.Reveal()):
		return errors.New("the token is empty, or has a character that no token has")
	case token.Identity != req.Identity:
		return fmt.Errorf("the token is of identity %q, not %q", token.Identity, req.Identity)
	case !strings.EqualFold(token.TokenType, req.TokenType):
		return fmt.Errorf("the token is of type %q, not %q", token.TokenType, req.TokenType)
	}
	return nil
}

// isBearerToken reports whether s has the syntax b64token (RFC 6750, 2.1). What
// has not cannot be put into a header, nor into JSON without escapes.
func isBearerToken(s string) bool {
	for i := range len(s) {
		if !inToken[s[i]] {
			return false
		}
	}
	return s != ""
}

// inToken marks the characters of b64token.
var inToken = func() (marked [256]bool) {
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/=") {
		marked[c] = true
	}
	return marked
}()

// tokenResponse says what is known about a token, without the token.
func (s *Server) tokenResponse(token acquire.Token, req policy.Request) wire.TokenResponse {
	response := wire.TokenResponse{
		TokenType:  token.TokenType,
		ExpiresIn:  int64(token.ExpiresOn.Sub(s.cfg.Now()) / time.Second),
		ExpiresOn:  token.ExpiresOn.Unix(),
		Resource:   req.Resource.Asked(),
		Identity:   token.Identity,
		ClientID:   token.ClientID,
		Credential: token.Credential,
		Strength:   string(token.Strength),
		Fallback:   token.Fallback,
	}
	if !token.NotBefore.IsZero() {
		response.NotBefore = token.NotBefore.Unix()
	}
	if token.Binding != (acquire.Binding{}) {
		binding := wire.Binding(token.Binding)
		response.Binding = &binding
	}
	return response
}
