package agentapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/agentapi/wire"
)

// maxIdentityBytes limits what a caller may send as the name of an identity.
const maxIdentityBytes = 128

// nativeParams are the parameters of GET /v1/token.
var nativeParams = []string{
	wire.ParamIdentity, wire.ParamResource, wire.ParamScope, wire.ParamType,
	wire.ParamClaims, wire.ParamCapabilities, wire.ParamForceRefresh,
}

// tokenRequest is what the rules decide on, with what only the token source looks at.
type tokenRequest struct {
	policy.Request
	claims       string
	capabilities []string
	selection    selection // that led to the identity; zero: its name
}

// tokenForm is how a protocol asks for a token, and how it says what it got.
type tokenForm struct {
	// understand returns as much of the request as it understood, for the audit, also with a
	// problem.
	understand func(*Server, context.Context, *record, string) (tokenRequest, *problem)
	// body returns what there is to say of a token, with an empty one as its first member.
	body func(wire.TokenResponse) any
	// patience is how long a caller waits at most.
	patience func(Config) time.Duration
}

// nativeForm is GET /v1/token.
var nativeForm = tokenForm{
	understand: (*Server).nativeRequest,
	body:       func(r wire.TokenResponse) any { return &r },
	patience:   func(cfg Config) time.Duration { return cfg.RequestTimeout },
}

// issue answers a request for a token.
func (f tokenForm) issue(s *Server, r *http.Request, rec *record) (reply, *problem) {
	// To find the identity may take a token, too; the caller waits for both no longer than for one.
	rec.patience = f.patience(s.cfg)
	ctx, end := withPatience(r.Context(), rec.patience)
	defer end()
	req, p := f.allowed(ctx, s, r, rec)
	if p != nil {
		return reply{}, p
	}
	token, p := s.fetch(ctx, rec, req)
	if p != nil {
		return reply{}, p
	}
	same := rec.answeredBefore(token.AccessToken)
	rec.issues(token)
	response := s.tokenResponse(token, req.Resource)
	if said := rec.saidBefore(response); same && said != nil {
		return reply{json: said, token: token.AccessToken}, nil
	}
	text, p := encodeToken(f.body(response))
	if p != nil {
		return reply{}, p
	}
	rec.says(response, text)
	return reply{json: text, token: token.AccessToken}, nil
}

// allowed returns what a request asks for, if the rules allow it.
func (f tokenForm) allowed(ctx context.Context, s *Server, r *http.Request, rec *record) (tokenRequest, *problem) {
	if rec.approval != nil && rec.approval.record.holder == rec.holder {
		return rec.approval.request, nil
	}
	rec.approval = nil
	req, p := f.understand(s, ctx, rec, r.URL.RawQuery)
	rec.asksFor(req)
	if p == nil {
		p = rec.authorise(req.Request)
	}
	if p == nil {
		rec.approve(r.RequestURI, req)
	}
	return req, p
}

func (s *Server) nativeRequest(_ context.Context, rec *record, query string) (tokenRequest, *problem) {
	params, p := parseQuery(query, nativeParams, refuseUnknown)
	if p != nil {
		return tokenRequest{}, p
	}
	req := tokenRequest{Request: policy.Request{Identity: params.get(wire.ParamIdentity), TokenType: params.get(wire.ParamType)}}
	if len(req.Identity) > maxIdentityBytes {
		return req, newProblem(wire.CodeInvalidParameter, "the name is longer than %d bytes", maxIdentityBytes).withField(wire.ParamIdentity)
	}
	if req.TokenType == "" {
		req.TokenType = wire.TypeBearer
	}
	if req.TokenType != wire.TypeBearer && req.TokenType != wire.TypePoP {
		return req, newProblem(wire.CodeInvalidParameter, "token type %q is not issued here", req.TokenType).withField(wire.ParamType).
			withHint("use " + wire.TypeBearer + " or " + wire.TypePoP)
	}
	if p := req.takeExtras(params); p != nil {
		return req, p
	}
	resource, p := nativeResource(params)
	if p != nil {
		return req, p
	}
	req.Resource = resource
	if req.Identity == "" {
		req.Identity, p = rec.onlyIdentity()
	}
	return req, p
}

