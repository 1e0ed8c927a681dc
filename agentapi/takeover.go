package agentapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"

	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/internal/cloud"
)

// Metadata reads what programs want to know of the machine from IMDS. The path and the query are
// of this package's tables. It must be safe for concurrent use, bound the answer's size and its
// time, follow no redirect, and fail if what answers is not IMDS.
type Metadata interface {
	Read(ctx context.Context, path string, query url.Values) (MetadataAnswer, error)
}

// MetadataAnswer is an answer of IMDS, to be passed on.
type MetadataAnswer struct {
	Status int    // HTTP
	Kind   string // media type
	Body   []byte
}

// TakeoverConfig is what [Takeover] is made of. All fields but Pass are required.
type TakeoverConfig struct {
	// Identify says who has opened a redirected connection, and fails if that is not certain. It
	// must not block.
	Identify func(net.Conn) (peer.Caller, error)
	// Takes reports whether a uid is one of those whose traffic is taken over. Connections of all
	// others are closed: a redirected connection that seems to be root's is somebody else's, whose
	// source port the redirect has changed.
	Takes func(uid uint32) bool
	// Pass is what of IMDS is passed on: instance, attested, scheduledevents.
	Pass     []string
	Metadata Metadata
}

// Takeover is IMDS for connections to 169.254.169.254 that the firewall has redirected to the
// listener. It gives tokens by the rules, passes on what it is told to, and refuses all else.
func Takeover(ln net.Listener, cfg TakeoverConfig) Way {
	f := &face{listener: ln, errors: takeoverErrors.format, name: "takeover", indirect: true,
		about: "keyagent is in the place of IMDS here; tokens are at GET " + wire.PathIMDSToken}
	if cfg.Identify == nil || cfg.Takes == nil || cfg.Metadata == nil {
		return Way{f, errors.New("agentapi: Identify, Takes and Metadata of a takeover are required")}
	}
	f.identify = func(conn net.Conn) (peer.Caller, error) {
		caller, err := cfg.Identify(conn)
		if err == nil && !cfg.Takes(caller.UID) {
			err = fmt.Errorf("a redirected connection is of uid %d, whose traffic is not taken over", caller.UID)
		}
		return caller, err
	}
	var err error
	f.routes, err = takeoverRoutes(cfg.Pass, cfg.Metadata)
	if err == nil {
		err = checkRoutes(f.routes)
	}
	return Way{f, err}
}

// takeoverErrors are those of the listeners on loopback. A path that is not passed on is refused
// for what it asks for.
var takeoverErrors = loopbackErrors.with(sdkErrors{
	wire.CodeNotFound: {http.StatusForbidden, "access_denied"},
})

// takeoverRoutes are what can be asked for at 169.254.169.254.
func takeoverRoutes(pass []string, metadata Metadata) ([]route, error) {
	routes := []route{
		{http.MethodGet, wire.PathIMDSToken, withoutExtraSlashes, takeoverErrors.format, forCallersOfRules, asIMDSIsAsked, imdsForm.issue},
		{http.MethodGet, wire.PathTakeover, asItIs, takeoverErrors.format, forCallersOfTheFace, forIMDS, takeoverAnswer(pass)},
	}
	bound := newPassing()
	for _, name := range pass {
		p, ok := passages[name]
		if !ok {
			return nil, fmt.Errorf("agentapi: there is nothing called %q to pass on", name)
		}
		routes = append(routes, route{http.MethodGet, p.path, p.spelling, takeoverErrors.format, forCallersOfTheFace, asIMDSIsAsked, p.read(metadata, bound)})
	}
	return routes, nil
}

// takeoverAnswer says that the agent is there in the place of IMDS, which has no such path.
func takeoverAnswer(pass []string) handler {
	said := &wire.Takeover{Address: cloud.MetadataAddress, Passes: append([]string{}, pass...)}
	return func(*Server, *http.Request, *record) (reply, *problem) { return reply{body: said}, nil }
}

// forIMDS is the proof that a request was meant for IMDS: a browser that was led to this address by
// a name of its own sends that name.
func forIMDS(_ *Server, r *http.Request, _ *record) *problem {
	if r.Host == cloud.MetadataAddress || r.Host == cloud.MetadataAddress+":80" {
		return nil
	}
	return newProblem(wire.CodeRefusedHeader, "this is %s, and the request is for another host", cloud.MetadataAddress).withField("Host")
}

// asIMDSIsAsked is the proof of requests that IMDS itself would answer.
func asIMDSIsAsked(s *Server, r *http.Request, rec *record) *problem {
	if p := forIMDS(s, r, rec); p != nil {
		return p
	}
	return metadataHeader(s, r, rec)
}
