package client

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"

	"github.com/keyagent/keyagent/agentapi/wire"
)

// EndpointRequest says for what a program is to ask on loopback, and how long.
type EndpointRequest struct {
	Identity string // name in the agent's configuration; empty if the agent's rules grant only one
	Lifetime string // empty: wire.LifetimeProcess; or wire.LifetimeUnit
}

// Endpoint asks where an unmodified program of this process' user finds the agent on loopback, and
// for the secret that the program must show there. With wire.LifetimeProcess the secret ends with
// this process, whatever program it executes meanwhile; with wire.LifetimeUnit it ends with the
// systemd unit of this process.
func (c *Client) Endpoint(ctx context.Context, req EndpointRequest) (wire.Endpoint, error) {
	query := make(url.Values)
	for name, value := range map[string]string{wire.ParamIdentity: req.Identity, wire.ParamLifetime: req.Lifetime} {
		if value != "" {
			query.Set(name, value)
		}
	}
	body, err := c.send(ctx, http.MethodPost, wire.PathEndpoint, query.Encode())
	if err != nil {
		return wire.Endpoint{}, err
	}
	var endpoint wire.Endpoint
	if err := json.Unmarshal(body, &endpoint); err != nil || endpoint.Secret.IsZero() || endpoint.AppService == "" {
		return wire.Endpoint{}, errors.New("reading the agent's reply: it is not an endpoint") // the cause could quote the secret
	}
	return endpoint, nil
}
