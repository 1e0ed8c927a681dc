package imds

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/keyagent/keyagent/internal/cloud"
	"github.com/keyagent/keyagent/internal/upstream"
	"github.com/keyagent/keyagent/internal/waiting"
)

// DefaultEndpoint is where every Azure VM finds IMDS.
const DefaultEndpoint = cloud.MetadataEndpoint

const (
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
	// DisableV2 makes the requests of MSI v2 fail at once with [ErrNotSupported]; see
	// [DisabledByEnvironment].
	DisableV2 bool
	Version   string           // of this program, sent as x-client-Ver
	Now       func() time.Time // for answers that give a time of day; nil means time.Now
	// Sleep waits between retries; nil means a timer. It returns early with the
	// context's error.
	Sleep func(ctx context.Context, d time.Duration) error
	// Waiting is called before a request with a description of it, and its result after the answer.
	// Nil: not called.
	Waiting func(what string) (over func())
}

// Client speaks to IMDS. It is safe for concurrent use.
type Client struct {
	endpoint  string
	hosts     atomic.Pointer[hosts]
	disableV2 bool
	version   string
	now       func() time.Time
	sleep     func(context.Context, time.Duration) error
	waiting   func(string) func()
	http      *http.Client
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
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Sleep == nil {
		cfg.Sleep = waiting.Sleep
	}
	if cfg.Waiting == nil {
		cfg.Waiting = func(string) func() { return func() {} }
	}
	c := &Client{
		endpoint:  strings.TrimRight(cfg.Endpoint, "/"),
		disableV2: cfg.DisableV2,
		version:   cfg.Version,
		now:       cfg.Now,
		sleep:     cfg.Sleep,
		waiting:   cfg.Waiting,
		http:      NewHTTPClient(),
	}
	c.SetHosts(cfg.MTLSHosts, cfg.AttestationHosts)
	return c, nil
}

// hosts are those that IMDS may name.
type hosts struct{ mtls, attestation HostList }

// SetHosts changes which hosts IMDS may name, for answers that arrive from then on.
func (c *Client) SetHosts(mtls, attestation HostList) { c.hosts.Store(&hosts{mtls, attestation}) }

// NewHTTPClient returns a client fit for link-local services: no proxy, because a proxy would ask
// the services of its own machine, and no redirects, because they could lead to any host.
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

// query spells the selector; the two protocols call the resource id differently.
func (s Selector) query(resourceID string) url.Values {
	q := url.Values{}
	switch {
	case s.ClientID != "":
		q.Set("client_id", s.ClientID)
	case s.ObjectID != "":
		q.Set("object_id", s.ObjectID)
	case s.ResourceID != "":
		q.Set(resourceID, s.ResourceID)
	}
	return q
}

// request is a request to IMDS; each attempt sends it anew.
type request struct {
	operation string // as errors call it
	path      string
	query     url.Values
	payload   []byte // JSON of a POST; nil makes it a GET
	bare      bool   // without the header that IMDS demands
}

func (c *Client) build(ctx context.Context, r request) (*http.Request, error) {
	method := http.MethodGet
	if r.payload != nil {
		method = http.MethodPost
	}
	address := c.endpoint + r.path
	if len(r.query) > 0 {
		address += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(r.payload))
	if err != nil {
		return nil, fmt.Errorf("IMDS %s: %w", r.operation, err)
	}
	if !r.bare {
		req.Header.Set("Metadata", "true")
	}
	req.Header.Set(requestIDHeader, uuid.NewString())
	upstream.NameClient(req.Header, c.version)
	if r.payload != nil {
		req.Header.Set("Content-Type", "application/json; charset=utf-8")
	}
	return req, nil
}

// call makes a request, retries included, and returns the members of the 200 answer.
func (c *Client) call(ctx context.Context, r request, plan schedule) (upstream.Members, error) {
	defer c.waiting("IMDS: " + r.operation)()
	var members upstream.Members
	err := c.withRetries(ctx, plan, func() error {
		answer, err := c.attempt(ctx, r)
		if err != nil {
			return err
		}
		if members, err = upstream.ParseMembers(answer); err != nil {
			return badAnswer(r.operation, err)
		}
		return nil
	})
	return members, err
}

// badAnswer says what is wrong with an answer of IMDS.
func badAnswer(operation string, err error) error {
	return fmt.Errorf("IMDS %s: %w: %w", operation, ErrBadAnswer, err)
}

// attempt makes one request and returns the body of its 200 answer.
func (c *Client) attempt(ctx context.Context, r request) ([]byte, error) {
	answer, err := c.exchange(ctx, r)
	switch {
	case err != nil:
		return nil, err
	case answer.status != http.StatusOK:
		return nil, newError(r.operation, answer)
	case !answer.ofIMDS():
		// In a broken network, another machine can listen on the link-local address.
		return nil, fmt.Errorf("IMDS %s: %w: Server header %q is not that of IMDS", r.operation, ErrBadAnswer, upstream.Text(answer.server))
	}
	return answer.body, nil
}

// answer is an HTTP answer that has not been checked.
type answer struct {
	status int
	server string // header Server
	media  string // header Content-Type
	body   []byte
}

// kind is the media type of the answer without parameters, of the two that IMDS has.
func (a answer) kind() string {
	const json = "application/json"
	if media, _, err := mime.ParseMediaType(a.media); err == nil && media == json {
		return json
	}
	return "text/plain"
}

// ofIMDS reports whether the answer's Server header is that of IMDS.
func (a answer) ofIMDS() bool { return strings.Contains(strings.ToUpper(a.server), "IMDS") }

// exchange makes one request and returns its answer, whatever its status.
func (c *Client) exchange(ctx context.Context, r request) (answer, error) {
	timeout := getTimeout
	if r.payload != nil {
		timeout = postTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := c.build(ctx, r)
	if err != nil {
		return answer{}, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return answer{}, unreachable(r.operation, err)
	}
	defer resp.Body.Close()
	body, err := upstream.ReadBody(resp.Body)
	switch {
	case errors.Is(err, upstream.ErrTooLarge):
		return answer{}, fmt.Errorf("IMDS %s: %w: %w", r.operation, ErrBadAnswer, err)
	case err != nil:
		return answer{}, unreachable(r.operation, err)
	}
	return answer{resp.StatusCode, resp.Header.Get("Server"), resp.Header.Get("Content-Type"), body}, nil
}

func unreachable(operation string, err error) error {
	return fmt.Errorf("IMDS %s: %w: %w", operation, ErrUnreachable, upstream.Cause(err))
}
