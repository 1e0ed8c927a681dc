package agentapi

import (
	"context"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"time"

	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/agentapi/wire"
)

// Route is what tests may know of a route.
type Route struct{ Method, Path string }

// Routes returns the table of routes of the Unix socket.
func Routes() []Route { return routesOf(socketRoutes) }

// AllRoutes returns every route of every face, each path once.
func AllRoutes() []Route {
	taken, err := takeoverRoutes([]string{wire.PassInstance, wire.PassAttested, wire.PassScheduledEvents}, nil)
	if err != nil {
		panic(err)
	}
	all := routesOf(slices.Concat(socketRoutes, appServiceRoutes, imdsRoutes, taken))
	slices.SortFunc(all, func(a, b Route) int { return strings.Compare(a.Path, b.Path) })
	return slices.Compact(all)
}

func routesOf(routes []route) []Route {
	var all []Route
	for _, r := range routes {
		all = append(all, Route{r.method, r.path})
	}
	return all
}

// Of routes that take any method.
const (
	AnyMethod        = anyMethod
	AllowOfAnyMethod = allowOfAnyMethod
)

// HandlerFor answers requests as if they came from the caller.
func (s *Server) HandlerFor(caller peer.Caller) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.HandlerForUnknown().ServeHTTP(w, r.WithContext(withConnection(r.Context(), &connection{caller: caller})))
	})
}

// HandlerForUnknown answers requests of a connection without a caller.
func (s *Server) HandlerForUnknown() http.Handler {
	return s.handler(&face{routes: socketRoutes, errors: problemJSON})
}

// The bounds of what one caller, and members of groups together, may have fetched.
const (
	MissBurst       = missBurst
	GroupMissBurst  = groupMissBurst
	MissEvery       = missEvery
	MaxMissAccounts = maxMissAccounts
)

// SignBurst is how many signatures one caller may have at once.
const SignBurst = signBurst

// ChargesOf returns, by the bound's name, a function that charges one event to a caller, and
// returns how long the caller has to wait if the bound is reached.
func ChargesOf(now time.Time) map[string]func(peer.Caller, policy.Standing) time.Duration {
	signatures := newSignatures(func() time.Time { return now })
	passing := newPassing()
	return map[string]func(peer.Caller, policy.Standing) time.Duration{
		"signatures": signatures.charge,
		"passing": func(caller peer.Caller, standing policy.Standing) time.Duration {
			return passing.charge(accountOf(caller, standing), now)
		},
	}
}

// LimitersAfter returns how many limiters are kept at most while one unit after the other does one
// thing, each that much later.
func LimitersAfter(units int, each time.Duration) (most int) {
	kept := newLimiters(time.Second, 2)
	for i := range units {
		now := time.Unix(0, 0).Add(time.Duration(i) * each)
		kept.of(account{together: policy.ByUnitOnly, unit: uint64(i)}, now).AllowN(now, 1)
		most = max(most, len(kept.each))
	}
	return most
}

// EvidenceWork is how many of them evidence counts as.
const EvidenceWork = evidenceWork

// MissAccounts returns how many accounts are kept of callers who are known by a group only.
func (s *Server) MissAccounts() int { return len(s.misses.members) }

// CheckRouteWithoutPermission returns what New would say of such a route.
func CheckRouteWithoutPermission() error {
	forgotten := socketRoutes[0]
	forgotten.permission = 0
	return checkRoutes([]route{forgotten})
}

// PermitsZero reports whether the zero permission lets the caller in.
func (s *Server) PermitsZero(caller peer.Caller) bool { return s.rules.Load().permit(0, caller) == nil }

// HasIMDSError reports whether the IMDS protocol has an error for a code.
func HasIMDSError(code wire.Code) bool {
	_, ok := imdsErrors[code]
	return ok
}

