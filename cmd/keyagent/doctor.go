package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/daemon"
)

func (a *app) doctorCommand() *cobra.Command {
	var place placeFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check what the agent and its keys need on this machine",
		Long: `Check what the agent and its keys need on this machine: configuration, state directory,
TPM, storage root, and each key with its certificate. Of the TPM it says whether it is
in lockout or near to it, has an owner password, lacks a bank of PCRs that is needed, or
has a storage root that nothing here uses. At the end it says which forms of credentials
this machine and tenant reach, as the running agent has found, or as far as that follows
from the machine alone. Nothing is changed, and the network is not used. Run it as the
user that the agent runs as.

Each check ends with ok, warn or fail, and says what to do. Exit code 0 means that
nothing failed.`,
		Example: "  keyagent doctor\n  keyagent doctor --json | jq '.findings[] | select(.verdict != \"ok\")'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, configErr := a.loadConfig(cmd.Context())
			if cfg == nil {
				cfg = config.Default()
			}
			if err := place.override(cfg); err != nil {
				return err
			}
			diagnosis := daemon.Diagnose(cmd.Context(), cfg, daemon.DiagnoseOptions{
				Options: daemon.Options{Version: version, Logger: a.warnings()}, ConfigPath: a.configPath, ConfigError: configErr, ConfigNamed: configNamed(cmd),
				Forms: formsOf(cmd.Context(), cmp.Or(a.socket, cfg.Socket)),
			})
			if err := a.printDiagnosis(diagnosis, asJSON); err != nil {
				return err
			}
			if !diagnosis.OK {
				return errors.New("something does not work; see what failed above")
			}
			return nil
		},
	}
	place.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// formsOf asks the running agent which forms of credentials are within reach; nil if it does not
// answer.
func formsOf(ctx context.Context, socket string) []wire.Form {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second) // it asks IMDS in its turn
	defer cancel()
	agent := client.New(client.Config{Socket: socket})
	defer agent.Close()
	known, err := agent.Capabilities(ctx)
	if err != nil {
		return nil
	}
	return known.Forms
}

func (a *app) printDiagnosis(d daemon.Diagnosis, asJSON bool) error {
	if asJSON {
		return a.printJSON(d)
	}
	for _, f := range d.Findings {
		lines := strings.Split(f.Detail, "\n")
		for i := range lines {
			lines[i] = printable(lines[i])
		}
		fmt.Fprintf(a.out, "%-4s  %s: %s\n", f.Verdict, f.Check, strings.Join(lines, "\n      "))
		if f.Action != "" {
			fmt.Fprintf(a.out, "      -> %s\n", printableLines(f.Action))
		}
	}
	return nil
}
