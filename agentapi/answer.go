package agentapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/keyagent/keyagent/agentapi/wire"
)

// refusedHeaders mark a request that a browser or a proxy makes for somebody else than the user
// that the kernel names.
var refusedHeaders = []string{"Origin", "Referer", "Sec-Fetch-Site", "X-Forwarded-For", "Forwarded"}

// handler returns what answers the requests that come by a face.
func (s *Server) handler(f *face) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.serve(f, w, r) })
}

// serve answers one request: find its route, answer, audit, count, write.
func (s *Server) serve(f *face, w http.ResponseWriter, r *http.Request) {
	begun := s.cfg.Now()
	if conn := connectionOf(r.Context()); conn != nil && conn.asked != nil {
		conn.asked()
	}
	rec := s.begin(f, r)
	rec.ids = idsOf(r)
	w.Header()[wire.HeaderRequestID] = []string{rec.ids.own}
	rec.route.limitBody(w, r)
	said, p := s.answer(r, rec)
	text, p := encode(said, p)
	p = s.recorded(rec, p)
	s.count(rec, p, begun)
	if p == nil && said.stream != nil {
		if p = said.stream(w, r); p == nil {
			return
		}
	}
	if p != nil {
		s.logReason(r.Context(), rec, p)
		p.RequestID = rec.ids.own
		// A stranger is disconnected after its refusal: an idle connection takes a place.
		p.close = r.ContentLength != 0 || !rec.known || rec.rules.stranger(rec.caller)
		s.writeProblem(w, r, rec.route.errors, p)
		return
	}
	status, contentType := said.head()
	write(w, status, contentType, said.token.Reveal(), text)
}

// logReason puts into the log what operators would not see otherwise: a fault of the agent, and
// errors that keep a program on loopback from its token, since some programs do not show them.
func (s *Server) logReason(ctx context.Context, rec *record, p *problem) {
	switch {
	case rec.beyondQuota:
	case p.cause != nil:
		s.cfg.Logger.ErrorContext(ctx, "answering a request", "request_id", rec.ids.own, "code", p.Code, "detail", p.Detail, "error", p.cause)
	case rec.face.name != "" && rec.tokenType != "" && p.Status >= http.StatusInternalServerError:
		s.cfg.Logger.WarnContext(ctx, "a program gets no token", "request_id", rec.ids.own, "endpoint", rec.face.name, "uid", rec.caller.UID, "code", p.Code, "detail", p.Detail)
	}
}

// begin finds the route of a request and begins its record.
func (s *Server) begin(f *face, r *http.Request) *record {
	conn, rules := connectionOf(r.Context()), s.rules.Load()
	known := conn != nil && conn.check()
	if again := conn.approved(r, rules); again != nil {
		rec := again.record
		rec.approval = again
		return &rec
	}
	found := f.routeOf(r.RequestURI)
	rec := &record{rules: rules, conn: conn, face: f, route: found, known: known, method: clip(withoutSecrets(r.Method), maxAuditedBytes), path: found.path}
	if conn != nil {
		rec.caller = conn.caller
	}
	return rec
}

// answer makes every check that does not depend on the route's own parameters.
func (s *Server) answer(r *http.Request, rec *record) (reply, *problem) {
	found := rec.route
	if !rec.known {
		rec.reason = reasonUnknown
		return reply{}, newProblem(wire.CodeCallerNotAllowed, "the caller is not known")
	}
	if p := rec.face.guards(r, rec); p != nil {
		return reply{}, p
	}
	if found.handle == nil {
		return reply{}, newProblem(wire.CodeNotFound, "there is no path %q", rec.path).withHint(rec.face.about)
	}
	if !found.takes(r.Method) {
		p := newProblem(wire.CodeMethodNotAllowed, "%s takes %s only", found.path, found.allow())
		p.allow = found.allow()
		return reply{}, p
	}
	for _, name := range refusedHeaders {
		if _, there := r.Header[name]; there {
			return reply{}, newProblem(wire.CodeRefusedHeader, "header %s is not accepted", name).withField(name)
		}
	}
	if p := found.unexpectedBody(r); p != nil {
		return reply{}, p
	}
	if p := rec.rules.permit(found.permission, rec.caller); p != nil {
		rec.notes(r.URL.RawQuery)
		rec.reason = rec.rules.unnamed(found.permission, rec.caller)
		return reply{}, p
	}
	if p := found.proof(s, r, rec); p != nil {
		return reply{}, p
	}
	return found.handle(s, r, rec)
}

// status answers GET /v1/status.
func (s *Server) status(r *http.Request, rec *record) (reply, *problem) {
	status, p := s.statusOf(r, rec)
	return reply{body: status}, p
}

