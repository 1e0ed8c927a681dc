package agentapi

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/internal/secret"
)

// routes is every request that the agent answers, and who may make it.
var routes = []route{
	{http.MethodGet, wire.PathToken, native, forCallersOfRules, (*Server).token},
	{http.MethodGet, wire.PathIMDSToken, imds, forCallersOfRules, (*Server).imdsToken},
	{http.MethodGet, wire.PathIdentities, native, forCallersOfRules, (*Server).identities},
	{http.MethodGet, wire.PathCapabilities, native, forCallersOfRules, (*Server).capabilities},
	{http.MethodGet, wire.PathStatus, native, forAdministrators, (*Server).status},
}

type route struct {
	method, path string
	shape        shape
	permission   permission
	handle       handler
}

// handler answers a request whose caller has the route's permission. It returns
// what a 200 says, or a problem, and notes for the audit what it learns.
type handler func(*Server, *http.Request, *record) (reply, *problem)

// reply is what a 200 says: a body to be encoded as JSON, or a token and the
// JSON that follows it. The two are put together when they are sent.
type reply struct {
	body  any
	token secret.String
	tail  tail
}

// permission says who may use a route. Its zero value is no permission, so that
// it cannot be forgotten.
type permission int

const (
	_                 permission = iota
	forCallersOfRules            // whom at least one rule names; what they may have is decided on the request
	forAdministrators            // root, the agent's own user, and whom the policy says
)

// permit returns why the caller may not use a route, or nil.
func (r *Rules) permit(needed permission, caller peer.Caller) *problem {
	switch needed {
	case forCallersOfRules:
		if r.Policy.Named(caller) {
			return nil
		}
		return newProblem(wire.CodeCallerNotAllowed, "no rule names uid %d or its groups", caller.UID).
			withHint("ask whoever administers the agent for a rule that names this user, with the identity and the resource that it needs")
	case forAdministrators:
		if r.Policy.Admin(caller) {
			return nil
		}
		return newProblem(wire.CodeAdminOnly, "uid %d does not administer the agent", caller.UID).
			withHint("this is for the administrators that the agent's configuration names; keyagent capabilities says what tokens can be had here, and " +
				"an error of keyagent token why one was not given")
	}
	return newProblem(wire.CodeCallerNotAllowed, "")
}

func checkRoutes(routes []route) error {
	seen := make(map[string]bool)
	for _, r := range routes {
		if r.permission == 0 || r.method == "" || r.path == "" || r.shape == 0 || r.handle == nil {
			return fmt.Errorf("agentapi: route %q %q is not complete", r.method, r.path)
		}
		if seen[r.path] {
			return errors.New("agentapi: two routes for " + r.path)
		}
		seen[r.path] = true
	}
	return nil
}

// routeOf finds the route of a request target (RFC 9112, 3.2) as it came,
// undecoded: whatever is encoded, dotted or absolute matches nothing.
func routeOf(target string) (route, bool) {
	path, _, _ := strings.Cut(target, "?")
	for _, r := range routes {
		if path == r.path || r.shape == imds && withoutExtraSlashes(path) == r.path {
			return r, true
		}
	}
	return route{}, false
}

// withoutExtraSlashes undoes what SDKs do to the path when they join it to a
// base URL that ends in a slash.
func withoutExtraSlashes(path string) string {
	for strings.Contains(path, "//") {
		path = strings.ReplaceAll(path, "//", "/")
	}
	if len(path) > 1 {
		path = strings.TrimSuffix(path, "/")
	}
	return path
}
