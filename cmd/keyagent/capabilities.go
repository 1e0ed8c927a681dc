package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/client"
)

func (a *app) capabilitiesCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "capabilities",
		Short: "Show how well tokens can be bound to this VM",
		Long: `Show how well tokens can be bound to this VM, in which way, and why not better. The
agent says what it has obtained since its start, and asks the VM's metadata service for
the rest. What cannot be found out is "unknown" (in JSON: null). The lines "form" are the
rows of the table What works today in docs/credentials.md: yes, no, or not known yet, since
Entra is not asked for this.

Whoever is named by a rule of the agent's configuration may ask, and root, the agent's own
user and the admins of its configuration.`,
		Example: "  keyagent capabilities\n  keyagent capabilities --json | jq -r .strongest_binding",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			agent := client.New(client.Config{Socket: a.agentSocket(cmd)})
			defer agent.Close()
			capabilities, err := awaited(cmd.Context(), a, "asking the agent", func() (wire.Capabilities, error) { return agent.Capabilities(cmd.Context()) })
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(capabilities)
			}
			return printCapabilities(a.out, capabilities)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printCapabilities(out io.Writer, c wire.Capabilities) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name string, parts ...string) {
		var said []string
		for _, part := range parts {
			if part != "" {
				said = append(said, printable(part))
			}
		}
		fmt.Fprintf(w, "%s\t%s\n", name, strings.Join(said, ", "))
	}
	row("strongest binding", c.StrongestBinding, c.Reason)
	for _, way := range []struct {
		name string
		wire.Capability
	}{
		{"managed identity, v2", c.ManagedIdentityV2},
		{"managed identity, v1", c.ManagedIdentityV1},
		{"certificate", c.Certificate},
	} {
		row(way.name, available(way.Available), strength(way.Strength, way.Reason))
	}
	for _, f := range c.Forms {
		row("form "+f.Name, f.Reached(), strength(f.Strength, f.Reason))
	}
	row("attestation", c.Attestation.Provider)
	if e := c.Evidence; e != nil {
		row("evidence", available(e.Available), e.Reason)
	}
	row("token types", c.TokenTypes...)
	if callers := c.CallerIdentity; callers != nil {
		row("callers' processes", "known by "+callers.Process, callers.Reason)
		row("callers' units", known(callers.Units))
		row("callers over loopback", known(callers.Loopback))
	}
	return w.Flush()
}

// known says whether something of callers is known, and why not.
func known(p wire.CallerProof) string {
	if p.Available {
		return "known"
	}
	return "unknown: " + p.Reason
}

// strength says how strong the tokens of a capability are, and why.
func strength(known, reason string) string {
	switch {
	case known == "":
		return reason
	case reason == "":
		return "strength " + known
	}
	return "strength " + known + ": " + reason
}

func available(known *bool) string {
	switch {
	case known == nil:
		return "unknown"
	case *known:
		return "yes"
	}
	return "no"
}
