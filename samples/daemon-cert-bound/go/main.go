// Daemon is an app without a user, a daemon app as Entra calls it: it gets a token of its own and
// calls an API with it.
//
// It holds no credential. The agent on this machine knows which one the identity has, and whether
// that is bound to the TPM, so this file is the same whatever the agent's configuration says. It
// keeps no token either: the agent does, and renews it in time.
//
//	IDENTITY         name in the agent's configuration
//	RESOURCE         what the token is for, as in https://vault.azure.net
//	API_URL          what to call, https
//	CA_FILE          optional: PEM of the authorities to trust instead of the system's
//	KEYAGENT_SOCKET  optional: the agent's socket
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/keyagent/keyagent/client"
)

const (
	attempts    = 5
	longestWait = time.Minute // a longer Retry-After ends the program
	timeout     = 90 * time.Second
	maxAnswer   = 1 << 20 // bytes
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	answer, err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "daemon:", err)
		os.Exit(1)
	}
	fmt.Println(answer)
}

// run does the work, and again after a while when agent or API say that this will help.
func run(ctx context.Context) (string, error) {
	for _, name := range []string{"IDENTITY", "RESOURCE", "API_URL"} {
		if os.Getenv(name) == "" {
			return "", fmt.Errorf("%s is not set", name)
		}
	}
	agent := client.New(client.Config{}) // it reads KEYAGENT_SOCKET
	defer agent.Close()
	api, err := newAPI(os.Getenv("API_URL"), os.Getenv("CA_FILE"))
	if err != nil {
		return "", err
	}
	for attempt := 1; ; attempt++ {
		answer, err := work(ctx, agent, api)
		wait := retryAfter(err)
		if wait <= 0 || wait > longestWait || attempt == attempts {
			return answer, err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// work is one call with a token.
func work(ctx context.Context, agent *client.Client, a *api) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	token, err := agent.Token(ctx, client.TokenRequest{Identity: os.Getenv("IDENTITY"), Resource: os.Getenv("RESOURCE")})
	if e, ok := errors.AsType[*client.Error](err); ok && e.Problem.Hint != "" {
		return "", fmt.Errorf("%w; %s", err, e.Problem.Hint)
	}
	if err != nil {
		return "", err
	}
	return a.call(ctx, token.AccessToken.Reveal())
}

// retryAfter is how long the other side asks to wait; 0 means that asking again will not help.
func retryAfter(err error) time.Duration {
	if e, ok := errors.AsType[*client.Error](err); ok {
		return e.RetryAfter
	}
	if e, ok := errors.AsType[*apiError](err); ok {
		return e.retryAfter
	}
	return 0
}

type api struct {
	url  string
	http *http.Client
}

func newAPI(url, caFile string) (*api, error) {
	if !strings.HasPrefix(url, "https://") {
		return nil, errors.New("API_URL must be an https URL: the token goes there")
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}}
	if caFile != "" {
		authorities, err := os.ReadFile(caFile)
		if err != nil {
			return nil, err
		}
		transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(authorities) {
			return nil, fmt.Errorf("%s holds no certificate", caFile)
		}
	}
	return &api{url: url, http: &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // the token is for this API alone
	}}, nil
}

func (a *api) call(ctx context.Context, token string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.url, nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := a.http.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", newAPIError(resp, body)
	}
	return string(body), nil
}

// apiError is an answer of the API that is not what was asked for.
type apiError struct {
	status     int
	text       string
	retryAfter time.Duration
}

func newAPIError(resp *http.Response, body []byte) *apiError {
	e := &apiError{status: resp.StatusCode, text: explain(resp.Header.Get("Content-Type"), body)}
	if e.status == http.StatusTooManyRequests || e.status == http.StatusServiceUnavailable {
		seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After")) // 0 if it is anything else
		e.retryAfter = time.Duration(seconds) * time.Second
	}
	return e
}

func (e *apiError) Error() string { return fmt.Sprintf("the API answered %d: %s", e.status, e.text) }

// explain returns what a problem (RFC 9457) says went wrong and, if it says that, what to do; any
// other body as it is.
func explain(contentType string, body []byte) string {
	var problem struct{ Detail, Hint string }
	if contentType != "application/problem+json" || json.Unmarshal(body, &problem) != nil || problem.Detail == "" {
		return string(body)
	}
	return strings.TrimSuffix(problem.Detail+"; "+problem.Hint, "; ")
}
