package agentapi

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"time"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/internal/forward"
)

// Presenter makes connections that present the certificate that a token is bound to;
// [acquire.Roster] and [acquire.Acquirer] are. A [TokenSource] that is a Presenter, too, lets
// callers use bound tokens by [wire.PathBridge]. It must be safe for concurrent use, and must not
// block.
type Presenter interface {
	Presenting(acquire.Token) (http.RoundTripper, error)
}

var (
	_ Presenter = (*acquire.Roster)(nil)
	_ Presenter = (*acquire.Acquirer)(nil)
)

// noUpgrade is the proof that a request does not want its connection to speak another protocol.
func noUpgrade(_ *Server, r *http.Request, _ *record) *problem {
	if protocol := forward.WantsUpgrade(r); protocol != "" {
		return newProblem(wire.CodeUpgradeRefused, "the request wants an upgrade to %q", clip(protocol, maxAuditedBytes)).withField("Upgrade").
			withHint("plain requests and answers are passed on, however long they last")
	}
	return nil
}

// bridge makes the caller's request to a resource, with a token that is bound to the agent's
// certificate and over a connection that presents it.
func (s *Server) bridge(r *http.Request, rec *record) (reply, *problem) {
	req, to, p := rec.bridgeRequest(r)
	rec.asksFor(req)
	if p == nil {
		p = rec.authorise(req.Request)
	}
	if p != nil {
		return reply{}, p
	}
	// A connection to a resource costs a signature, also if its caller is gone before it is there.
	standing := rec.rules.Policy.Standing(rec.caller)
	if p := rec.tooManySignatures(s.signatures.due(rec.caller, standing)); p != nil {
		return reply{}, p
	}
	ctx, end := withPatience(r.Context(), s.cfg.RequestTimeout)
	defer end()
	token, over, p := s.fetchToUse(ctx, rec, req)
	if p != nil {
		return reply{}, p
	}
	call := forward.Call{
		To: to, Over: over, Remove: []string{wire.HeaderError},
		Set: http.Header{
			"Authorization":     {wire.TypePoP + " " + token.AccessToken.Reveal()},
			wire.HeaderBound:    {"true"},
			wire.HeaderResource: nil,
		},
	}
	rec.uses(token)
	opens := &httptrace.ClientTrace{ConnectStart: func(string, string) { s.signatures.charge(rec.caller, standing) }}
	return reply{stream: func(w http.ResponseWriter, r *http.Request) *problem {
		return s.pass(w, r.WithContext(httptrace.WithClientTrace(r.Context(), opens)), call, rec)
	}}, nil
}

// bridgeRequest reads path and headers of a request to [wire.PathBridge].
func (r *record) bridgeRequest(from *http.Request) (tokenRequest, *url.URL, *problem) {
	req := tokenRequest{Request: policy.Request{TokenType: wire.TypePoP}}
	identity, rest, _ := strings.Cut(strings.TrimPrefix(from.RequestURI, wire.PathBridge), "/")
	if identity == "" || len(identity) > maxIdentityBytes || strings.Contains(identity, "?") {
		return req, nil, newProblem(wire.CodeInvalidParameter, "the path is not %sIDENTITY/HOST/…", wire.PathBridge).withField("path")
	}
	req.Identity = identity
	to, p := targetOf(rest)
	if p != nil {
		return req, nil, p
	}
	host, err := policy.ParseHost(to.Host)
	if err != nil {
		return req, nil, newProblem(wire.CodeInvalidParameter, "%v", err).withField("host").
			withHint("a name in lower case, with a port if that is not 443")
	}
	req.Host, to.Host, r.host = host, host.String(), host.String()
	req.Resource, p = r.bridgeResource(from.Header.Values(wire.HeaderResource), req.Request)
	return req, to, p
}

// targetOf makes an https URL of a host, path and query that must be sent as they are. What another
// program could read in another way is refused.
func targetOf(rest string) (*url.URL, *problem) {
	malformed := func(why string) (*url.URL, *problem) {
		return nil, newProblem(wire.CodeInvalidParameter, "%s", why).withField("path")
	}
	rest, query, hasQuery := strings.Cut(rest, "?")
	host, path, hasPath := strings.Cut(rest, "/")
	if !hasPath {
		path = ""
	}
	path = "/" + path
	decoded, err := url.PathUnescape(path)
	to := &url.URL{Scheme: "https", Host: host, Path: decoded, RawPath: path, RawQuery: query, ForceQuery: hasQuery && query == ""}
	switch {
	case err != nil || to.EscapedPath() != path:
		return malformed("the path has a character that must be percent-encoded, or a percent sign that encodes none")
	case hasDotSegment(decoded):
		return malformed(`the path has a part that is "." or ".."`)
	case strings.ContainsFunc(query, func(c rune) bool { return c <= ' ' || c >= 0x7f || c == '#' }):
		return malformed("the query has a character that must be percent-encoded")
	}
	return to, nil
}

