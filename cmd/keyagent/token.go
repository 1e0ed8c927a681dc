package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/keyagent/keyagent/client"
)

func (a *app) tokenCommand() *cobra.Command {
	var req client.TokenRequest
	var output string
	cmd := &cobra.Command{
		Use:   "token --identity NAME (--resource URI | --scope SCOPE)",
		Short: "Get an access token from the agent",
		Long: `Get an access token from the agent, if its rules allow this user to have it.

The token goes to standard output and nowhere else. It is a Bearer token: whoever
holds it can use it until it expires.`,
		Example: `  keyagent token --identity vm --resource https://vault.azure.net
  curl -H "$(keyagent token --identity vm --resource https://vault.azure.net --output header)" \
       https://myvault.vault.azure.net/secrets/greeting?api-version=7.4`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			write, ok := tokenWriters[output]
			if !ok {
				return usageError{fmt.Errorf("--output %q is not json, raw or header", output)}
			}
			if (req.Resource == "") == (req.Scope == "") {
				return usageError{fmt.Errorf("exactly one of --resource and --scope is needed")}
			}
			agent := client.New(client.Config{Socket: a.socket})
			defer agent.Close()
			token, err := agent.Token(cmd.Context(), req)
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
	flags.StringVar(&req.Type, "type", "bearer", "token type: bearer")
	flags.StringVar(&output, "output", "json", "json, raw (the token alone) or header (an Authorization header)")
	return cmd
}

// tokenWriters print a token in the forms of --output.
var tokenWriters = map[string]func(*app, client.Token) error{
	"json": func(a *app, t client.Token) error {
		enc := json.NewEncoder(a.out)
		enc.SetIndent("", "  ")
		return enc.Encode(t)
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
