package client

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/keyagent/keyagent/agentapi/wire"
)

const (
	// maxReplyBytes is far beyond any reply: the largest token that Entra
	// issues is some 20 kB.
	maxReplyBytes   = 1 << 20
	idleConnTimeout = 90 * time.Second // below the agent's own 2 minutes
	maxIdleConns    = 16
)

// Config says how to reach the agent.
type Config struct {
	// Socket is the path of the agent's socket. Empty: the environment variable
	// KEYAGENT_SOCKET, else /run/keyagent/agent.sock.
	Socket string
}

// Client talks to the agent. It is safe for concurrent use and meant to be
// shared: it keeps connections open, of which each user has a bounded number.
type Client struct {
	socket string
	http   *http.Client
}

// New returns a client. It does not connect yet.
func New(cfg Config) *Client {
	socket := cmp.Or(cfg.Socket, os.Getenv(wire.EnvSocket), wire.DefaultSocket)
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
		MaxIdleConns:        maxIdleConns,
		MaxIdleConnsPerHost: maxIdleConns,
		IdleConnTimeout:     idleConnTimeout,
		DisableCompression:  true,
	}
	return &Client{
		socket: socket,
		http: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// Close closes idle connections. The client may be used again.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return nil
}

// Socket returns the path at which the client looks for the agent.
func (c *Client) Socket() string { return c.socket }

// Token is an access token and the agent's description of it. Use its
// AccessToken.Reveal() where the token is sent; printed, it shows nothing.
type Token = wire.TokenResponse

// TokenRequest says which token is wanted. Exactly one of Resource and Scope is
// required.
type TokenRequest struct {
	Identity string // name in the agent's configuration; empty if the agent's rules grant only one
	Resource string // as in "https://vault.azure.net"
	Scope    string // as in "https://vault.azure.net/.default"
	Type     string // empty: wire.TypeBearer; or wire.TypePoP

	// Claims is a claims challenge of the resource: the JSON object, which is base64
	// in its WWW-Authenticate header. The token that answers it is a new one.
	Claims string
	// Capabilities are what the program can do: wire.CapabilityCP1 if it handles
	// claims challenges.
	Capabilities []string
	// ForceRefresh skips the agent's cache, if its rules let the caller.
	ForceRefresh bool
}

func (r TokenRequest) query() string {
	query := make(url.Values)
	force := ""
	if r.ForceRefresh {
		force = "true"
	}
	for name, value := range map[string]string{
		wire.ParamIdentity:     r.Identity,
		wire.ParamResource:     r.Resource,
		wire.ParamScope:        r.Scope,
		wire.ParamType:         r.Type,
		wire.ParamClaims:       r.Claims,
		wire.ParamCapabilities: strings.Join(r.Capabilities, ","),
		wire.ParamForceRefresh: force,
	} {
		if value != "" {
			query.Set(name, value)
		}
	}
	return query.Encode()
}

// Token asks for a token. It waits as long as ctx allows; the agent itself
// answers within about a minute.
func (c *Client) Token(ctx context.Context, req TokenRequest) (Token, error) {
	body, err := c.get(ctx, wire.PathToken, req.query())
	if err != nil {
		return Token{}, err
	}
	return decodeToken(body)
}

func decodeToken(body []byte) (Token, error) {
	var token Token
	err := json.Unmarshal(body, &token)
	if isType(err) {
		err = nil // one member has another type: treat it as missing
	}
	switch { // the causes could quote a token
	case err != nil:
		return Token{}, errors.New("reading the agent's reply: it is not a token")
	case token.AccessToken.IsZero():
		return Token{}, errors.New("reading the agent's reply: it is not a token: access_token is missing or not a string")
	case token.ExpiresOn <= 0:
		return Token{}, errors.New("reading the agent's reply: it is not a token: expires_on is missing or not a time")
	}
	return token, nil
}

// isType reports whether the only fault of a JSON text is that some members are of another type.
// The others were decoded.
func isType(err error) bool {
	_, ok := errors.AsType[*json.UnmarshalTypeError](err)
	return ok
}

// Status asks for the agent's state. Only its administrators may ask.
func (c *Client) Status(ctx context.Context) (wire.Status, error) {
	return ask[wire.Status](ctx, c, wire.PathStatus, "status")
}

// Identities asks which identities the agent's rules allow the caller, and for which resources.
func (c *Client) Identities(ctx context.Context) ([]wire.Identity, error) {
	return ask[[]wire.Identity](ctx, c, wire.PathIdentities, "identities")
}

// Capabilities asks how well tokens can be bound to this VM.
func (c *Client) Capabilities(ctx context.Context) (wire.Capabilities, error) {
	return ask[wire.Capabilities](ctx, c, wire.PathCapabilities, "capabilities")
}

// ask decodes what the agent has at a path that takes no parameters.
func ask[T any](ctx context.Context, c *Client, path, what string) (T, error) {
	var answer, none T
	body, err := c.get(ctx, path, "")
	if err != nil {
		return none, err
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return none, fmt.Errorf("reading the agent's %s: %w", what, err)
	}
	return answer, nil
}

// get is do without a body.
func (c *Client) get(ctx context.Context, path, query string) ([]byte, error) {
	return c.do(ctx, http.MethodGet, path, query, nil)
}

// do returns the body of a 200, and an [*Error] for every other answer.
func (c *Client) do(ctx context.Context, method, path, query string, sent io.Reader) ([]byte, error) {
	return c.doUpTo(ctx, maxReplyBytes, method, path, query, sent)
}

// doUpTo is do for bodies that may have another size.
func (c *Client) doUpTo(ctx context.Context, limit int, method, path, query string, sent io.Reader) ([]byte, error) {
	// The host is not used to connect; it names the agent in traces.
	target := url.URL{Scheme: "http", Host: "keyagent", Path: path, RawQuery: query}
	req, err := http.NewRequestWithContext(ctx, method, target.String(), sent)
	if err != nil {
		return nil, fmt.Errorf("asking the agent: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.transportError(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, int64(limit)+1))
	if err != nil {
		return nil, c.transportError(ctx, err)
	}
	if len(body) > limit {
		return nil, fmt.Errorf("reading the agent's reply: it is larger than %d bytes", limit)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, decodeError(resp, body)
	}
	return body, nil
}
