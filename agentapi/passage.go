package agentapi

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/keyagent/keyagent/agentapi/wire"
)

// passage is a part of IMDS that may be passed on: a table of paths and one of parameters. Nothing
// that is not in these tables reaches IMDS.
type passage struct {
	path string // of the route
	// spelling returns path for every path of the passage.
	spelling func(string) string
	params   map[string]*regexp.Regexp
}

// versions are values of api-version.
var versions = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}(-preview)?$`)

// passages are those that a configuration can name. No path of a token is among them, nor one at
// which IMDS changes something.
var passages = map[string]passage{
	wire.PassInstance: {wire.PathIMDSInstance, instancePath, map[string]*regexp.Regexp{
		wire.ParamAPIVersion: versions,
		"format":             regexp.MustCompile(`^(json|text)$`),
		"extended":           regexp.MustCompile(`^(true|false)$`),
	}},
	wire.PassAttested: {wire.PathIMDSAttested, asItIs, map[string]*regexp.Regexp{
		wire.ParamAPIVersion: versions,
		"nonce":              regexp.MustCompile(`^[0-9A-Za-z]{1,64}$`),
	}},
	wire.PassScheduledEvents: {wire.PathIMDSScheduledEvents, asItIs, map[string]*regexp.Regexp{
		wire.ParamAPIVersion: versions,
	}},
}

// read answers a request with what IMDS says.
func (p passage) read(metadata Metadata, bound *passing) handler {
	return func(s *Server, r *http.Request, rec *record) (reply, *problem) {
		query, refused := p.query(r.URL.RawQuery)
		if refused != nil {
			return reply{}, refused
		}
		// The path is one of the table, since the route was found by it.
		path, _, _ := strings.Cut(r.RequestURI, "?")
		rec.path = path
		owner := accountOf(rec.caller, rec.rules.Policy.Standing(rec.caller))
		if wait := bound.charge(owner, s.cfg.Now()); wait > 0 {
			return reply{}, newProblem(wire.CodeThrottled, "uid %d asks for the machine's metadata too often", rec.caller.UID).retryable(wait)
		}
		answer, err := metadata.Read(r.Context(), path, query)
		if err != nil {
			return reply{}, newProblem(wire.CodeUnavailable, "IMDS does not answer as it should; the agent's log says more").causedBy(err).retryable(time.Second)
		}
		rec.passed = answer.Status
		return reply{foreign: &answer}, nil
	}
}

// query makes the query anew of the parameters that the passage has.
func (p passage) query(raw string) (url.Values, *problem) {
	var known []string
	for name := range p.params {
		known = append(known, name)
	}
	given, refused := parseQuery(raw, known, refuseUnknown)
	if refused != nil {
		return nil, refused
	}
	query := url.Values{}
	for _, one := range given {
		if !p.params[one.name].MatchString(one.value) {
			return nil, newProblem(wire.CodeInvalidParameter, "%s has a value that is not passed on", one.name).withField(one.name)
		}
		query.Set(one.name, one.value)
	}
	return query, nil
}

// Bounds of the requests that are passed on. IMDS answers a virtual machine a few times in a
// second, and the agent needs it for tokens.
const (
	passEach, passBurst       = time.Second, 20     // of one account
	passAllEach, passAllBurst = time.Second / 3, 40 // of all together
)

// passing bounds the requests that are passed on, by account. It is safe for concurrent use.
type passing struct {
	mu   sync.Mutex
	all  *rate.Limiter
	each *limiters
}

func newPassing() *passing {
	return &passing{all: rate.NewLimiter(rate.Every(passAllEach), passAllBurst), each: newLimiters(passEach, passBurst)}
}

// charge returns how long the caller must wait before it may ask; 0: it may now.
func (p *passing) charge(owner account, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	own := p.each.of(owner, now)
	if own.TokensAt(now) < 1 || p.all.TokensAt(now) < 1 {
		return passEach
	}
	own.AllowN(now, 1)
	p.all.AllowN(now, 1)
	return 0
}
