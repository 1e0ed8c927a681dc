package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/client"
)

func (a *app) tokenCommand() *cobra.Command {
	var req client.TokenRequest
	var output string
	cmd := &cobra.Command{
		Use:   "token --identity NAME (--resource URI | --scope SCOPE)",
		Short: "Get an access token from the agent",
		Long: `Get an access token from the agent, if its rules allow this user to have it.

The token goes to standard output and nowhere else. A Bearer token can be used by
whoever holds it until it expires. One of --type mtls_pop is bound to the
certificate that the reply names, and of use only on a TLS connection that shows it.

A resource that wants more (401 with error="insufficient_claims") sends claims, base64
encoded, in WWW-Authenticate. Decoded, they are what --claims takes. Tokens of
--capabilities cp1 live longer, and can be revoked by such a challenge.`,
		Example: `  keyagent token --identity vm --resource https://vault.azure.net
  curl -H "$(keyagent token --identity vm --resource https://vault.azure.net --output header)" \
       https://myvault.vault.azure.net/secrets/greeting?api-version=7.4
  keyagent token --identity app --scope https://graph.microsoft.com/.default --type mtls_pop --output header
  keyagent token --resource https://graph.microsoft.com --capabilities cp1 --claims "$(base64 -d <<<"$CLAIMS")"
  keyagent token --resource https://vault.azure.net --force-refresh`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			write, ok := tokenWriters[output]
			if !ok {
				return usageError{fmt.Errorf("--output %q is not json, raw or header", output)}
			}
			if (req.Resource == "") == (req.Scope == "") {
				return usageError{fmt.Errorf("exactly one of --resource and --scope is needed")}
			}
			agent := client.New(client.Config{Socket: a.agentSocket(cmd)})
			defer agent.Close()
			token, err := awaited(cmd.Context(), a, "waiting for the agent to get the token", func() (client.Token, error) { return agent.Token(cmd.Context(), req) })
			if err != nil {
				return err
			}
			return write(a, token)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&req.Identity, "identity", "", "name of the identity in the agent's configuration (may be left out if only one is allowed)")
	flags.StringVar(&req.Resource, "resource", "", "resource URI, as in https://vault.azure.net")
	flags.StringVar(&req.Scope, "scope", "", "scope, as in https://vault.azure.net/.default")
	flags.StringVar(&req.Type, "type", wire.TypeBearer, "token type: bearer or mtls_pop")
	flags.StringVar(&req.Claims, "claims", "", "a resource's claims challenge, decoded: a JSON object")
	flags.StringSliceVar(&req.Capabilities, "capabilities", nil, "what the program that uses the token can do: cp1 (it handles claims challenges)")
	flags.BoolVar(&req.ForceRefresh, "force-refresh", false, "get a new token past the agent's cache (takes a rule with fresh: true)")
	flags.BoolVar(&req.ForceRefresh, "fresh", false, "the same as --force-refresh")
	flags.StringVar(&output, "output", "json", "json, raw (the token alone) or header (an Authorization header)")
	return cmd
}

// tokenWriters print a token in the forms of --output.
var tokenWriters = map[string]func(*app, client.Token) error{
	"json": func(a *app, t client.Token) error {
		return a.printJSON(t)
	},
	"raw": func(a *app, t client.Token) error {
		_, err := fmt.Fprintln(a.out, t.AccessToken.Reveal())
		return err
	},
	"header": func(a *app, t client.Token) error {
		_, err := fmt.Fprintf(a.out, "Authorization: %s %s\n", t.TokenType, t.AccessToken.Reveal())
		return err
	},
}
