package maa

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/internal/upstream"
	"github.com/keyagent/keyagent/internal/waiting"
)

const (
	// attestPath has the version of the API that every public client of AzureGuest speaks.
	attestPath = "/attest/AzureGuest?api-version=2020-10-01"

	attempts       = 3
	attemptTimeout = 30 * time.Second
	firstPause     = time.Second
	longestPause   = 10 * time.Second
)

// Hosts decides where evidence may be sent. Check returns the endpoint without trailing slash if it
// is an https URL of an allowed host, without user information, query and fragment.
type Hosts interface {
	Check(endpoint string) (string, error)
}

// TransportKey is the key to which the service encrypts its answer; *collect.TransportKey is one.
type TransportKey interface {
	// Certified returns the key's public area and the attestation key's statement about it.
	Certified() attest.Certified
	// Decrypt opens an RSAES-PKCS1-v1_5 ciphertext. It must not tell by its error whether the
	// padding was right.
	Decrypt(ctx context.Context, ciphertext []byte) ([]byte, error)
}

// OS is the guest's operating system as reported to the service. It proves nothing.
type OS struct {
	Distro       string // such as "Debian"
	Major, Minor int
}

// Config says how to reach the service.
type Config struct {
	Hosts Hosts // required: nil refuses every endpoint
	// HTTP has the roots to trust; its redirect policy is not used. Nil: the system's roots.
	HTTP   *http.Client
	OS     OS
	Now    func() time.Time                           // nil: time.Now
	Sleep  func(context.Context, time.Duration) error // nil: waits
	Logger *slog.Logger                               // nil: nothing is logged
	// Waiting is called when a wait begins, with a text that names it, and its result when the wait
	// is over. May be nil.
	Waiting func(what string) (over func())
}

// Client asks attestation services for tokens. It is safe for concurrent use.
type Client struct {
	cfg  Config
	http *http.Client
}

// New makes a Client. It does no I/O.
func New(cfg Config) *Client {
	client := http.Client{}
	if cfg.HTTP != nil {
		client = *cfg.HTTP
	}
	client.CheckRedirect = upstream.RefuseRedirects
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Sleep == nil {
		cfg.Sleep = waiting.Sleep
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Waiting == nil {
		cfg.Waiting = func(string) func() { return func() {} }
	}
	return &Client{cfg: cfg, http: &client}
}

// Request is one question to the service.
type Request struct {
	Endpoint  string // as Endpoint returned it
	Challenge attest.Challenge
	Evidence  *attest.Evidence // made for Challenge
	Key       TransportKey     // of the same TPM
}

// Endpoint checks that evidence may be sent to endpoint, and returns it in the form that serves as
// audience: without trailing slash.
func (c *Client) Endpoint(endpoint string) (string, error) {
	if c.cfg.Hosts == nil {
		return "", errors.New("attestation endpoint: no host is allowed")
	}
	checked, err := c.cfg.Hosts.Check(endpoint)
	if err != nil {
		return "", fmt.Errorf("attestation endpoint: %w", err)
	}
	return checked, nil
}

// Attest sends evidence and returns the service's token with its expiry. Throttling and the
// service's own failures are retried twice; a refusal is final; after a lost answer the caller
// comes again with new evidence. The token is not validated; see the package comment.
func (c *Client) Attest(ctx context.Context, r Request) (secret.String, time.Time, error) {
	endpoint, err := c.Endpoint(r.Endpoint)
	if err != nil {
		return secret.String{}, time.Time{}, err
	}
	body, err := encodeRequest(c.cfg.OS, r)
	if err != nil {
		return secret.String{}, time.Time{}, fmt.Errorf("attestation request: %w", err)
	}
	over := c.cfg.Waiting("the attestation service at " + strings.TrimPrefix(endpoint, "https://") + upstream.Via(c.http, endpoint))
	answer, err := c.send(ctx, endpoint, body)
	over()
	if err != nil {
		return secret.String{}, time.Time{}, err
	}
	return c.read(ctx, endpoint, answer, r)
}

// read opens an answer and looks into the token.
func (c *Client) read(ctx context.Context, endpoint string, answer []byte, r Request) (secret.String, time.Time, error) {
	envelope, err := parseEnvelope(answer)
	if err != nil {
		return secret.String{}, time.Time{}, &Error{Endpoint: endpoint, Err: err}
	}
	jwt, err := envelope.open(ctx, r.Key)
	if err != nil {
		return secret.String{}, time.Time{}, fmt.Errorf("attesting at %s: %w", endpoint, err)
	}
	defer clear(jwt)
	expires, err := checkToken(string(jwt), r)
	if err != nil {
		return secret.String{}, time.Time{}, fmt.Errorf("attesting at %s: %w", endpoint, err)
	}
	return secret.New(string(jwt)), expires, nil
}

// send posts the request until it is answered, refused, or the attempts are used up. It does not
// repeat a request that got no answer: it may have been served, and a nonce serves once.
func (c *Client) send(ctx context.Context, endpoint string, body []byte) ([]byte, error) {
	for n := 1; ; n++ {
		answer, err := c.post(ctx, endpoint, body)
		if err == nil || n == attempts || err.Status == 0 || !err.Temporary() || ctx.Err() != nil {
			return answer, asError(err)
		}
		pause := max(err.RetryAfter, firstPause<<(n-1))
		if pause > longestPause {
			return nil, err // the caller may wait that long; we hold a TPM slot and do not
		}
		c.cfg.Logger.WarnContext(ctx, "attestation is retried", "endpoint", endpoint, "status", err.Status, "pause_seconds", pause.Seconds())
		if c.cfg.Sleep(ctx, pause) != nil {
			return nil, err
		}
	}
}

// asError keeps a nil *Error from becoming an error that is not nil.
func asError(err *Error) error {
	if err == nil {
		return nil
	}
	return err
}

func (c *Client) post(ctx context.Context, endpoint string, body []byte) ([]byte, *Error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint+attestPath, bytes.NewReader(body))
	if err != nil {
		return nil, &Error{Endpoint: endpoint, Err: err}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	rsp, err := c.http.Do(req)
	if err != nil {
		return nil, &Error{Endpoint: endpoint, Err: upstream.Cause(err)}
	}
	defer rsp.Body.Close()
	answer, err := upstream.ReadBody(io.Reader(rsp.Body))
	if err != nil {
		return nil, &Error{Endpoint: endpoint, Err: err}
	}
	if rsp.StatusCode != http.StatusOK {
		return nil, refusal(endpoint, rsp, answer, c.cfg.Now())
	}
	return answer, nil
}
