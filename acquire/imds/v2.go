package imds

import (
	"context"
	"fmt"
	"strings"

	"github.com/keyagent/keyagent/internal/upstream"
)

// Requests of MSI v2, by the last element of their path.
const (
	opMetadata   = "getplatformmetadata"
	opCredential = "issuecredential"
)

// DisabledByEnvironment reads a value of the environment variable
// MSAL_MI_DISABLE_IMDS_V2 as Microsoft's clients do: "true" in any case and "1" switch
// MSI v2 off, everything else says nothing.
func DisabledByEnvironment(value string) bool {
	return value == "1" || strings.EqualFold(value, "true")
}

func v2Request(operation string, sel Selector, payload []byte) request {
	query := sel.query("mi_res_id")
	query.Set("cred-api-version", "2.0")
	return request{operation: operation, path: "/metadata/identity/" + operation, query: query, payload: payload}
}

// callV2 is call for a request of MSI v2.
func (c *Client) callV2(ctx context.Context, r request) (upstream.Members, error) {
	if c.disableV2 {
		return nil, fmt.Errorf("IMDS %s: %w: it is switched off here by MSAL_MI_DISABLE_IMDS_V2", r.operation, ErrNotSupported)
	}
	return c.call(ctx, r, pauses)
}
