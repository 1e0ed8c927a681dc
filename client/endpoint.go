package client

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"

	"github.com/keyagent/keyagent/agentapi/wire"
)

// Endpoint is where a program that speaks a protocol of Azure's SDKs finds the agent, and the
// secret that it must show there. Use its Secret.Reveal() where the secret is needed; printed, it
// shows nothing.
type Endpoint = wire.Endpoint

// EndpointRequest says what a program is to be served with.
type EndpointRequest struct {
	Identity string // name in the agent's configuration; empty if the agent's rules grant only one
	// Lifetime is wire.LifetimeProcess (what empty means: the secret ends with this process, also
	// after it has become another program) or wire.LifetimeUnit (with its systemd unit).
	Lifetime string
}

// Endpoint asks for a secret for a program of this process' user, and in its systemd unit where
// that is known. It is worth nothing to others, and outlives restarts of the agent.
func (c *Client) Endpoint(ctx context.Context, req EndpointRequest) (Endpoint, error) {
	query := make(url.Values)
	for name, value := range map[string]string{wire.ParamIdentity: req.Identity, wire.ParamLifetime: req.Lifetime} {
		if value != "" {
			query.Set(name, value)
		}
	}
	body, err := c.do(ctx, http.MethodPost, wire.PathEndpoint, query.Encode(), nil)
	if err != nil {
		return Endpoint{}, err
	}
	var endpoint Endpoint
	// The cause could quote the secret.
	if err := json.Unmarshal(body, &endpoint); err != nil || endpoint.Secret.IsZero() || endpoint.AppService == "" {
		return Endpoint{}, errors.New("reading the agent's reply: it is not an endpoint with a secret")
	}
	return endpoint, nil
}
