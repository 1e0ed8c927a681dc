package agentapi

import (
	"log/slog"
	"net/http"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/internal/secret"
)

// maxRememberedBytes limits the request target that a connection remembers. Only claims make one
// longer, and the same claims are not sent twice.
const maxRememberedBytes = 1024

// approval is a request for a token that the rules allow. Programs ask for the same token again and
// again, so each connection remembers its last one, as far as it follows from the request target,
// the caller and the rules alone. The method, the headers, the route's permission and proof, what
// the caller may have fetched, and the token are looked at each time.
type approval struct {
	target  string // as it came
	request tokenRequest
	record  record // of the request when the rules had allowed it, with those rules

	// audit puts records of tokens with these facts into the trail; nil: there was none yet.
	audit slog.Handler
	facts facts

	token secret.String // that was answered last: its characters need not be looked at again

	// said is the answer's body for that token, without the token and the members that may change.
	said                 []byte
	of                   facts
	expiresIn, refreshIn int64 // seconds
}

// saidBefore returns the answer, without the token, that the same request got within the same
// second; nil if there was none. It is to be used for the same token only.
func (r *record) saidBefore(response wire.TokenResponse) []byte {
	a := r.approval
	if a == nil || a.of != r.token || a.expiresIn != response.ExpiresIn || a.refreshIn != response.RefreshIn {
		return nil
	}
	return a.said
}

// says notes an answer for [record.saidBefore].
func (r *record) says(response wire.TokenResponse, text []byte) {
	if a := r.approval; a != nil {
		a.said, a.of, a.expiresIn, a.refreshIn = text, r.token, response.ExpiresIn, response.RefreshIn
	}
}

// answeredBefore reports whether a token is the one that the same request was answered with.
func (r *record) answeredBefore(token secret.String) bool {
	return r.approval != nil && !r.approval.token.IsZero() && r.approval.token.Reveal() == token.Reveal()
}

// approved returns the approval of a request, nil unless it is the same as the last one and the
// rules in force are still those that allowed it.
func (c *connection) approved(r *http.Request, rules *Rules) *approval {
	if c == nil || c.last == nil || c.last.target != r.RequestURI || c.last.record.method != r.Method || c.last.record.rules != rules {
		return nil
	}
	return c.last
}

// approve has the connection remember a request that the rules allow. Not remembered are requests
// whose identity was found by an id learnt from a token, and those allowed to a unit or a program:
// these can change while the rules stay.
func (r *record) approve(target string, req tokenRequest) {
	learnt := req.selection.of != nil && !req.selection.matches(r.identityNamed(req.Identity))
	byMachine := r.unit != "" || r.executable != ""
	if r.conn == nil || learnt || byMachine || len(target) > maxRememberedBytes {
		return
	}
	r.approval = &approval{target: target, request: req, record: *r}
	r.conn.last = r.approval
}

// auditHandler returns a handler that adds what there is to say of the answer to a record. For the
// same answer again it is that of the last one, in which the attributes are formatted already.
func (r *record) auditHandler(trail slog.Handler, p *problem) slog.Handler {
	if p != nil || !r.issued || r.approval == nil { // a failed request is never remembered
		return trail.WithAttrs(r.attrs(p))
	}
	a := r.approval
	if a.audit == nil || a.facts != r.token {
		a.audit, a.facts = trail.WithAttrs(r.attrs(p)), r.token
	}
	return a.audit
}
