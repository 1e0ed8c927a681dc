package agentapi

import (
	"cmp"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/agentapi/wire"
)

// maxAuditedBytes limits every text in a record that a caller chose.
const maxAuditedBytes = 256

// record is what the audit keeps of one answer. It has no place for a token.
type record struct {
	rules        *Rules      // by which the request is answered
	conn         *connection // that the request came on; nil: it is not known
	known        bool        // the connection is the caller's
	caller       peer.Caller
	route        *route
	method, path string
	face         *face // that the request came by
	ids          requestIDs
	approval     *approval // of the same request before, or of this one; nil: there is none

	holder string // the identity that the program's secret names; "": it showed none

	identity, resource, tokenType string        // as asked
	forceRefresh, claims          bool          // whether it was asked with them
	rule                          string        // that allowed it
	unit, executable              string        // of the rule that allowed it, if it has some
	reason                        policy.Reason // why it was refused; "" otherwise

	issued bool
	token  facts
	calls  bool   // the agent uses the token in a call, and the caller does not get it
	host   string // that is called

	handshake handshake // that is signed, or was to be
	attested  attested  // evidence that is given, or was to be
	passed    int       // status of an answer of IMDS that is passed on; 0: none is

	patience    time.Duration // that the caller is credited with
	beyondQuota bool          // it is counted and not written
}

// facts is what the audit keeps of a token.
type facts struct {
	credential, strength, thumbprint string
	bound, fallback, fromCache       bool
}

// asksFor notes the identity and resource that a request names. Members that the request does not
// set keep their value.
func (r *record) asksFor(req tokenRequest) {
	if req.Identity != "" {
		r.identity = clip(req.Identity, maxAuditedBytes)
	}
	r.resource = clip(req.Resource.Asked(), maxAuditedBytes)
	r.tokenType = clip(req.TokenType, maxAuditedBytes)
	r.forceRefresh, r.claims = req.ForceRefresh, req.claims != ""
}

// notes keeps the parameters, as they were sent, of a request that was refused before they were
// looked at.
func (r *record) notes(query string) {
	asked, err := url.ParseQuery(query)
	if err != nil {
		return
	}
	r.identity = clip(asked.Get(wire.ParamIdentity), maxAuditedBytes)
	for _, selector := range selectors {
		if value := asked.Get(selector.param); value != "" && r.identity == "" {
			r.identity = clip(selector.param+"="+value, maxAuditedBytes)
		}
	}
	r.resource = clip(cmp.Or(asked.Get(wire.ParamResource), asked.Get(wire.ParamScope)), maxAuditedBytes)
	r.tokenType = clip(asked.Get(wire.ParamType), maxAuditedBytes)
	r.forceRefresh, r.claims = asked.Get(wire.ParamForceRefresh) == "true", asked.Has(wire.ParamClaims)
}

func (r *record) issues(token acquire.Token) {
	r.issued = true
	if r.approval != nil {
		r.approval.token = token.AccessToken
	}
	r.token = facts{
		credential: token.Credential,
		strength:   string(token.Strength),
		thumbprint: token.Binding.Thumbprint,
		bound:      token.Bound,
		fallback:   token.Fallback,
		fromCache:  token.FromCache,
	}
}

// gives reports whether the answer gives the caller a token, a signature or evidence, so that it
// leaves a record in any case.
func (r *record) gives() bool { return r.issued || r.handshake.signed || r.attested.given }

// decision is the outcome of a request: "issued" a token, "used" one for the caller, "signed" a TLS
// handshake, "attested" with evidence, "passed" an answer of IMDS on, "answered" something else,
// "refused" the request, or "failed" at something allowed.
func (r *record) decision(p *problem) string {
	switch {
	case p == nil && r.handshake.signed:
		return "signed"
	case p == nil && r.attested.given:
		return "attested"
	case p == nil && r.calls:
		return "used"
	case p == nil && r.issued:
		return "issued"
	case p == nil && r.passed != 0:
		return "passed"
	case p == nil:
		return "answered"
	case r.reason != "":
		return "refused"
	case p.Status >= 500 || p.Code == wire.CodeThrottled:
		return "failed"
	}
	return "refused"
}