// takeExtras takes what changes how a token is obtained, but not which one it is.
func (r *tokenRequest) takeExtras(params params) *problem {
	switch fresh := params.get(wire.ParamForceRefresh); fresh {
	case "", "false":
	case "true":
		r.ForceRefresh = true
	default:
		return newProblem(wire.CodeInvalidParameter, "force_refresh is neither true nor false").withField(wire.ParamForceRefresh)
	}
	if claims := params.get(wire.ParamClaims); claims != "" {
		if !isClaims(claims) {
			return newProblem(wire.CodeInvalidParameter, "claims is not a JSON object of at most %d bytes", wire.MaxClaimsBytes).
				withField(wire.ParamClaims).withHint("decode the base64 of the challenge first")
		}
		if err := acquire.CheckClaims(claims); err != nil {
			return newProblem(wire.CodeInvalidParameter, "%v", err).withField(wire.ParamClaims)
		}
		r.claims = claims
	}
	if given := params.get(wire.ParamCapabilities); given != "" {
		r.capabilities = strings.Split(given, ",")
	}
	for _, capability := range r.capabilities {
		if capability != wire.CapabilityCP1 {
			return newProblem(wire.CodeInvalidParameter, "capability %q is not known", clip(capability, maxAuditedBytes)).
				withField(wire.ParamCapabilities).withHint("the only one is " + wire.CapabilityCP1)
		}
	}
	r.capabilities = slices.Compact(r.capabilities)
	return nil
}

