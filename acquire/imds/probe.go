package imds

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Presence says whether a host has a protocol. The zero value is [Unknown].
type Presence int8

// The three answers of a probe.
const (
	Unknown Presence = iota // IMDS itself has not said so
	Absent
	Present
)

// Support says which protocols for managed identities a host has.
type Support struct {
	V2 Presence // binding certificates: getplatformmetadata, issuecredential
	V1 Presence // tokens that IMDS obtains itself
}

// Probe asks what the host supports, without a request that a managed identity is needed for: a
// request without IMDS' own header is answered 400 by an endpoint that exists, and 404 by an IMDS
// that does not have it. Any other answer, and one of another server, is [Unknown]; the error says
// why, and is nil if nothing is unknown. Whether IMDS marks its bare 400 is not documented, so its
// text counts, too.
func (c *Client) Probe(ctx context.Context) (Support, error) {
	found := Support{V2: Absent}
	var errV2, errV1 error
	if !c.disableV2 {
		found.V2, errV2 = c.presence(ctx, v2Request(opMetadata, Selector{}, nil))
	}
	if errors.Is(errV2, ErrUnreachable) {
		return found, errV2 // the other request would fail, too
	}
	found.V1, errV1 = c.presence(ctx, request{operation: opToken, path: "/metadata/identity/oauth2/token"})
	return found, errors.Join(errV2, errV1)
}

func (c *Client) presence(ctx context.Context, r request) (Presence, error) {
	r.bare = true
	err := c.withRetries(ctx, probePauses, func() error {
		_, err := c.attempt(ctx, r)
		return err
	})
	said, byIMDS := errors.AsType[*Error](err)
	stranger, _ := errors.AsType[*strangerError](err)
	switch {
	case byIMDS && said.Status == http.StatusBadRequest, stranger != nil && stranger.status == http.StatusBadRequest && stranger.asks:
		return Present, nil
	case byIMDS && said.Status == http.StatusNotFound:
		return Absent, nil
	case err == nil:
		err = fmt.Errorf("IMDS %s: %w: 200 to a request without its header Metadata", r.operation, ErrBadAnswer)
	}
	return Unknown, err
}

// probePauses does not retry 404, which is an answer to a probe.
func probePauses(status int) []time.Duration {
	if status == http.StatusNotFound {
		return nil
	}
	return pauses(status)
}
