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
	opCompute      = "compute"
	computeVersion = "2021-02-01"

	// regionBudget bounds the whole search: the global endpoint is used without a region.
	regionBudget = 2 * time.Second
	regionPause  = 250 * time.Millisecond
)

// Region asks which Azure region the VM is in, such as "westeurope". It takes two seconds at most.
// The answer becomes a label of a host name, so its form is checked.
func (c *Client) Region(ctx context.Context) (string, error) {
	members, err := c.compute(ctx)
	if err != nil {
		return "", err
	}
	return regionOf(members)
}

// compute asks for what IMDS says of the VM itself, in a version that this IMDS has.
func (c *Client) compute(ctx context.Context) (upstream.Members, error) {
	ctx, cancel := context.WithTimeout(ctx, regionBudget)
	defer cancel()
	members, err := c.computeIn(ctx, computeVersion)
	if e, ok := errors.AsType[*Error](err); ok && e.Status == http.StatusBadRequest {
		version, err := c.newestVersion(ctx)
		if err != nil {
			return nil, err
		}
		return c.computeIn(ctx, version)
	}
	return members, err
}

func (c *Client) computeIn(ctx context.Context, version string) (upstream.Members, error) {
	return c.call(ctx, computeRequest(url.Values{"api-version": {version}}), regionPauses)
}

var regionForm = regexp.MustCompile(`^[a-z][a-z0-9]{0,62}$`)

func regionOf(answer upstream.Members) (string, error) {
	location, err := answer.Text("location")
	if err != nil {
		return "", badAnswer(opCompute, err)
	}
	region := strings.ToLower(location)
	if !regionForm.MatchString(region) {
		return "", badAnswer(opCompute, fmt.Errorf("location %q is not a region's name", upstream.Text(location)))
	}
	return region, nil
}

var versionForm = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}$`)

// newestVersion makes a request without a version, which IMDS refuses with a list of the versions
// it has.
func (c *Client) newestVersion(ctx context.Context) (string, error) {
	answer, err := c.exchange(ctx, computeRequest(nil))
	if err != nil {
		return "", err
	}
	errNone := badAnswer(opCompute, errors.New("no version of its own (newest-versions) in answer to an unknown one"))
	members, err := upstream.ParseMembers(answer.body)
	if err != nil {
		return "", errNone
	}
	versions, err := members.List("newest-versions")
	if err != nil || len(versions) == 0 {
		return "", errNone
	}
	var newest string
	if json.Unmarshal(versions[0], &newest) != nil || !versionForm.MatchString(newest) {
		return "", errNone
	}
	return newest, nil
}

func computeRequest(query url.Values) request {
	return request{operation: opCompute, path: "/metadata/instance/compute", query: query}
}

// regionPauses fits three retries into the budget. A missing endpoint and a time-out are not
// retried.
func regionPauses(status int) []time.Duration {
	if status == http.StatusGone || status == http.StatusTooManyRequests || status >= 500 {
		return slices.Repeat([]time.Duration{regionPause}, 3)
	}
	return nil
}
