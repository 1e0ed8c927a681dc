package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

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
has a storage root that nothing here uses. Nothing is changed, and the network is not
used. Run it as the user that the agent runs as.

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
			diagnosis, err := awaited(cmd.Context(), a, "looking at TPM, keys and services", func() (daemon.Diagnosis, error) {
				return daemon.Diagnose(cmd.Context(), cfg, daemon.DiagnoseOptions{
					Options:    daemon.Options{Version: version, Logger: a.warnings(), Waits: a.waits},
					ConfigPath: a.configPath, ConfigError: configErr, ConfigNamed: configNamed(cmd),
				}), nil
			})
			if err != nil {
				return err
			}
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
