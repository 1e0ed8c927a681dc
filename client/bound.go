package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/keyagent/keyagent/agentapi/wire"
)

// HeaderTokenBound tells a resource that the token of the request is bound to a certificate. Key
// Vault does not ask for the certificate without it.
const HeaderTokenBound = "X-Ms-Tokenboundauth"

// lateHosts are domains of services that ask for a certificate only once they have seen the
// request, which takes TLS 1.2 and HTTP/1.1: Azure Key Vault and its managed HSM, in all clouds.
var lateHosts = []string{
	".vault.azure.net", ".vault.azure.cn", ".vault.usgovcloudapi.net", ".vault.microsoftazure.de",
	".managedhsm.azure.net", ".managedhsm.azure.cn", ".managedhsm.usgovcloudapi.net",
}

// BoundConfig says what a client for direct calls with bound tokens is made of.
type BoundConfig struct {
	// Identity is the name of the identity in the agent's configuration; it is required.
	Identity string
	// Resource is what tokens are for, as in "https://vault.azure.net"; or Scope, as in
	// "https://vault.azure.net/.default".
	Resource, Scope string
	// Capabilities are those of [TokenRequest]. The client meets claims challenges.
	Capabilities []string
	// Hosts are the only ones that may be called, over https, in the form of
	// [TransportConfig.Hosts]. At least one is required.
	Hosts []string

	// TLS is what connections have besides the certificate, such as RootCAs; nil: the defaults.
	TLS *tls.Config
	// Late says of which hosts it is known that they ask for the certificate only once they have
	// seen the request, in the form of Hosts. They are called by HTTP/1.1 and TLS 1.2, which alone
	// can do that. Nil: those of Azure Key Vault; an empty list: none.
	Late []string
}

