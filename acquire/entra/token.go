package entra

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/internal/upstream"
)

const (
	attemptTimeout = 30 * time.Second
	retryPause     = time.Second
	sku            = "keyagent"
)

// Config configures a [Client].
type Config struct {
	Version string           // of this program, sent as x-client-Ver
	Now     func() time.Time // nil means time.Now
	// Sleep waits before the one retry; nil means a timer.
	Sleep func(ctx context.Context, d time.Duration) error
}

// Client asks for tokens. It is safe for concurrent use and holds no state.
type Client struct {
	version string
	now     func() time.Time
	sleep   func(context.Context, time.Duration) error
}

// New returns a client.
func New(cfg Config) *Client {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Sleep == nil {
		cfg.Sleep = upstream.Sleep
	}
	return &Client{version: cfg.Version, now: cfg.Now, sleep: cfg.Sleep}
}

// ManagedIdentityRequest is leg 3 of MSI v2: the token of the managed identity
// itself, as a Bearer token, client authentication by the TLS certificate alone.
type ManagedIdentityRequest struct {
	Endpoint string // mtls_authentication_endpoint as IMDS gave it, no trailing slash
	TenantID string // GUID
	ClientID string // GUID, client_id of issuecredential's answer
	Resource string // resource URI
}

// TokenResponse is a 200 answer that passed the checks.
type TokenResponse struct {
	AccessToken secret.String
	TokenType   string        // "Bearer"
	ExpiresIn   time.Duration // from the moment of the answer
	RefreshIn   time.Duration // 0 if Entra gave none
}

// Scope turns a resource URI into the scope that asks for it: a trailing slash
// goes, "/.default" comes.
func Scope(resource string) string {
	if strings.HasSuffix(resource, "/.default") {
		return resource
	}
	return strings.TrimSuffix(resource, "/") + "/.default"
}

// ManagedIdentityToken requests a Bearer token over hc, whose connections must
// present the binding certificate. A 5xx answer without Retry-After and a
// time-out are tried once more after a second.
func (c *Client) ManagedIdentityToken(ctx context.Context, hc *http.Client, req ManagedIdentityRequest) (*TokenResponse, error) {
	form := url.Values{
		"grant_type": {"client_credentials"},
		"client_id":  {req.ClientID},
		"scope":      {Scope(req.Resource)},
		"token_type": {"bearer"},
	}
	return c.token(ctx, hc, req.Endpoint+"/"+url.PathEscape(req.TenantID)+"/oauth2/v2.0/token", form)
}

func (c *Client) token(ctx context.Context, hc *http.Client, endpoint string, form url.Values) (*TokenResponse, error) {
	answer, err := c.attempt(ctx, hc, endpoint, form)
	if err == nil || !worthARetry(err) || c.sleep(ctx, retryPause) != nil {
		return answer, err
	}
	return c.attempt(ctx, hc, endpoint, form)
}

func worthARetry(err error) bool {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Status >= 500 && e.RetryAfter == 0
	}
	return upstream.TimedOut(err)
}

func (c *Client) attempt(ctx context.Context, hc *http.Client, endpoint string, form url.Values) (*TokenResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, fmt.Errorf("token request: %w", err)
	}
	c.setHeaders(req.Header)
	resp, err := hc.Do(req)
	if err != nil {
		return nil, unreachable(err)
	}
	defer resp.Body.Close()
	body, err := upstream.ReadBody(resp.Body)
	switch {
	case errors.Is(err, upstream.ErrTooLarge):
		return nil, fmt.Errorf("%w: %w", ErrBadAnswer, err)
	case err != nil:
		return nil, unreachable(err)
	case resp.StatusCode != http.StatusOK:
		return nil, newError(resp, body, c.now())
	}
	return parseToken(body, form.Get("token_type"))
}

func (c *Client) setHeaders(h http.Header) {
	h.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	h.Set("Accept", "application/json")
	h.Set("User-Agent", sku+"/"+c.version)
	h.Set("client-request-id", uuid.NewString())
	h.Set("return-client-request-id", "true")
	h.Set("x-client-SKU", sku)
	h.Set("x-client-Ver", c.version)
	h.Set("x-client-OS", "linux")
	// Tells Entra that we honour 429 and Retry-After.
	h.Set("x-ms-lib-capability", "retry-after, h429")
}

// seconds accepts a JSON number or a decimal string, as Entra's answers have
// carried both.
type seconds time.Duration

// maxLifetime is far above what Entra issues and far below what overflows.
const maxLifetime = 7 * 24 * time.Hour

func (s *seconds) UnmarshalJSON(b []byte) error {
	n, err := strconv.ParseInt(strings.Trim(string(b), `"`), 10, 64)
	if err != nil || n < 0 || n > int64(maxLifetime/time.Second) {
		return errors.New("not a number of seconds")
	}
	*s = seconds(time.Duration(n) * time.Second)
	return nil
}

func parseToken(body []byte, wantType string) (*TokenResponse, error) {
	var wire struct {
		TokenType   string  `json:"token_type"`
		AccessToken string  `json:"access_token"`
		ExpiresIn   seconds `json:"expires_in"`
		RefreshIn   seconds `json:"refresh_in"`
	}
	switch err := json.Unmarshal(body, &wire); {
	case err != nil:
		return nil, fmt.Errorf("%w: not the JSON expected", ErrBadAnswer)
	case wire.AccessToken == "":
		return nil, fmt.Errorf("%w: no access_token", ErrBadAnswer)
	case !strings.EqualFold(wire.TokenType, wantType):
		return nil, fmt.Errorf("%w: token_type %q where %q was asked for", ErrBadAnswer, upstream.Text(wire.TokenType), wantType)
	case wire.ExpiresIn == 0:
		return nil, fmt.Errorf("%w: no expires_in", ErrBadAnswer)
	}
	return &TokenResponse{
		AccessToken: secret.New(wire.AccessToken),
		TokenType:   "Bearer",
		ExpiresIn:   time.Duration(wire.ExpiresIn),
		RefreshIn:   time.Duration(wire.RefreshIn),
	}, nil
}

func unreachable(err error) error {
	return fmt.Errorf("%w: %w", ErrUnreachable, upstream.Cause(err))
}
