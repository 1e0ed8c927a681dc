package imds

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// Support says which protocols for managed identities a host has.
type Support struct {
	V2 bool // binding certificates: getplatformmetadata, issuecredential
	V1 bool // tokens that IMDS obtains itself
}

// Probe asks what the host supports, without asking for anything that a managed
// identity is needed for: a request without IMDS' own header is answered 400 by an
// endpoint that exists. An endpoint that answers anything else for good counts as
// absent. The error is [ErrUnreachable] if nobody answers at all.
func (c *Client) Probe(ctx context.Context) (Support, error) {
	var found Support
	var err error
	if !c.disableV2 {
		r := v2Request(legMetadata, Selector{}, nil)
		if found.V2, err = c.exists(ctx, r); err != nil {
			return Support{}, err
		}
	}
	found.V1, err = c.exists(ctx, request{leg: legToken, path: "/metadata/identity/oauth2/token"})
	if err != nil {
		return Support{}, err
	}
	return found, nil
}

func (c *Client) exists(ctx context.Context, r request) (bool, error) {
	r.bare = true
	err := c.withRetries(ctx, probePauses, func() error {
		_, err := c.attempt(ctx, r)
		return err
	})
	if status, told := statusOf(err); told && status != 0 {
		return status == http.StatusBadRequest, nil
	}
	if errors.Is(err, ErrBadAnswer) {
		return false, nil
	}
	return false, err
}

// probePauses takes 404 as an answer: that is what a probe is for.
func probePauses(status int) []time.Duration {
	if status == http.StatusNotFound {
		return nil
	}
	return pauses(status)
}
