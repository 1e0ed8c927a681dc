package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/doctor"
	"github.com/keyagent/keyagent/internal/statedir"
)

func (a *app) doctorCommand() *cobra.Command {
	var place placeFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check what the agent and its keys need on this machine",
		Long: `Check what the agent and its keys need on this machine: configuration, state directory,
room on the disk, the socket's directory, TPM, storage root, and each key with its
certificate. Of the TPM it says whether it is in lockout or near to it, has an owner
password, lacks a bank of PCRs that is needed, or has a storage root that nothing here
uses. A running agent is asked whether it is ready, and compared with the disk: a key
that was rotated since it started is not in force, nor is a configuration that was
changed and not reloaded. While the configuration cannot be used, TPM and state
directory are those of the running agent.
At the end it says which forms of credentials work on this machine and in its tenants,
as the running agent has found, or as far as that follows from the machine alone. Nothing is
changed, and the network is not used.

Run it as the user that the agent runs as. Another one, root included, is told so, and
nothing else is checked: what that user sees is not what the agent sees.

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
			if named := cmp.Or(a.socket, os.Getenv(wire.EnvSocket)); named != "" {
				var err error
				if cfg.Socket, err = filepath.Abs(named); err != nil {
					return err
				}
			}
			diagnosis, err := awaited(cmd.Context(), a, "looking at TPM, keys and services", func() (doctor.Diagnosis, error) {
				forms, err := formsOf(cmd.Context(), cfg.Socket)
				ask := askStatus
				if errors.Is(err, context.DeadlineExceeded) { // it would not answer this either
					ask = func(context.Context, string) (wire.Status, error) { return wire.Status{}, err }
				}
				return doctor.Diagnose(cmd.Context(), cfg, doctor.Options{
					Options: statedir.Options{Logger: a.warnings(), Waits: a.waits, Words: words{}}, Version: version,
					ConfigPath: a.configPath, ConfigError: configErr, ConfigNamed: configNamed(cmd),
					TPMNamed: place.tpm != "", DirNamed: place.stateDir != "",
					AskAgent: ask, Forms: forms,
				}), nil
			})
			if err != nil {
				return err
			}
			if err := cmd.Context().Err(); err != nil {
				return err // findings from then on are effects of the interrupt
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

// formsOf asks the running agent which forms of credentials work; none if it does not answer.
func formsOf(ctx context.Context, socket string) ([]wire.Form, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second) // it asks IMDS in its turn
	defer cancel()
	agent := client.New(client.Config{Socket: socket})
	defer agent.Close()
	known, err := agent.Capabilities(ctx)
	return known.Forms, err
}

func askStatus(ctx context.Context, socket string) (wire.Status, error) {
	agent := client.New(client.Config{Socket: socket})
	defer agent.Close()
	return agent.Status(ctx)
}

func (a *app) printDiagnosis(d doctor.Diagnosis, asJSON bool) error {
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