// HTTPClient returns a client for APIs that take tokens of type mtls_pop. Each request has a token,
// and goes over a connection that presents the certificate that the token is bound to. It is for
// callers whom a rule gives the identity with types: [mtls_pop] and sign: true.
//
// When the agent replaces the certificate, later requests have a token for the new one and go over
// new connections; requests under way finish. A claims challenge is met once. No redirect is
// followed: the API that is called is named by Hosts. Proxies are those of the environment; TLS
// ends at the API. See [BoundRefusal] for what the APIs say when they miss the certificate.
//
// Close idle connections with CloseIdleConnections of the client.
func (c *Client) HTTPClient(cfg BoundConfig) (*http.Client, error) {
	if cfg.Identity == "" || len(cfg.Hosts) == 0 {
		return nil, errors.New("a client for bound tokens needs an identity, and the hosts that may be called")
	}
	t := &boundTransport{client: c, cfg: cfg, tokens: c.TokenSource(TokenRequest{
		Identity: cfg.Identity, Resource: cfg.Resource, Scope: cfg.Scope, Type: wire.TypePoP, Capabilities: cfg.Capabilities,
	})}
	if cfg.Late == nil {
		cfg.Late = lateHosts
	}
	var err error
	if t.hosts, err = parseHosts(cfg.Hosts); err != nil {
		return nil, err
	}
	if t.late, err = parseHosts(cfg.Late); err != nil {
		return nil, err
	}
	return &http.Client{
		Transport:     t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

func parseHosts(list []string) ([]hostPattern, error) {
	var all []hostPattern
	for _, text := range list {
		pattern, err := parseHost(text)
		if err != nil {
			return nil, err
		}
		all = append(all, pattern)
	}
	return all, nil
}

// boundTransport is an [http.RoundTripper] that uses bound tokens.
type boundTransport struct {
	client      *Client
	cfg         BoundConfig
	tokens      *TokenSource
	hosts, late []hostPattern

	mu      sync.Mutex
	current *boundConns // of the certificate in use; nil before the first request
}

// boundConns are the connections that present one certificate.
type boundConns struct {
	binding *Binding
	early   *http.Transport // for servers that ask for it in the handshake
	late    *http.Transport // for servers that ask for it in a renegotiation
	// failed is why a signature was not made last: TLS keeps the text of an error only.
	failed atomic.Pointer[error]
}

// RoundTrip implements [http.RoundTripper].
func (t *boundTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	listed := func(p hostPattern) bool { return p.matches(req.URL) }
	if req.URL.Scheme != "https" || !slices.ContainsFunc(t.hosts, listed) {
		return nil, refuse(req, fmt.Errorf("%s://%s is not a host that may be called with a bound token", req.URL.Scheme, req.URL.Host))
	}
	token, err := t.tokens.Token(req.Context())
	if err != nil {
		return nil, refuse(req, err)
	}
	resp, err := t.send(req, token, req.Body)
	if err != nil {
		if !isCode(err, wire.CodeBindingChanged) {
			return nil, err
		}
		return t.again(req, nil, err, token, "")
	}
	if claims, ok := ClaimsChallenge(resp.Header); ok && resp.StatusCode == http.StatusUnauthorized {
		return t.again(req, resp, nil, token, claims)
	}
	return resp, nil
}

// again repeats a request with another token, once: the certificate was replaced, or the token did
// not have the claims that the API wants. Where it cannot be repeated, what came of it is the
// answer.
func (t *boundTransport) again(req *http.Request, resp *http.Response, failed error, rejected Token, claims string) (*http.Response, error) {
	body, ok := bodyAgain(req)
	if !ok {
		return resp, failed
	}
	if resp != nil {
		drain(resp.Body)
	}
	token, err := t.tokens.Renew(req.Context(), rejected, claims)
	if err != nil {
		if body != nil {
			_ = body.Close() // it holds nothing that could fail
		}
		return nil, fmt.Errorf("asking for another token for %s: %w", req.URL.Host, err)
	}
	return t.send(req, token, body)
}

// send makes a request over the connections that present the certificate of its token.
func (t *boundTransport) send(req *http.Request, token Token, body io.ReadCloser) (*http.Response, error) {
	own := authorised(req, token, body)
	own.Header.Set(HeaderTokenBound, "true")
	conns, err := t.connsFor(req.Context(), token)
	if err != nil {
		return nil, refuse(own, err)
	}
	over := conns.early
	if slices.ContainsFunc(t.late, func(p hostPattern) bool { return p.matches(req.URL) }) {
		over = conns.late
	}
	resp, err := over.RoundTrip(own)
	if err != nil {
		return nil, conns.explain(err)
	}
	return resp, nil
}

// explain adds why a signature was not made to the error of a request that needed it. One failed
// handshake may be that of several requests.
func (b *boundConns) explain(err error) error {
	if why := b.failed.Load(); why != nil && strings.Contains(err.Error(), (*why).Error()) {
		return explainedError{err, *why}
	}
	return err
}

// explainedError is an error whose text has that of its cause already, but not the cause.
type explainedError struct{ err, cause error }

func (e explainedError) Error() string   { return e.err.Error() }
func (e explainedError) Unwrap() []error { return []error{e.err, e.cause} }

// connsFor returns the connections for a token. The first token for another certificate ends those
// of the one before.
func (t *boundTransport) connsFor(ctx context.Context, token Token) (*boundConns, error) {
	if token.Binding == nil || token.Binding.Thumbprint == "" {
		return nil, errors.New("the agent does not say which certificate its token is bound to")
	}
	t.mu.Lock()
	current := t.current
	t.mu.Unlock()
	if current != nil && current.binding.Thumbprint() == token.Binding.Thumbprint {
		return current, nil
	}
	binding, err := t.client.bindingOf(ctx, t.cfg.Identity, token.Binding.Thumbprint)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if now := t.current; now != current && now.binding.Thumbprint() == binding.Thumbprint() {
		return now, nil // another request was faster
	}
	if t.current != nil {
		t.current.close()
	}
	t.current = t.newConns(binding)
	return t.current, nil
}

func (t *boundTransport) newConns(binding *Binding) *boundConns {
	conns := &boundConns{binding: binding}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.cfg.TLS != nil {
		cfg = t.cfg.TLS.Clone()
		cfg.MinVersion = max(cfg.MinVersion, tls.VersionTLS12)
	}
	cfg.Certificates, cfg.ClientSessionCache = nil, nil // a resumed session would present no certificate
	cfg.GetClientCertificate = func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return binding.certificate(&remoteSigner{binding: binding, ctx: info.Context(), failed: func(err error) { conns.failed.Store(&err) }}), nil
	}
	conns.early = newBoundHTTP(cfg)
	late := cfg.Clone()
	late.MaxVersion, late.Renegotiation, late.NextProtos = tls.VersionTLS12, tls.RenegotiateOnceAsClient, nil
	conns.late = newBoundHTTP(late)
	conns.late.ForceAttemptHTTP2, conns.late.TLSNextProto = false, map[string]func(string, *tls.Conn) http.RoundTripper{}
	return conns
}

func newBoundHTTP(cfg *tls.Config) *http.Transport {
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		TLSClientConfig:     cfg,
		TLSHandshakeTimeout: signTimeout,
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: maxIdleConns,
		IdleConnTimeout:     idleConnTimeout,
	}
}

func (b *boundConns) close() {
	b.early.CloseIdleConnections()
	b.late.CloseIdleConnections()
}

// CloseIdleConnections is what [http.Client.CloseIdleConnections] calls.
func (t *boundTransport) CloseIdleConnections() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.current != nil {
		t.current.close()
	}
}

// isCode reports whether an error is the agent's with a code.
func isCode(err error, code wire.Code) bool {
	said, ok := errors.AsType[*Error](err)
	return ok && said.Problem.Code == code
}
