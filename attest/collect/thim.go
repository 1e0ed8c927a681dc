package collect

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/keyagent/keyagent/internal/upstream"
)

// thimPath leads to Trusted Hardware Identity Management, which answers which certificates belong
// to this processor.
const thimPath = "/metadata/THIM/"

// thimTimeout bounds one request. The service is on the same host.
const thimTimeout = 10 * time.Second

// HostError is a failure of the host's metadata service to hand out the processor's certificates.
type HostError struct {
	Status     int           // HTTP status; 0: no answer
	RetryAfter time.Duration // 0: not said
	Err        error
}

func (e *HostError) Error() string {
	if e.Status == 0 {
		return fmt.Sprintf("fetching the processor's certificates from the host (THIM): %v", e.Err)
	}
	return fmt.Sprintf("fetching the processor's certificates from the host (THIM): status %d: %v", e.Status, e.Err)
}

// Unwrap returns the cause.
func (e *HostError) Unwrap() error { return e.Err }

// Temporary reports whether the same request may succeed later.
func (e *HostError) Temporary() bool {
	return e.Status == 0 || e.Status == http.StatusTooManyRequests || e.Status >= 500
}

// Refuses is false: an answer of the metadata service is no verdict about this machine.
func (e *HostError) Refuses() bool { return false }

// thim fetches from the metadata service.
type thim struct {
	url    string
	client *http.Client
	now    func() time.Time
}

func newTHIM(cfg Config) thim {
	client := cfg.HTTP
	if client == nil {
		// No proxy: the address is link-local, and the answer must come from this host.
		client = &http.Client{Transport: &http.Transport{Proxy: nil}, CheckRedirect: upstream.RefuseRedirects}
	}
	return thim{url: strings.TrimRight(cfg.IMDSEndpoint, "/") + thimPath, client: client, now: cfg.Now}
}

// certificates fetches the platform's endorsements, as DER, the signer's first. They are
// candidates: only verification shows what they prove.
func (t thim) certificates(ctx context.Context, p platform) ([][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, thimTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.url+p.path, nil)
	if err != nil {
		return nil, &HostError{Err: err}
	}
	req.Header.Set("Metadata", "true")
	rsp, err := t.client.Do(req)
	if err != nil {
		return nil, &HostError{Err: upstream.Cause(err)}
	}
	defer rsp.Body.Close()
	if rsp.StatusCode != http.StatusOK {
		return nil, &HostError{
			Status:     rsp.StatusCode,
			RetryAfter: upstream.RetryAfter(rsp.Header.Get("Retry-After"), t.now()),
			Err:        fmt.Errorf("not the answer of a host with %v", p.kind),
		}
	}
	body, err := upstream.ReadBody(rsp.Body)
	if err != nil {
		return nil, &HostError{Err: err}
	}
	chain, err := p.parse(body)
	if err != nil {
		return nil, &HostError{Status: rsp.StatusCode, Err: err}
	}
	return chain, nil
}
