package imds

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/keyagent/keyagent/internal/upstream"
)

// DefaultEndpoint is where every Azure VM finds IMDS.
const DefaultEndpoint = "http://169.254.169.254"

const (
	apiVersion      = "2.0"            // query parameter cred-api-version
	getTimeout      = 10 * time.Second // of one attempt
	postTimeout     = 30 * time.Second // of one attempt
	requestIDHeader = "x-ms-client-request-id"
)

// Config configures a [Client].
type Config struct {
	// Endpoint is the base URL; empty means [DefaultEndpoint]. It comes from the
	// agent's configuration, never from the environment.
	Endpoint string
	// MTLSHosts and AttestationHosts are the hosts that IMDS may name as token
	// endpoint and as attestation service.
	MTLSHosts, AttestationHosts HostList
	// Sleep waits between retries; nil means a timer. It returns early with the
	// context's error.
	Sleep func(ctx context.Context, d time.Duration) error
}

// Client speaks to IMDS. It is safe for concurrent use.
type Client struct {
	endpoint         string
	mtlsHosts        HostList
	attestationHosts HostList
	sleep            func(context.Context, time.Duration) error
	http             *http.Client
}

// New returns a client. It does not connect.
func New(cfg Config) (*Client, error) {
	if cfg.Endpoint == "" {
		cfg.Endpoint = DefaultEndpoint
	}
	u, err := url.Parse(cfg.Endpoint)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil {
		return nil, fmt.Errorf("IMDS endpoint %q is not an http URL such as %s", cfg.Endpoint, DefaultEndpoint)
	}
	if cfg.Sleep == nil {
		cfg.Sleep = upstream.Sleep
	}
	return &Client{
		endpoint:         strings.TrimRight(cfg.Endpoint, "/"),
		mtlsHosts:        cfg.MTLSHosts,
		attestationHosts: cfg.AttestationHosts,
		sleep:            cfg.Sleep,
		http:             NewHTTPClient(),
	}, nil
}

// NewHTTPClient returns a client fit for link-local services: no proxy, because
// a proxy is somebody else's machine, and no redirects, because they could lead
// anywhere.
func NewHTTPClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                  nil,
			MaxIdleConns:           4,
			IdleConnTimeout:        30 * time.Second,
			ResponseHeaderTimeout:  postTimeout,
			MaxResponseHeaderBytes: 16 << 10,
		},
		CheckRedirect: upstream.RefuseRedirects,
	}
}

// Close releases idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Selector says which of the VM's managed identities is meant. At most one
// member is set; the zero value is the system-assigned identity.
type Selector struct {
	ClientID   string
	ObjectID   string
	ResourceID string // ARM resource id
}

func (s Selector) query() url.Values {
	q := url.Values{"cred-api-version": {apiVersion}}
	switch {
	case s.ClientID != "":
		q.Set("client_id", s.ClientID)
	case s.ObjectID != "":
		q.Set("object_id", s.ObjectID)
	case s.ResourceID != "":
		q.Set("mi_res_id", s.ResourceID)
	}
	return q
}

// call makes one leg's request, retries included, and decodes the 200 answer
// into out.
func (c *Client) call(ctx context.Context, method, leg string, sel Selector, body, out any) error {
	var payload []byte
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("encoding request for IMDS %s: %w", leg, err)
		}
		payload = encoded
	}
	return c.withRetries(ctx, func() error {
		answer, err := c.attempt(ctx, method, leg, sel, payload)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(answer, out); err != nil {
			return fmt.Errorf("IMDS %s: %w: not the JSON expected", leg, ErrBadAnswer)
		}
		return nil
	})
}

// attempt makes one request and returns the body of its 200 answer.
func (c *Client) attempt(ctx context.Context, method, leg string, sel Selector, payload []byte) ([]byte, error) {
	timeout := getTimeout
	if method == http.MethodPost {
		timeout = postTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()

	address := c.endpoint + "/metadata/identity/" + leg + "?" + sel.query().Encode()
	req, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(payload))
	if err != nil {
		return nil, fmt.Errorf("IMDS %s: %w", leg, err)
	}
	req.Header.Set("Metadata", "true")
	req.Header.Set(requestIDHeader, uuid.NewString())
	if payload != nil {
		req.Header.Set("Content-Type", "application/json; charset=utf-8")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, unreachable(leg, err)
	}
	defer resp.Body.Close()
	answer, err := upstream.ReadBody(resp.Body)
	switch {
	case errors.Is(err, upstream.ErrTooLarge):
		return nil, fmt.Errorf("IMDS %s: %w: %w", leg, ErrBadAnswer, err)
	case err != nil:
		return nil, unreachable(leg, err)
	case resp.StatusCode != http.StatusOK:
		return nil, newError(leg, resp.StatusCode, answer)
	case !strings.Contains(strings.ToUpper(resp.Header.Get("Server")), "IMDS"):
		// Anybody can listen on a link-local address of a broken network.
		return nil, fmt.Errorf("IMDS %s: %w: Server header %q is not that of IMDS", leg, ErrBadAnswer, upstream.Text(resp.Header.Get("Server")))
	}
	return answer, nil
}

func unreachable(leg string, err error) error {
	return fmt.Errorf("IMDS %s: %w: %w", leg, ErrUnreachable, upstream.Cause(err))
}