// capabilities answers GET /v1/capabilities.
func (s *Server) capabilities(r *http.Request, _ *record) (reply, *problem) {
	if _, p := parseQuery(r.URL.RawQuery, nil, refuseUnknown); p != nil {
		return reply{}, p
	}
	return reply{body: s.cfg.Capabilities(r.Context())}, nil
}

// identities answers GET /v1/identities: those of the caller's rules, and no other.
func (s *Server) identities(r *http.Request, rec *record) (reply, *problem) {
	if _, p := parseQuery(r.URL.RawQuery, nil, refuseUnknown); p != nil {
		return reply{}, p
	}
	found := []wire.Identity{}
	for _, grant := range rec.rules.Policy.Grants(rec.caller) {
		i := slices.IndexFunc(rec.rules.Identities, func(id Identity) bool { return id.Name == grant.Identity })
		if i < 0 {
			continue // not reached: SetRules has compared them
		}
		id := rec.rules.Identities[i]
		found = append(found, wire.Identity{
			Name: id.Name, Kind: id.Kind, ClientID: id.ClientID, Resources: grant.Resources, Types: grant.TokenTypes, Hosts: grant.Hosts, Sign: grant.Sign,
			Evidence: grant.Evidence,
		})
	}
	return reply{body: found}, nil
}

// head is the status and the media type of an answer.
func (r reply) head() (status int, contentType string) {
	switch {
	case r.foreign != nil:
		return r.foreign.Status, r.foreign.Kind
	case r.text != nil:
		return http.StatusOK, wire.ContentTypeMetrics
	case r.kind != "":
		return http.StatusOK, r.kind
	}
	return http.StatusOK, wire.ContentTypeJSON
}

// tokenFirst is how the JSON of every answer with a token begins, before the token.
const tokenFirst = `{"access_token":"`

// encode turns the body of an answer into JSON. One that cannot be encoded is a problem like any
// other: it must not become half an answer.
func encode(said reply, p *problem) ([]byte, *problem) {
	if p != nil {
		return nil, p
	}
	if said.foreign != nil {
		return said.foreign.Body, nil
	}
	if said.text != nil || said.stream != nil {
		return said.text, nil
	}
	if said.json != nil {
		return said.json, nil
	}
	text, err := json.Marshal(said.body)
	if err != nil {
		return nil, newProblem(wire.CodeInternal, "encoding the answer").causedBy(err)
	}
	return text, nil
}

// encodeToken is encode for the answer with a token, which has an empty one as its first member.
func encodeToken(body any) ([]byte, *problem) {
	text, err := json.Marshal(body)
	if err == nil && !bytes.HasPrefix(text, []byte(tokenFirst)) {
		err = errors.New("the token is not its first member")
	}
	if err != nil {
		return nil, newProblem(wire.CodeInternal, "encoding the answer").causedBy(err)
	}
	return text, nil
}

func (s *Server) writeProblem(w http.ResponseWriter, r *http.Request, format errorFormat, p *problem) {
	header := w.Header()
	status, contentType, body := format(p)
	header.Set(wire.HeaderError, string(p.Code))
	if p.RetryAfter > 0 {
		header.Set("Retry-After", strconv.FormatInt(p.RetryAfter, 10))
	}
	if p.allow != "" {
		header.Set("Allow", p.allow)
	}
	if p.close {
		header.Set("Connection", "close")
		// net/http reads on to the end of the body before it closes; a caller that does not send
		// one must not hold the connection.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(time.Second))
	}
	text, err := json.Marshal(body)
	if err != nil {
		s.cfg.Logger.ErrorContext(r.Context(), "encoding a problem", "request_id", p.RequestID, "error", err)
	}
	write(w, status, contentType, "", text)
}

// Values of headers that all answers share; net/http does not change them.
var (
	noStore = []string{"no-store"}
	noSniff = []string{"nosniff"}
)

// write sends an answer. A token, which needs no escapes, is put where it belongs on its way:
// encoding/json would look at each of its bytes and copy it twice, which took as long as a tenth of
// the whole answer.
func write(w http.ResponseWriter, status int, contentType, token string, body []byte) {
	header := w.Header()
	header["Content-Type"] = []string{contentType}
	header["Content-Length"] = []string{strconv.Itoa(len(token) + len(body))}
	header["Cache-Control"] = noStore
	header["X-Content-Type-Options"] = noSniff
	w.WriteHeader(status)
	if token != "" {
		_, _ = w.Write(body[:len(tokenFirst)])
		_, _ = io.WriteString(w, token)
		body = body[len(tokenFirst):]
	}
	_, _ = w.Write(body) // the caller may be gone; the decision is in the audit
}
