package agentapi

import (
	"net/http"
	"strings"
	"time"

	"github.com/keyagent/keyagent/agentapi/wire"
)

// bodies says how long the body of a request may be, by the path of its route. Requests of other
// routes have none.
var bodies = map[string]int64{
	wire.PathBindingSign: wire.MaxSignBytes,
	wire.PathEvidence:    wire.MaxEvidenceRequestBytes,
	wire.PathBridge:      anyLength,
}

// anyLength is the bound of bodies that are passed on as they come.
const anyLength = -1

// bodyTimeout is how long a caller may take to send a body.
const bodyTimeout = 10 * time.Second

// limitBody keeps the body of a request within the bounds of its route.
func (rt *route) limitBody(w http.ResponseWriter, r *http.Request) {
	limit, takes := bodies[rt.path]
	if !takes || limit == anyLength || r.ContentLength == 0 {
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, limit)
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout)) // a recorder of a test has none
}

// unexpectedBody refuses a body where none is taken.
func (rt *route) unexpectedBody(r *http.Request) *problem {
	if _, takes := bodies[rt.path]; takes || r.ContentLength == 0 {
		return nil
	}
	return newProblem(wire.CodeUnexpectedBody, "requests for this path have no body")
}

// withIdentity returns the spelling of paths with the name of an identity as one of their segments.
// Nothing is decoded. An empty name, and one with a slash, match nothing.
func withIdentity(pattern string) func(path string) string {
	return func(path string) string {
		if pathParam(pattern, path) == "" {
			return path
		}
		return pattern
	}
}

// pathParam returns what a request target has in the place of the identity of a pattern; "" if it
// does not match.
func pathParam(pattern, target string) string {
	path, _, _ := strings.Cut(target, "?")
	before, after, _ := strings.Cut(pattern, wire.PathParamIdentity)
	rest, begins := strings.CutPrefix(path, before)
	name, ends := strings.CutSuffix(rest, after)
	if !begins || !ends || strings.Contains(name, "/") {
		return ""
	}
	return name
}