// hasDotSegment reports whether a part of a path means the path itself or one above (RFC 3986,
// 5.2.4). A server that removes such parts could serve another path than the one that was checked.
func hasDotSegment(path string) bool {
	for segment := range strings.FieldsFuncSeq(path, func(c rune) bool { return c == '/' || c == '\\' }) {
		if segment == "." || segment == ".." {
			return true
		}
	}
	return false
}

// bridgeResource returns the resource of a call: that of the header, or else the only one that
// rules give the caller at the host.
func (r *record) bridgeResource(given []string, req policy.Request) (policy.Resource, *problem) {
	if len(given) > 1 {
		return policy.Resource{}, newProblem(wire.CodeInvalidParameter, "header %s is given more than once", wire.HeaderResource).withField(wire.HeaderResource)
	}
	if len(given) == 1 {
		return parseResource(wire.HeaderResource, given[0])
	}
	possible := r.rules.Policy.BoundResources(r.caller, req.Identity, req.Host)
	if len(possible) == 1 && possible[0] != policy.AnyResource {
		return parseResource(wire.HeaderResource, possible[0])
	}
	p := newProblem(wire.CodeMissingParameter, "header %s must say for which resource the token is", wire.HeaderResource).withField(wire.HeaderResource)
	if len(possible) == 0 {
		return policy.Resource{}, p.withHint("no rule gives this user the host with this identity; the header says nothing else then")
	}
	return policy.Resource{}, p.withHint("possible are: " + strings.Join(possible, ", "))
}

// fetchToUse gets a bound token and the connections that present its certificate. If the
// certificate was replaced in between, there is another token.
func (s *Server) fetchToUse(ctx context.Context, rec *record, req tokenRequest) (acquire.Token, http.RoundTripper, *problem) {
	presenter, ok := rec.rules.Tokens.(Presenter)
	if !ok {
		return acquire.Token{}, nil, newProblem(wire.CodeInternal, "the agent cannot use tokens").causedBy(errors.New("the token source is no Presenter"))
	}
	var lastErr error
	for range 2 {
		token, p := s.fetch(ctx, rec, req)
		if p != nil {
			return acquire.Token{}, nil, p
		}
		over, err := presenter.Presenting(token)
		if err == nil {
			return token, over, nil
		}
		lastErr = err
	}
	return acquire.Token{}, nil, newProblem(wire.CodeUnavailable, "%v", lastErr).retryable(time.Second)
}

// uses notes that a token is used for the caller.
func (r *record) uses(token acquire.Token) {
	r.issues(token)
	r.calls = true
}

// pass makes the call and notes its end.
func (s *Server) pass(w http.ResponseWriter, r *http.Request, call forward.Call, rec *record) *problem {
	begun := s.cfg.Now()
	result, err := s.forwarder.Do(w, r, call)
	p, end := s.callProblem(r, rec, err), endOf(r, result, err)
	s.countCall(rec, result.Status, end)
	s.Note("call ended",
		slog.String("request_id", rec.ids.own),
		slog.Uint64("uid", uint64(rec.caller.UID)),
		slog.String("identity", rec.identity),
		slog.String("method", rec.method),
		slog.String("host", rec.host),
		slog.Int("status", result.Status),
		slog.Int64("sent_bytes", result.Sent),
		slog.Int64("received_bytes", result.Received),
		slog.Int64("duration_ms", s.cfg.Now().Sub(begun).Milliseconds()),
		slog.String("end", end),
	)
	if err != nil && (result.Status != 0 || r.Context().Err() != nil && !errors.Is(context.Cause(r.Context()), errStopping)) {
		// The caller must not take half an answer for the whole, which is impossible to tell by
		// returning. This is net/http's way to break an answer off.
		panic(http.ErrAbortHandler)
	}
	return p
}

// endOf is how a call ended, for the audit and the metrics: in words that stay the same.
func endOf(r *http.Request, result forward.Result, err error) string {
	switch {
	case err == nil:
		return "complete"
	case errors.Is(err, forward.ErrIdle):
		return "idle"
	case errors.Is(err, errStopping):
		return "stopping"
	case r.Context().Err() != nil, errors.Is(err, forward.ErrCaller):
		return "caller"
	case result.Status == 0:
		return "unreachable"
	}
	return "broken"
}

// callProblem says why there is no answer of the resource, nil without an error.
func (s *Server) callProblem(r *http.Request, rec *record, err error) *problem {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, forward.ErrIdle):
		return newProblem(wire.CodeResourceTimeout, "%s: %v", rec.host, err)
	case errors.Is(err, errStopping):
		return newProblem(wire.CodeUnavailable, "%v", errStopping).retryable(time.Second)
	}
	return newProblem(wire.CodeResourceUnreachable, "calling %s: %v", rec.host, err).
		withHint("the agent reaches resources as it reaches Entra: directly, or by the proxy of its configuration")
}
