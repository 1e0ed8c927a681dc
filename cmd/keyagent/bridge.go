package main

import (
	"fmt"
	"net"

	"github.com/spf13/cobra"

	"github.com/keyagent/keyagent/internal/bridge"
)

func (a *app) bridgeCommand() *cobra.Command {
	var cfg bridge.Config
	var listen string
	cmd := &cobra.Command{
		Use:   "bridge --identity NAME --listen ADDRESS",
		Short: "Give this user's programs a base URL at which the agent calls a resource for them",
		Long: `Give this user's programs a base URL at which the agent calls a resource for them.

A request to the base URL is made by the agent at an https resource, with a token of type
mtls_pop and over TLS with the certificate that the token is bound to. Which identity,
resource and host that may be is decided by the agent's rules (hosts:). Without --host,
the first part of a request's path names the host.

Only this user's programs are served. It runs until it is interrupted.`,
		Example: `  keyagent bridge --identity vm --host myvault.vault.azure.net --listen unix:$XDG_RUNTIME_DIR/vault.sock
  curl --unix-socket $XDG_RUNTIME_DIR/vault.sock 'http://localhost/secrets?api-version=7.4'
  keyagent bridge --identity vm --host graph.microsoft.com --listen 127.0.0.1:8100
  curl http://127.0.0.1:8100/v1.0/organization`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cfg.Identity == "" || listen == "" {
				return usageError{fmt.Errorf("--identity and --listen are needed")}
			}
			cfg.Socket = a.agentSocket(cmd)
			b, err := bridge.New(cfg)
			if err != nil {
				return usageError{err}
			}
			ln, err := bridge.Listen(cmd.Context(), listen)
			if err != nil {
				return err
			}
			fmt.Fprintln(a.out, baseURL(ln.Addr()))
			return b.Serve(cmd.Context(), ln)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&cfg.Identity, "identity", "", "name of the identity in the agent's configuration")
	flags.StringVar(&cfg.Host, "host", "", "host of the resource, as in myvault.vault.azure.net, with a port if that is not 443")
	flags.StringVar(&cfg.Resource, "resource", "", "resource of the token, as in https://vault.azure.net (may be left out if the rules give one only at the host)")
	flags.StringVar(&listen, "listen", "", "unix:PATH, or a loopback address with a port, as in 127.0.0.1:8100")
	return cmd
}

// baseURL says how the bridge is used.
func baseURL(at net.Addr) string {
	if at.Network() == "unix" {
		return "curl --unix-socket " + at.String() + " http://localhost/"
	}
	return "http://" + at.String() + "/"
}
