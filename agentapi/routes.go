package agentapi

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/internal/secret"
)

// socketRoutes is every request that the agent answers on its Unix socket, and who may make it.
var socketRoutes = append([]route{
	{http.MethodGet, wire.PathToken, asItIs, problemJSON, forCallersOfRules, nothingMore, nativeForm.issue},
	{http.MethodGet, wire.PathIMDSToken, withoutExtraSlashes, imdsErrors.format, forCallersOfRules, metadataHeader, imdsForm.issue},
	{http.MethodGet, wire.PathIdentities, asItIs, problemJSON, forCallersOfRules, nothingMore, (*Server).identities},
	{http.MethodPost, wire.PathEndpoint, asItIs, problemJSON, forCallersOfRules, nothingMore, (*Server).endpoint},
	{http.MethodGet, wire.PathCapabilities, asItIs, problemJSON, forCallersAndAdministrators, nothingMore, (*Server).capabilities},
	{http.MethodGet, wire.PathBinding, withIdentity(wire.PathBinding), problemJSON, forCallersOfRules, nothingMore, (*Server).binding},
	{http.MethodPost, wire.PathBindingSign, withIdentity(wire.PathBindingSign), problemJSON, forCallersOfRules, nothingMore, (*Server).sign},
	{http.MethodPost, wire.PathEvidence, asItIs, problemJSON, forCallersOfRules, nothingMore, (*Server).evidence},
	{anyMethod, wire.PathBridge, below(wire.PathBridge), problemJSON, forCallersOfRules, noUpgrade, (*Server).bridge},
}, adminRoutes...)

// anyMethod is the method of routes that take all but those of which the answer could show what the
// agent has added to a request, or that make another connection.
const anyMethod = "*"

// allowOfAnyMethod names the usual ones of them.
const allowOfAnyMethod = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"

// takes reports whether a request may have the method.
func (r *route) takes(method string) bool {
	if r.method == anyMethod {
		return !slices.Contains([]string{http.MethodTrace, "TRACK", http.MethodConnect}, method)
	}
	return r.method == method
}

// allow names the methods of a route for callers who have used another one (RFC 9110, 10.2.1).
func (r *route) allow() string {
	if r.method == anyMethod {
		return allowOfAnyMethod
	}
	return r.method
}

// A route is one request, and all in which it differs from others before its parameters are read.
type route struct {
	method, path string
	// spelling returns the path that a caller means by the one that it sends.
	spelling   func(path string) string
	errors     errorFormat
	permission permission
	// proof says what each request must have besides the permission of its caller, or nil.
	proof  func(*Server, *http.Request, *record) *problem
	handle handler
}

// handler answers a request whose caller has the route's permission. It returns what a 200 says, or
// a problem, and notes for the audit what it learns.
type handler func(*Server, *http.Request, *record) (reply, *problem)

// reply is what a 200 says: a body to be encoded as JSON, or a text for Prometheus. If it is that
// of a token, its JSON begins with the member of an empty one, and the token is put there when it
// is sent.
type reply struct {
	body any
	json []byte // the body, encoded already
	text []byte // in the place of the body
	kind string // media type; "": JSON, or that of a text
	// foreign is an answer of IMDS that is passed on in the place of one of the agent's; nil: none.
	foreign *MetadataAnswer
	token   secret.String
	// stream writes the answer in the place of all this, or returns why there is none.
	stream func(http.ResponseWriter, *http.Request) *problem
}

// nothingMore is the proof of routes for which it is enough who the caller is.
func nothingMore(*Server, *http.Request, *record) *problem { return nil }

// metadataHeader is the proof that a request to IMDS was not made by a program that was tricked
// into fetching a URL.
func metadataHeader(_ *Server, r *http.Request, _ *record) *problem {
	if given := r.Header.Values(wire.HeaderMetadata); len(given) == 1 && strings.EqualFold(given[0], "true") {
		return nil
	}
	return newProblem(wire.CodeMissingParameter, "Required metadata header not specified").withField(wire.HeaderMetadata)
}

// permission says who may use a route. Its zero value is no permission, so that it cannot be
// forgotten.
type permission int

const (
	_                           permission = iota
	forCallersOfRules                      // callers named by a rule; what they may have is decided on the request
	forAdministrators                      // root, the agent's own user, and administrators of the policy
	forCallersAndAdministrators            // both
	forCallersOfTheFace                    // whoever its way to identify callers lets in
)

// permit returns why the caller may not use a route, or nil.
func (r *Rules) permit(needed permission, caller peer.Caller) *problem {
	switch needed {
	case forCallersOfTheFace:
		return nil
	case forCallersOfRules, forCallersAndAdministrators:
		if r.Policy.Named(caller) || needed == forCallersAndAdministrators && r.Policy.Admin(caller) {
			return nil
		}
		if p := r.otherwiseNamed(caller); p != nil {
			return p
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
		if r.permission == 0 || r.method == "" || r.path == "" || r.spelling == nil || r.errors == nil || r.proof == nil || r.handle == nil {
			return fmt.Errorf("agentapi: route %q %q is not complete", r.method, r.path)
		}
		if seen[r.path] {
			return errors.New("agentapi: two routes for " + r.path)
		}
		seen[r.path] = true
	}
	return nil
}

// routeOf finds the route of a request target (RFC 9112, 3.2) as it came, undecoded: whatever is
// encoded, dotted or absolute matches nothing, and gives a route without a handler.
func (f *face) routeOf(target string) *route {
	path, _, _ := strings.Cut(target, "?")
	for i := range f.routes {
		if r := &f.routes[i]; r.spelling(path) == r.path {
			return r
		}
	}
	return &route{path: clip(withoutSecrets(path), maxAuditedBytes), errors: f.errors}
}

// asItIs is the spelling of paths that are compared byte for byte.
func asItIs(path string) string { return path }

// below is the spelling of all paths that begin with a prefix: they mean the prefix.
func below(prefix string) func(string) string {
	return func(path string) string {
		if strings.HasPrefix(path, prefix) {
			return prefix
		}
		return path
	}
}

// withoutExtraSlashes undoes what SDKs do to the path when they join it to a base URL that ends in
// a slash.
func withoutExtraSlashes(path string) string {
	for strings.Contains(path, "//") {
		path = strings.ReplaceAll(path, "//", "/")
	}
	if len(path) > 1 {
		path = strings.TrimSuffix(path, "/")
	}
	return path
}