// NativeJSON and IMDSJSON return the answer that has a token.
func NativeJSON(token string, r wire.TokenResponse) string { return sent(nativeForm, token, r) }
func IMDSJSON(token string, r wire.TokenResponse) string   { return sent(imdsForm, token, r) }

func sent(form tokenForm, token string, r wire.TokenResponse) string {
	r.AccessToken = wire.Secret{}
	text, p := encodeToken(form.body(r))
	if p != nil {
		return p.Detail
	}
	w := httptest.NewRecorder()
	write(w, http.StatusOK, wire.ContentTypeJSON, token, text)
	return w.Body.String()
}

// AccountsCounted returns for how many accounts the audit counts at the moment.
func (s *Server) AccountsCounted() int {
	s.trail.quota.mu.Lock()
	defer s.trail.quota.mu.Unlock()
	return len(s.trail.quota.tallies)
}

// CloseTrail does what the end of Serve does.
func (s *Server) CloseTrail() { s.trail.close() }

// RecordsOfAccount is how many records an account may have of answers that cost nothing.
const RecordsOfAccount = recordsOfAccount

// WithCaller returns the context of requests on a connection of the caller.
func WithCaller(ctx context.Context, caller peer.Caller) context.Context {
	return withConnection(ctx, &connection{caller: caller})
}

// CallerOf returns the caller of a connection whose requests have the context.
func CallerOf(ctx context.Context) (caller peer.Caller, ok bool) {
	if c := connectionOf(ctx); c != nil {
		return c.caller, true
	}
	return caller, false
}

// ServeLoopback serves a face that is none of the agent's: on any listener, with callers that the
// test knows, one route with a secret of its own, and errors of which none is a 404.
func (s *Server) ServeLoopback(ctx context.Context, ln net.Listener, path, secret string, identify func(net.Conn) (peer.Caller, error)) error {
	never404 := maps.Clone(imdsErrors)
	never404[wire.CodeNotFound] = sdkError{http.StatusBadRequest, "invalid_request"}
	proof := func(_ *Server, r *http.Request, _ *record) *problem {
		if r.Header.Get("X-Identity-Header") == secret {
			return nil
		}
		return newProblem(wire.CodeCallerNotAllowed, "the secret is another one")
	}
	return s.Serve(ctx, Way{face: &face{
		listener: ln, identify: identify, errors: never404.format,
		routes: []route{{http.MethodGet, path, withoutExtraSlashes, never404.format, forCallersOfRules, proof, imdsForm.issue}},
	}})
}

// AppServiceHandler answers requests as App Service does, at an address, as if they came from the
// caller.
func (s *Server) AppServiceHandler(host string, caller peer.Caller) http.Handler {
	f := &face{routes: appServiceRoutes, errors: loopbackErrors.format, name: "app-service", host: host}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.handler(f).ServeHTTP(w, r.WithContext(withConnection(r.Context(), &connection{caller: caller})))
	})
}

// WithPatience is the context of requests for tokens.
var WithPatience = withPatience

// AuditAttributes returns the names of all attributes that a record of an answer may have.
func AuditAttributes() (names []string) {
	of := record{
		rules: &Rules{Policy: &policy.Policy{}}, caller: peer.Caller{Via: peer.ViaUnix, Weak: true}, unit: "x", executable: "x",
		face: &face{name: "x"}, identity: "x", resource: "x", tokenType: "x", rule: "x", reason: "x", issued: true, attested: attested{key: "x", audience: "x", nonce: "x"},
	}
	entry := slog.NewRecord(time.Time{}, 0, "", 0)
	requestIDs{"x", "x"}.addTo(&entry)
	entry.AddAttrs(of.attrs(newProblem(wire.CodeInternal, "x"))...)
	entry.Attrs(func(a slog.Attr) bool {
		names = append(names, a.Key)
		return true
	})
	return names
}

// CallersCanCause is which failures of a look at a listener callers can bring about.
var CallersCanCause = callersCanCause