// isClaims reports whether a text is a claims challenge: one JSON object. Its content is for Entra.
func isClaims(s string) bool {
	return len(s) <= wire.MaxClaimsBytes && utf8.ValidString(s) && strings.HasPrefix(strings.TrimLeft(s, " \t\r\n"), "{") &&
		json.Valid([]byte(s))
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

// onlyIdentity returns the identity of a request that names none: the only one that rules give the
// caller.
func (r *record) onlyIdentity() (string, *problem) {
	granted := r.rules.Policy.Identities(r.caller)
	if len(granted) == 1 {
		return granted[0], nil
	}
	return "", ambiguous(granted).withField(wire.ParamIdentity)
}

func ambiguous(names []string) *problem {
	return newProblem(wire.CodeAmbiguousIdentity, "several identities are possible: %s", strings.Join(names, ", ")).
		withHint("name one of them")
}

// decided notes what the rules say.
func (r *record) decided(d policy.Decision) {
	r.rule, r.reason, r.unit, r.executable = d.Rule, d.Reason, d.Unit, d.Executable
}

// authorise asks the rules. Its answer does not tell a caller whether an identity exists.
func (r *record) authorise(req policy.Request) *problem {
	decision := r.rules.Policy.Decide(r.caller, req)
	r.decided(decision)
	if decision.Allowed {
		return nil
	}
	p := newProblem(wire.CodeNotAllowed, "uid %d asks for a %s token for %s as %q: %s",
		r.caller.UID, req.TokenType, req.Resource, req.Identity, decision.Reason)
	if decision.Reason == policy.ReasonFresh {
		return p.withField(wire.ParamForceRefresh).withHint("leave force_refresh out, or ask whoever administers the agent for fresh: true at the rule")
	}
	if decision.Reason == policy.ReasonReserved {
		return p.withHint("ask whoever administers the agent: only a rule that names this resource gives it, since its tokens are credentials of applications")
	}
	if https := withScheme(req.Resource); decision.Reason == policy.ReasonResource && https != "" {
		return p.withHint("resources are named with their scheme: " + https)
	}
	socket := r.face.socket()
	if socket == "" {
		return p.withHint("ask whoever administers the agent for a rule that gives this user the identity and the resource")
	}
	return p.withHint("curl --unix-socket " + shellWord(socket) + " http://localhost" + wire.PathIdentities +
		" says what the rules give this user; ask whoever administers the agent for more")
}

// withScheme returns the resource that a bare host name was probably meant to be; "" for others.
func withScheme(r policy.Resource) string {
	host, _, _ := strings.Cut(r.String(), "/")
	if strings.Contains(host, ":") || !strings.Contains(host, ".") {
		return ""
	}
	return "https://" + r.String()
}

// shellWord makes one word of a path in a command that is to be pasted into a shell.
func shellWord(path string) string {
	if !strings.ContainsFunc(path, func(r rune) bool {
		return !strings.ContainsRune("/._-", r) && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}) {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}

// fetch gets a token that the rules allow, and learns the ids of its owner.
func (s *Server) fetch(ctx context.Context, rec *record, req tokenRequest) (acquire.Token, *problem) {
	token, err := rec.rules.Tokens.Token(ctx, acquire.Request{
		Identity: req.Identity,
		Resource: req.Resource.Asked(),
		Type:     acquire.TokenType(req.TokenType),

		ForceRefresh: req.ForceRefresh,
		Claims:       req.claims,
		Capabilities: req.capabilities,

		Account: s.misses.account(rec.caller, rec.rules.Policy.Standing(rec.caller)),
		ID:      rec.ids.own,
	})
	if errors.Is(err, errMisses) {
		rec.reason = reasonMisses
	}
	if p := s.unusable(ctx, rec, token, err, req.Request); p != nil {
		p.Identity = req.Identity
		if https := withScheme(req.Resource); p.Code == wire.CodeInvalidResource && https != "" {
			p.withHint("resources are named with their scheme: " + https)
		}
		return acquire.Token{}, p
	}
	// An identity that was selected by a learnt id may have become another one meanwhile.
	owner, selection := s.learn(rec, token), req.selection
	if selection.of != nil && !selection.matches(rec.identityNamed(req.Identity)) && !selection.matches(owner) {
		return acquire.Token{}, notFound()
	}
	return token, nil
}

// unusable returns why what the source gave must not be handed out, or nil.
func (s *Server) unusable(ctx context.Context, rec *record, token acquire.Token, err error, req policy.Request) *problem {
	if err != nil {
		return s.tokenProblem(ctx, rec, err)
	}
	if err := rec.checkToken(token, req); err != nil {
		return newProblem(wire.CodeInternal, "the agent got a token that it must not hand out").causedBy(err)
	}
	if !token.ExpiresOn.After(s.cfg.Now()) {
		return newProblem(wire.CodeUnavailable, "the token has expired and there is no new one").retryable(0)
	}
	return nil
}

// checkToken is the last line of defence against a token source that mixes up its tokens.
func (r *record) checkToken(token acquire.Token, req policy.Request) error {
	switch {
	case !r.answeredBefore(token.AccessToken) && !isBearerToken(token.AccessToken.Reveal()):
		return errors.New("the token is empty, or has a character that no token has")
	case token.Identity != req.Identity:
		return fmt.Errorf("the token is of identity %q, not %q", token.Identity, req.Identity)
	case !strings.EqualFold(token.TokenType, req.TokenType):
		return fmt.Errorf("the token is of type %q, not %q", token.TokenType, req.TokenType)
	case req.TokenType == wire.TypePoP && token.Binding.Thumbprint == "":
		return errors.New("the token is to be bound to a certificate, and there is none")
	}
	return nil
}

// isBearerToken reports whether s has the syntax b64token (RFC 6750, 2.1). Any other text cannot be
// put into a header, nor into JSON without escapes.
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

// tokenResponse describes a token, without the token itself.
func (s *Server) tokenResponse(token acquire.Token, asked policy.Resource) wire.TokenResponse {
	response := wire.TokenResponse{
		TokenType:  token.TokenType,
		ExpiresIn:  int64(token.ExpiresOn.Sub(s.cfg.Now()) / time.Second),
		ExpiresOn:  token.ExpiresOn.Unix(),
		Resource:   asked.Asked(),
		Identity:   token.Identity,
		ClientID:   token.ClientID,
		Credential: token.Credential,
		Bound:      token.Bound,
		Strength:   string(token.Strength),
		Fallback:   token.Fallback,
	}
	if !token.NotBefore.IsZero() {
		response.NotBefore = token.NotBefore.Unix()
	}
	response.RefreshIn = s.refreshIn(token)
	if token.Binding != (acquire.Binding{}) {
		binding := wire.Binding(token.Binding)
		response.Binding = &binding
	}
	return response
}

// Bounds of refresh_in.
const (
	worthRefreshing = 2 * time.Hour   // a token's remaining life; below it, refresh_in is left out
	refreshNotUnder = 5 * time.Minute // the shortest refresh_in
)

// refreshIn is in how many seconds a program should ask again: when the agent fetches the next
// token itself; 0: leave it out.
func (s *Server) refreshIn(token acquire.Token) int64 {
	now := s.cfg.Now()
	if token.RefreshOn.IsZero() || token.ExpiresOn.Sub(now) < worthRefreshing {
		return 0
	}
	return int64(max(token.RefreshOn.Sub(now), refreshNotUnder) / time.Second)
}
