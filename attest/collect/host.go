package collect

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/keyagent/keyagent/internal/upstream"
)

// hostTimeout bounds one request. The service is on the same host.
const hostTimeout = 30 * time.Second

// HostError is a failure of the host's metadata service, or of another service, to hand out what
// vouches for the hardware report.
type HostError struct {
	What       string        // the object of the request; empty: the processor's certificates
	From       string        // whom; empty: the host
	Status     int           // HTTP status; 0: no answer
	RetryAfter time.Duration // 0: not said
	Err        error
}

func (e *HostError) Error() string {
	what, from := cmp.Or(e.What, "the processor's certificates"), cmp.Or(e.From, "the host (IMDS)")
	if e.Status == 0 {
		return fmt.Sprintf("fetching %s from %s: %v", what, from, e.Err)
	}
	return fmt.Sprintf("fetching %s from %s: status %d: %v", what, from, e.Status, e.Err)
}

// Unwrap returns the cause.
func (e *HostError) Unwrap() error { return e.Err }

// Temporary reports whether the same request may succeed later.
func (e *HostError) Temporary() bool {
	return e.Status == 0 || e.Status == http.StatusTooManyRequests || e.Status >= 500
}

// Refuses is false: an answer of a service that hands things out is no verdict about this machine.
func (e *HostError) Refuses() bool { return false }

// host is the metadata service of this VM's host.
type host struct {
	url    string
	client *http.Client
	now    func() time.Time
}

func newHost(cfg Config) host {
	client := cfg.HTTP
	if client == nil {
		// No proxy: the address is link-local, and the answer must come from this host.
		client = &http.Client{Transport: &http.Transport{Proxy: nil}, CheckRedirect: upstream.RefuseRedirects}
	}
	return host{url: strings.TrimRight(cfg.IMDSEndpoint, "/"), client: client, now: cfg.Now}
}

// question is one request to the host.
type question struct {
	method, path string
	body         []byte // JSON; nil: none
	what         string // is asked for
}

// ask sends one request and returns the body of its answer.
func (h host) ask(ctx context.Context, q question) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, hostTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, q.method, h.url+q.path, bytes.NewReader(q.body))
	if err != nil {
		return nil, &HostError{What: q.what, Err: err}
	}
	req.Header.Set("Metadata", "true")
	if q.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	rsp, err := h.client.Do(req)
	if err != nil {
		return nil, &HostError{What: q.what, Err: upstream.Cause(err)}
	}
	defer rsp.Body.Close()
	if rsp.StatusCode != http.StatusOK {
		return nil, &HostError{
			What:       q.what,
			Status:     rsp.StatusCode,
			RetryAfter: upstream.RetryAfter(rsp.Header.Get("Retry-After"), h.now()),
			Err:        errors.New("not the answer of a host with this hardware"),
		}
	}
	body, err := upstream.ReadBody(rsp.Body)
	if err != nil {
		return nil, &HostError{What: q.what, Err: err}
	}
	return body, nil
}
