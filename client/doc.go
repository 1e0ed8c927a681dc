// Package client asks the agent on this machine for tokens.
//
//	agent := client.New(client.Config{})
//	defer agent.Close()
//	token, err := agent.Token(ctx, client.TokenRequest{Resource: "https://vault.azure.net"})
//
// The kernel tells the agent which process is calling; there is nothing to configure
// on this side and no secret to keep. Tokens are cached and renewed by the
// agent: ask whenever one is needed, and do not keep it past its Expiry. When a
// resource answers with a claims challenge, ask again with [TokenRequest.Claims].
//
// # A client for an API
//
// Most programs need no more than an [net/http.Client] whose requests have a token:
//
//	transport, err := client.NewTransport(client.TransportConfig{
//		Source: agent.TokenSource(client.TokenRequest{Resource: "https://vault.azure.net"}),
//		Hosts:  []string{".vault.azure.net"},
//	})
//	vault := &http.Client{Transport: transport}
//
// A [TokenSource] keeps one token and asks for the next one ahead of time, so that a restart of
// the agent or an outage of Entra is not noticed before the token expires. A [Transport] puts
// tokens into requests to listed hosts, and meets a claims challenge once.
//
// # Bound tokens
//
// A token of type mtls_pop is taken only over a connection that presents the certificate that it is
// bound to. [Client.HTTPClient] makes such connections: the agent signs their handshakes with a key
// that stays in the TPM. [Client.TLSConfig] and [Client.Binding] are for other uses of mutual TLS.
//
// # Invariants
//
//   - Only the agent's socket is ever contacted, but by a Transport and by the client of
//     HTTPClient. Proxy settings (save by those) and redirects are not followed.
//   - A reply is used only if it is whole and of bounded size.
//   - [Client] retries nothing; [Error.RetryAfter] says when a retry makes sense. A [TokenSource]
//     without a token waits some seconds for an agent that is being restarted.
//   - A Transport sends a token to the hosts that are listed, by https, and to nobody else.
//
// # Errors
//
// [ErrNotReachable] is wrapped when there is no answer from the socket. An error reported
// by the agent is an [*Error]; it matches [ErrRefused] when the agent's rules do not allow
// the request. Where Entra itself demands claims, Problem.Claims has them.
//
// The package imports the standard library and agentapi/wire only.
package client
