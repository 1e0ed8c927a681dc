package client

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// maxDrainBytes limits how much is read of an abandoned answer, so that its connection can be used
// again.
const maxDrainBytes = 64 << 10

// TransportConfig says which requests get a token.
type TransportConfig struct {
	// Source has the tokens. Let its request declare [wire.CapabilityCP1] if Entra may give tokens
	// that a resource can revoke: the transport handles the challenge that follows.
	Source *TokenSource
	// Hosts are the only ones that are sent a token, over https: "example.vault.azure.net" is that
	// host at port 443, "localhost:8443" another port, and ".vault.azure.net" every name below that
	// one. At least one is required.
	Hosts []string
	// Base makes the requests. Nil: [http.DefaultTransport].
	Base http.RoundTripper
}

// Transport is an [http.RoundTripper] that puts a token into requests. It is safe for concurrent
// use.
//
// A request to a host that is not listed goes out as it is: after a redirect to another host, the
// token does not follow. A request to a listed host by http is an error, and nothing is sent.
//
// When a resource answers with a claims challenge, the request is repeated once with a new token,
// if it has no body or its GetBody is set, which [http.NewRequest] does for bodies in memory.
type Transport struct {
	source *TokenSource
	hosts  []hostPattern
	base   http.RoundTripper
}

// NewTransport returns a transport. It fails if the hosts are not a list of host names.
func NewTransport(cfg TransportConfig) (*Transport, error) {
	if cfg.Source == nil {
		return nil, errors.New("a transport needs a source of tokens")
	}
	if len(cfg.Hosts) == 0 {
		return nil, errors.New("a transport needs the hosts that may see a token")
	}
	t := &Transport{source: cfg.Source, base: cfg.Base}
	if t.base == nil {
		t.base = http.DefaultTransport
	}
	for _, text := range cfg.Hosts {
		pattern, err := parseHost(text)
		if err != nil {
			return nil, err
		}
		t.hosts = append(t.hosts, pattern)
	}
	return t, nil
}

// RoundTrip implements [http.RoundTripper].
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if !t.listed(req.URL) {
		return t.base.RoundTrip(req)
	}
	if req.URL.Scheme != "https" {
		return nil, refuse(req, fmt.Errorf("a token is not sent to %s by %s", req.URL.Host, req.URL.Scheme))
	}
	token, err := t.source.Token(req.Context())
	if err != nil {
		return nil, refuse(req, err)
	}
	resp, err := t.base.RoundTrip(authorised(req, token, req.Body))
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	claims, ok := ClaimsChallenge(resp.Header)
	if !ok {
		return resp, nil
	}
	return t.again(req, resp, token, claims)
}

// again repeats a request whose token did not have the claims that the resource wants. Where it
// cannot be repeated, the challenge is the answer.
func (t *Transport) again(req *http.Request, challenged *http.Response, rejected Token, claims string) (*http.Response, error) {
	body, ok := bodyAgain(req)
	if !ok {
		return challenged, nil
	}
	drain(challenged.Body)
	token, err := t.source.Renew(req.Context(), rejected, claims)
	if err != nil {
		if body != nil {
			_ = body.Close() // it holds nothing that could fail
		}
		return nil, fmt.Errorf("meeting the claims challenge of %s: %w", req.URL.Host, err)
	}
	return t.base.RoundTrip(authorised(req, token, body))
}

// bodyAgain returns the body for another attempt, nil if the request has none.
func bodyAgain(req *http.Request) (io.ReadCloser, bool) {
	if req.Body == nil || req.Body == http.NoBody {
		return req.Body, true
	}
	if req.GetBody == nil {
		return nil, false
	}
	body, err := req.GetBody()
	return body, err == nil
}

func drain(body io.ReadCloser) {
	_, _ = io.CopyN(io.Discard, body, maxDrainBytes) // a longer body costs its connection, no more
	_ = body.Close()
}

// authorised returns a copy of a request with a token: a RoundTripper must not change the original,
// whose header http.Client copies to the next request after a redirect.
func authorised(req *http.Request, token Token, body io.ReadCloser) *http.Request {
	own := req.Clone(req.Context())
	own.Body = body
	own.Header.Set("Authorization", token.TokenType+" "+token.AccessToken.Reveal())
	return own
}

// refuse ends a request that was not sent. A RoundTripper closes the body whatever happens.
func refuse(req *http.Request, err error) error {
	if req.Body != nil {
		_ = req.Body.Close() // the error that counts is the other one
	}
	return err
}

func (t *Transport) listed(u *url.URL) bool {
	for _, pattern := range t.hosts {
		if pattern.matches(u) {
			return true
		}
	}
	return false
}

// hostPattern is an element of TransportConfig.Hosts.
type hostPattern struct{ name, port string }

// matches compares with what the URL says, not with what it means: a name in another script or with
// a dot behind it is another name, and gets no token.
func (p hostPattern) matches(u *url.URL) bool {
	port := cmp.Or(u.Port(), "443")
	if u.Scheme == "http" && port == "80" {
		port = "443" // the same host, by mistake without TLS
	}
	if port != p.port {
		return false
	}
	name := u.Hostname()
	for i := range len(name) {
		if name[i] >= 0x80 {
			return false // lower case of other scripts can be ASCII
		}
	}
	name = strings.ToLower(name)
	if strings.HasPrefix(p.name, ".") {
		return len(name) > len(p.name) && strings.HasSuffix(name, p.name)
	}
	return name == p.name
}

func parseHost(text string) (hostPattern, error) {
	u, err := url.Parse("https://" + strings.TrimPrefix(text, "."))
	if err != nil || u.Host == "" || u.Host != strings.TrimPrefix(text, ".") || strings.HasPrefix(u.Host, ".") || strings.ContainsAny(text, "*@/?# ") {
		return hostPattern{}, fmt.Errorf("%q is not a host that may see a token: as in example.vault.azure.net or .vault.azure.net", text)
	}
	name := strings.ToLower(u.Hostname())
	if strings.HasPrefix(text, ".") {
		name = "." + name
	}
	return hostPattern{name, cmp.Or(u.Port(), "443")}, nil
}
