package imds

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Legs of MSI v2.
const (
	legMetadata   = "getplatformmetadata"
	legCredential = "issuecredential"
)

// DisabledByEnvironment reads a value of the environment variable
// MSAL_MI_DISABLE_IMDS_V2 as Microsoft's clients do: "true" in any case and "1" switch
// MSI v2 off, everything else says nothing.
func DisabledByEnvironment(value string) bool {
	return value == "1" || strings.EqualFold(value, "true")
}

func v2Request(leg string, sel Selector, payload []byte) request {
	query := sel.query("mi_res_id")
	query.Set("cred-api-version", "2.0")
	return request{leg: leg, path: "/metadata/identity/" + leg, query: query, payload: payload}
}

// callV2 is call for a leg of MSI v2.
func (c *Client) callV2(ctx context.Context, r request, out any) error {
	if c.disableV2 {
		return fmt.Errorf("IMDS %s: %w: it is switched off here by MSAL_MI_DISABLE_IMDS_V2", r.leg, ErrNotSupported)
	}
	err := c.call(ctx, r, pauses, out)
	if !errors.Is(err, ErrNotSupported) {
		return err
	}
	return c.confirm(ctx, r, err)
}

// confirm asks without IMDS' own header, which an endpoint that exists answers by 400, before a 404 is believed: it lets a
// credential be unbound, and IMDS says it of an endpoint that is being updated, too.
func (c *Client) confirm(ctx context.Context, r request, missing error) error {
	probe := v2Request(r.leg, Selector{}, nil)
	probe.bare = true
	if r.payload != nil {
		probe.payload = []byte("{}")
	}
	err := c.withRetries(ctx, probePauses, func() error {
		_, err := c.attempt(ctx, probe)
		return err
	})
	if errors.Is(err, ErrNotSupported) {
		return missing
	}
	return fmt.Errorf("IMDS %s: %w: status 404, and a probe does not find the endpoint missing", r.leg, ErrUnreachable)
}
