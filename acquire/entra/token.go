package entra

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/keyagent/keyagent/internal/upstream"
	"github.com/keyagent/keyagent/internal/waiting"
)

const (
	attemptTimeout = 30 * time.Second
	retryPause     = time.Second
)

// Config configures a [Client].
type Config struct {
	Version string           // of this program, sent as x-client-Ver
	Now     func() time.Time // nil means time.Now
	// Sleep waits before the only retry; nil means a timer.
	Sleep func(ctx context.Context, d time.Duration) error
	// Waiting is called before a request with a description of it, and its result after the answer.
	// Nil: not called.
	Waiting func(what string) (over func())
}

// Client asks for tokens. It is safe for concurrent use and holds no state.
type Client struct {
	version string
	now     func() time.Time
	sleep   func(context.Context, time.Duration) error
	waiting func(string) func()
}

// New returns a client.
func New(cfg Config) *Client {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Sleep == nil {
		cfg.Sleep = waiting.Sleep
	}
	if cfg.Waiting == nil {
		cfg.Waiting = func(string) func() { return func() {} }
	}
	return &Client{version: cfg.Version, now: cfg.Now, sleep: cfg.Sleep, waiting: cfg.Waiting}
}

// host returns the host of an endpoint.
func host(endpoint string) string {
	u, err := url.Parse(endpoint)
	if err != nil {
		return "an invalid address"
	}
	return u.Host
}

// Token requests a token over hc, whose connections present the client certificate that the flow
// needs, if any. A 5xx answer without Retry-After, a time-out and a connection that is reset are
// tried once more after a second: requesting a token twice changes nothing at Entra, and Sign makes
// another assertion. It blocks for a minute at most, or until ctx ends.
func (c *Client) Token(ctx context.Context, hc *http.Client, req Request) (*TokenResponse, error) {
	if err := req.check(); err != nil {
		return nil, err
	}
	defer c.waiting("Entra's token endpoint at " + host(req.Endpoint) + upstream.Via(hc, req.Endpoint))()
	answer, err := c.attempt(ctx, hc, req)
	if err == nil || !worthARetry(err) || c.sleep(ctx, retryPause) != nil {
		return answer, err
	}
	return c.attempt(ctx, hc, req)
}

func worthARetry(err error) bool {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Status >= 500 && e.RetryAfter == 0
	}
	return upstream.TimedOut(err) || errors.Is(err, ErrUnreachable) && upstream.ConnectionLost(err)
}

func (c *Client) attempt(ctx context.Context, hc *http.Client, r Request) (*TokenResponse, error) {
	if r.Sign != nil {
		var err error
		if r.Assertion, err = r.Sign(); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.Endpoint, strings.NewReader(r.form().Encode()))
	if err != nil {
		return nil, fmt.Errorf("token request: %w", err)
	}
	c.setHeaders(req.Header)
	resp, err := hc.Do(req)
	if err != nil {
		return nil, unreachable(err, upstream.Via(hc, r.Endpoint))
	}
	defer resp.Body.Close()
	body, err := upstream.ReadBody(resp.Body)
	switch {
	case errors.Is(err, upstream.ErrTooLarge):
		return nil, fmt.Errorf("%w: %w", ErrBadAnswer, err)
	case err != nil:
		return nil, unreachable(err, upstream.Via(hc, r.Endpoint))
	case resp.StatusCode != http.StatusOK:
		return nil, newError(resp, body, c.now())
	}
	return parseToken(body, r)
}

func (c *Client) setHeaders(h http.Header) {
	h.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	h.Set("Accept", "application/json")
	h.Set("User-Agent", upstream.Product+"/"+c.version)
	h.Set("client-request-id", uuid.NewString())
	h.Set("return-client-request-id", "true")
	upstream.NameClient(h, c.version)
	h.Set("x-client-OS", "linux")
	// Tells Entra that we honour 429 and Retry-After.
	h.Set("x-ms-lib-capability", "retry-after, h429")
}

// unreachable says through which proxy it was tried, as [upstream.Via] has it.
func unreachable(err error, via string) error {
	return fmt.Errorf("%w%s: %w", ErrUnreachable, via, upstream.Cause(err))
}
