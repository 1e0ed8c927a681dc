package imds

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"github.com/keyagent/keyagent/internal/upstream"
)

// Reading is an answer of IMDS as it is: of any status but a redirect.
type Reading struct {
	Status int
	// Kind is the media type of the body, application/json or text/plain; whatever else IMDS calls
	// it is told as the latter.
	Kind string
	Body []byte // bounded
}

// Read asks IMDS for what others want to know of it, once. The path is sent as it is; it must be
// one that the caller of Read has chosen, not one that somebody has sent. It fails if nothing
// answers, and on an answer that is not of IMDS.
func (c *Client) Read(ctx context.Context, path string, query url.Values) (Reading, error) {
	const operation = "metadata for a program"
	defer c.waiting("IMDS: " + operation)()
	got, err := c.exchange(ctx, request{operation: operation, path: path, query: query})
	switch {
	case err != nil:
		return Reading{}, err
	case !got.ofIMDS():
		return Reading{}, fmt.Errorf("IMDS %s: %w: Server header %q is not that of IMDS", operation, ErrBadAnswer, upstream.Text(got.server))
	case got.status < http.StatusOK || got.status >= http.StatusMultipleChoices && got.status < http.StatusBadRequest:
		return Reading{}, fmt.Errorf("IMDS %s: %w: status %d", operation, ErrBadAnswer, got.status)
	}
	return Reading{Status: got.status, Kind: got.kind(), Body: got.body}, nil
}
