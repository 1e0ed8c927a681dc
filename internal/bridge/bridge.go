package bridge

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/internal/earlyanswer"
	"github.com/keyagent/keyagent/internal/forward"
)

const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	// endGrace is what requests under way may take at the end: less than the command is waited for.
	endGrace = 3 * time.Second
)

// refusedHeaders mark a request that a browser or a proxy makes for somebody else.
var refusedHeaders = []string{"Origin", "Referer", "Sec-Fetch-Site", "X-Forwarded-For", "Forwarded"}

// Config says what requests are passed to.
type Config struct {
	Socket   string // of the agent
	Identity string
	Host     string // of the resource, as the agent takes it; "": the first part of each path names it
	Resource string // of tokens; "": the request's header says it, or the agent knows
}

// Bridge passes requests to the agent. It is safe for concurrent use.
type Bridge struct {
	prefix    string // of paths at the agent
	resource  string
	agent     *http.Transport
	forwarder forward.Forwarder
}

// New checks a configuration. It does not connect.
func New(cfg Config) (*Bridge, error) {
	for name, value := range map[string]string{"identity": cfg.Identity, "host": cfg.Host} {
		if strings.ContainsAny(value, "/?#% ") {
			return nil, fmt.Errorf("%s %q has a character that none has", name, value)
		}
	}
	if cfg.Identity == "" {
		return nil, errors.New("no identity is named")
	}
	b := &Bridge{prefix: wire.PathBridge + cfg.Identity, resource: cfg.Resource}
	if cfg.Host != "" {
		b.prefix += "/" + cfg.Host
	}
	socket := cmp.Or(cfg.Socket, os.Getenv(wire.EnvSocket), wire.DefaultSocket)
	b.agent = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
			if err != nil {
				return nil, err
			}
			return earlyanswer.Conn(conn), nil
		},
		DisableCompression: true, ExpectContinueTimeout: time.Minute, // the agent says continue when the resource does
		MaxIdleConnsPerHost: 8, IdleConnTimeout: time.Minute, ReadBufferSize: 64 << 10, WriteBufferSize: 64 << 10,
	}
	return b, nil
}

// Serve answers what comes by a listener of [Listen] until ctx is done, and closes it.
func (b *Bridge) Serve(ctx context.Context, ln net.Listener) error {
	defer b.agent.CloseIdleConnections()
	host := ""
	if ln.Addr().Network() != "unix" {
		host = ln.Addr().String()
	}
	srv := &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { b.serve(w, r, host) }),
		ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: 32 << 10,
		DisableGeneralOptionsHandler: true,
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	within, cancel := context.WithTimeout(context.WithoutCancel(ctx), endGrace)
	defer cancel()
	if srv.Shutdown(within) != nil {
		_ = srv.Close()
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// serve passes one request to the agent. Host is what it must have been sent to; "": anything.
func (b *Bridge) serve(w http.ResponseWriter, r *http.Request, host string) {
	to, err := b.target(r, host)
	if err != nil {
		refuse(w, wire.NewProblem(wire.CodeInvalidParameter, err.Error()))
		return
	}
	for _, name := range refusedHeaders {
		if _, there := r.Header[name]; there {
			refuse(w, wire.NewProblem(wire.CodeRefusedHeader, "header "+name+" is not accepted"))
			return
		}
	}
	if protocol := forward.WantsUpgrade(r); protocol != "" {
		refuse(w, wire.NewProblem(wire.CodeUpgradeRefused, "the request wants its connection to speak another protocol"))
		return
	}
	call := forward.Call{To: to, Over: b.agent}
	if b.resource != "" {
		call.Set = http.Header{wire.HeaderResource: {b.resource}}
	}
	result, err := b.forwarder.Do(w, r, call)
	switch {
	case err == nil:
	case result.Status == 0:
		p := wire.NewProblem(wire.CodeUnavailable, "the agent does not answer: "+err.Error())
		p.RetryAfter = 1
		refuse(w, p)
	default:
		// An answer that is not whole must not end as if it were, which is impossible by returning.
		panic(http.ErrAbortHandler)
	}
}

// target is where a request goes at the agent.
func (b *Bridge) target(r *http.Request, host string) (*url.URL, error) {
	if host != "" && r.Host != host && !slices.Contains(localNames(host), r.Host) {
		return nil, errors.New("the request was not sent to " + host)
	}
	path, query, hasQuery := strings.Cut(r.RequestURI, "?")
	if !strings.HasPrefix(path, "/") || r.Method == http.MethodConnect {
		return nil, errors.New("the request is not for a path")
	}
	path = b.prefix + path
	decoded, err := url.PathUnescape(path)
	to := &url.URL{Scheme: "http", Host: "keyagent", Path: decoded, RawPath: path, RawQuery: query, ForceQuery: hasQuery && query == ""}
	if err != nil || to.EscapedPath() != path {
		return nil, errors.New("the path has a character that must be percent-encoded")
	}
	return to, nil
}

// localNames are other names of a loopback address.
func localNames(address string) []string {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil
	}
	return []string{"localhost:" + port}
}

// refuse answers in the agent's place.
func refuse(w http.ResponseWriter, p wire.Problem) {
	header := w.Header()
	header.Set(wire.HeaderError, string(p.Code))
	header.Set("Content-Type", wire.ContentTypeProblem)
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Connection", "close")
	if p.RetryAfter > 0 {
		header.Set("Retry-After", fmt.Sprint(p.RetryAfter))
	}
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p)
}
