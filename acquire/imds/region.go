package imds

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/keyagent/keyagent/internal/upstream"
)

const (
	legCompute     = "compute"
	computeVersion = "2021-02-01"

	// regionBudget bounds the whole search: a region is a convenience, and the global
	// endpoint serves without.
	regionBudget = 2 * time.Second
	regionPause  = 250 * time.Millisecond
)

// Region asks which Azure region the VM is in, such as "westeurope". It takes two
// seconds at most. The answer becomes a label of a host name, so it is checked to be
// one.
func (c *Client) Region(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, regionBudget)
	defer cancel()
	region, err := c.location(ctx, computeVersion)
	if e, ok := errors.AsType[*Error](err); ok && e.Status == http.StatusBadRequest {
		version, err := c.newestVersion(ctx)
		if err != nil {
			return "", err
		}
		return c.location(ctx, version)
	}
	return region, err
}

var regionForm = regexp.MustCompile(`^[a-z][a-z0-9]{0,62}$`)

func (c *Client) location(ctx context.Context, version string) (string, error) {
	var wire struct {
		Location string `json:"location"`
	}
	if err := c.call(ctx, computeRequest(url.Values{"api-version": {version}}), regionPauses, &wire); err != nil {
		return "", err
	}
	region := strings.ToLower(wire.Location)
	if !regionForm.MatchString(region) {
		return "", fmt.Errorf("IMDS %s: %w: location %q is not a region's name", legCompute, ErrBadAnswer, upstream.Text(wire.Location))
	}
	return region, nil
}

var versionForm = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}$`)

// newestVersion asks without a version, which IMDS answers by a refusal that lists the
// versions it has.
func (c *Client) newestVersion(ctx context.Context) (string, error) {
	answer, err := c.exchange(ctx, computeRequest(nil))
	if err != nil {
		return "", err
	}
	var wire struct {
		Newest []string `json:"newest-versions"`
	}
	if json.Unmarshal(answer.body, &wire) != nil || len(wire.Newest) == 0 || !versionForm.MatchString(wire.Newest[0]) {
		return "", fmt.Errorf("IMDS %s: %w: no version of its own in answer to an unknown one", legCompute, ErrBadAnswer)
	}
	return wire.Newest[0], nil
}

func computeRequest(query url.Values) request {
	return request{leg: legCompute, path: "/metadata/instance/compute", query: query}
}

// regionPauses fits three retries into the budget. A missing endpoint and a time-out
// are not worth one.
func regionPauses(status int) []time.Duration {
	if status == http.StatusGone || status == http.StatusTooManyRequests || status >= 500 {
		return slices.Repeat([]time.Duration{regionPause}, 3)
	}
	return nil
}
