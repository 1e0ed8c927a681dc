package agentapi

import (
	"cmp"
	"net/http"
	"strconv"
	"time"

	"github.com/keyagent/keyagent/agentapi/wire"
)

// Metrics counts answers, and writes the numbers in a format for machines. It must be safe for
// concurrent use.
type Metrics interface {
	// Answered counts an answer, before it is sent. It must not block.
	Answered(Answer)
	// CallEnded counts a call to a resource, made for a caller, that is over. It must not block.
	CallEnded(Call)
	// Text is all numbers in Prometheus' text format (0.0.4). Without names it says no name of the
	// configuration.
	Text(now Snapshot, names bool) ([]byte, error)
}

// Answer has the labels by which an answer is counted. All its texts are the agent's own or of the
// configuration, so that a caller cannot make ever more of them.
type Answer struct {
	Endpoint string    // by which it was given, as the audit names it; "socket" for the Unix socket
	Decision string    // the outcome, as the audit has it: "issued", "used", "signed", "passed" and so on
	Code     wire.Code // "" without a problem
	Identity string    // of the configuration; "" where none is asked for, or none that exists
	Strength string    // of the credential that obtained the token; "" without one
	Source   string    // of the token: one of [Sources]; "" without one
	Took     time.Duration
}

// Call has the labels by which a call to a resource is counted, in texts as those of [Answer].
type Call struct {
	Identity string // of the configuration
	End      string // as the audit has it: "complete", "unreachable", "broken", "idle", "caller" or "stopping"
	Status   string // of the resource's answer, by its class: "1xx" to "5xx"; "": there was none
}

// Sources of tokens.
const (
	SourceCache = "cache"
	SourceEntra = "entra"
	SourceIMDS  = "imds"
)

// Sources returns all of them.
func Sources() []string { return []string{SourceCache, SourceEntra, SourceIMDS} }

// Snapshot has the values of the gauges at this moment.
type Snapshot struct {
	Status      wire.Status
	Connections int64  // open ones
	TurnedAway  uint64 // since the start, because a bound was reached
}

// noMetrics are those of a server without any.
type noMetrics struct{}

func (noMetrics) Answered(Answer)                     {}
func (noMetrics) CallEnded(Call)                      {}
func (noMetrics) Text(Snapshot, bool) ([]byte, error) { return []byte{}, nil }

// metrics answers GET /metrics, for programs that watch many machines. Only an administrator is
// told names.
func (s *Server) metrics(r *http.Request, rec *record) (reply, *problem) {
	status, p := s.statusOf(r, rec)
	if p != nil {
		return reply{}, p
	}
	now := Snapshot{status, s.connections.Load(), s.turnedAway.Load()}
	text, err := s.cfg.Metrics.Text(now, rec.route.tellsNames())
	if err != nil {
		return reply{}, newProblem(wire.CodeInternal, "the metrics cannot be collected; the agent's log says why").causedBy(err)
	}
	return reply{text: text}, nil
}

// tellsNames reports whether those who may use a route may know names of the configuration, and why
// the agent is not ready.
func (r *route) tellsNames() bool { return r.permission == forAdministrators }

// socketEndpoint is the name of the agent's own socket where it needs one.
const socketEndpoint = "socket"

// count counts an answer.
func (s *Server) count(r *record, p *problem, begun time.Time) {
	identity := r.identityNamed(r.identity)
	a := Answer{Endpoint: cmp.Or(r.face.name, socketEndpoint), Decision: r.decision(p), Identity: identity.Name, Took: s.cfg.Now().Sub(begun)}
	if p != nil {
		a.Code = p.Code
	}
	if r.issued {
		a.Strength, a.Source = r.token.strength, r.token.source(identity)
	}
	s.cfg.Metrics.Answered(a)
}

// countCall counts a call to a resource.
func (s *Server) countCall(r *record, status int, end string) {
	call := Call{Identity: r.identityNamed(r.identity).Name, End: end}
	if class := status / 100; class >= 1 && class <= 5 {
		call.Status = strconv.Itoa(class) + "xx"
	}
	s.cfg.Metrics.CallEnded(call)
}

// source is where a token of an identity has come from.
func (t facts) source(of Identity) string {
	switch {
	case t.fromCache:
		return SourceCache
	case !t.bound && of.Kind == wire.KindManagedIdentity:
		return SourceIMDS
	}
	return SourceEntra
}