// recorded puts an answer on record and returns why it must not be sent, or p: where the audit is
// required, no token leaves without its record.
func (s *Server) recorded(r *record, p *problem) *problem {
	err := s.audit(r, p)
	if err == nil || !r.gives() || !s.cfg.AuditRequired {
		return p
	}
	r.issued, r.handshake.signed, r.attested.given = false, false, false
	p = newProblem(wire.CodeAuditUnavailable, "the record of this answer cannot be written: %v", err).retryable(time.Second).
		withHint(s.cfg.AuditPlace.whatToSee() + "; keyagent status says when records are written again")
	_ = s.audit(r, p) // which is noted and told by the trail itself
	return p
}

// audit writes the record of an answer. It is called before the answer is sent, so that no token
// leaves before its record is written, or is known not to be. It returns after auditPatience at
// most. Answers that cost the caller nothing are recorded up to a bound; those beyond it are
// counted, and are not in the log either.
func (s *Server) audit(r *record, p *problem) error {
	if !s.trail.kept() {
		return nil
	}
	if !r.gives() && !s.trail.quota.admits(r.caller, r.rules.Policy.Standing(r.caller), r.kind(p), s.cfg.Now()) {
		r.beyondQuota = true
		return nil
	}
	return s.trail.write(r.auditHandler(s.trail.handler, p), r.ids, r.gives())
}

// kind is the key by which answers without a record of their own are counted.
func (r *record) kind(p *problem) string {
	if p == nil {
		return r.decision(p)
	}
	return string(p.Code)
}

func (r *record) attrs(p *problem) []slog.Attr {
	status, code := http.StatusOK, wire.Code("")
	switch {
	case p != nil:
		status, code = p.Status, p.Code
	case r.passed != 0:
		status = r.passed
	}
	attrs := make([]slog.Attr, 0, 30)
	attrs = append(attrs,
		slog.String("decision", r.decision(p)),
		slog.Int("status", status), // a call has another when it has ended
	)
	if r.caller.UID != noID {
		attrs = append(append(attrs, slog.Uint64("uid", uint64(r.caller.UID))), r.callerAttrs()...)
	}
	attrs = append(attrs, slog.String("method", r.method), slog.String("route", r.path))
	if r.face != nil {
		attrs = appendUnlessEmpty(attrs, "endpoint", r.face.name)
	}
	attrs = appendUnlessEmpty(attrs, "code", string(code))
	attrs = appendUnlessEmpty(attrs, "reason", string(r.reason))
	attrs = appendUnlessEmpty(attrs, "identity", r.identity)
	attrs = appendUnlessEmpty(attrs, "resource", r.resource)
	attrs = appendUnlessEmpty(attrs, "host", r.host)
	attrs = appendUnlessEmpty(attrs, "type", r.tokenType)
	if r.tokenType != "" {
		attrs = append(attrs, slog.Bool("force_refresh", r.forceRefresh), slog.Bool("claims", r.claims))
	}
	attrs = append(attrs, r.handshake.attrs()...)
	attrs = append(attrs, r.attested.attrs()...)
	attrs = appendUnlessEmpty(attrs, "rule", r.rule)
	if r.issued {
		attrs = append(attrs,
			slog.String("credential", r.token.credential),
			slog.Bool("bound", r.token.bound),
			slog.String("strength", r.token.strength),
			slog.Bool("fallback", r.token.fallback),
			slog.String("thumbprint", r.token.thumbprint),
			slog.Bool("from_cache", r.token.fromCache),
		)
	}
	return attrs
}

func appendUnlessEmpty(attrs []slog.Attr, key, value string) []slog.Attr {
	if value == "" {
		return attrs
	}
	return append(attrs, slog.String(key, value))
}
