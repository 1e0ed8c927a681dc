package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/advice"
	"github.com/keyagent/keyagent/internal/imageprep"
	"github.com/keyagent/keyagent/internal/statedir"
)

const imagePrepareName = "image-prepare"

// prepareFlags are those of image-prepare.
type prepareFlags struct{ yes, dryRun, audit, json bool }

func (a *app) imagePrepareCommand() *cobra.Command {
	var f prepareFlags
	var place placeFlags
	cmd := &cobra.Command{
		Use:   imagePrepareName,
		Short: "Remove this machine's keys and secrets, before its disk becomes an image",
		Long: `Remove this machine's keys and secrets, before its disk becomes an image for others:
keys, their certificates, the note of the TPM that they are in, and the key of the
secrets that programs show to the agent. What it removes is shown first. Each machine
that is made from the image makes its own at its first start.

The same command is for a machine that was made from an image which was not prepared:
its agent does not start, because its TPM is not the one of the keys, and says so.

The configuration stays, and so do audit records, unless --audit removes them. Audit
records that were put aside, and credentials in /etc/credstore, are told of and stay.
It refuses while an agent runs. On a terminal it asks; elsewhere --yes is needed.
Keys cannot be brought back: applications need new certificates.`,
		Example: `  systemctl disable --now 'keyagent*.socket' keyagent.service
  sudo -u keyagent keyagent image-prepare
  sudo -u keyagent keyagent image-prepare --yes --audit`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := place.config(a, cmd)
			if err != nil {
				return err
			}
			return a.imagePrepare(cmd.Context(), cfg, f)
		},
	}
	place.add(cmd)
	flags := cmd.Flags()
	flags.BoolVar(&f.yes, "yes", false, "do not ask")
	flags.BoolVar(&f.dryRun, "dry-run", false, "show what would be removed, and remove nothing")
	flags.BoolVar(&f.audit, "audit", false, "remove the file of audit records, too, if they go to one")
	flags.BoolVar(&f.json, "json", false, "print JSON")
	return cmd
}

// prepareReport is what image-prepare prints as JSON.
type prepareReport struct {
	*imageprep.Inventory
	Removed bool     `json:"removed"`
	Left    []string `json:"left_in_tpm,omitempty"`
}

func (a *app) imagePrepare(ctx context.Context, cfg *config.Config, f prepareFlags) error {
	inv, err := imageprep.Look(cfg, statedir.Options{Logger: a.warnings(), Waits: a.waits, Words: words{}}, f.audit)
	if err != nil {
		return err
	}
	report := prepareReport{Inventory: inv}
	a.showInventory(f, inv)
	err = a.removeInventory(ctx, f, &report)
	if f.json {
		return errors.Join(err, a.printJSON(report))
	}
	return err
}

func (a *app) removeInventory(ctx context.Context, f prepareFlags, r *prepareReport) error {
	switch err := r.CheckUnknown(); {
	case err != nil:
		return err
	case r.Empty():
		a.prepareSays(f, "nothing in the state directory is this machine's alone\n")
		return nil
	case f.dryRun:
		a.prepareSays(f, "nothing was removed (--dry-run)\n")
		return nil
	}
	if err := a.confirmRemoval(ctx, f); err != nil {
		return err
	}
	left, err := awaited(ctx, a, "removing keys", func() ([]error, error) { return r.Remove(ctx) })
	for _, problem := range left {
		r.Left = append(r.Left, problem.Error())
		a.warnOf(problem)
	}
	if err != nil {
		return advice.To(err, "nothing is half done that matters: run it again")
	}
	r.Removed = true
	a.prepareSays(f, "removed. Before the image is made, nothing may start the agent: systemctl is-enabled 'keyagent*.socket' keyagent.service\n")
	return nil
}

func (a *app) showInventory(f prepareFlags, inv *imageprep.Inventory) {
	for _, item := range inv.Items {
		a.prepareSays(f, "%s: %s\n", printable(item.Path), item.What)
	}
	for _, item := range inv.Stays {
		a.prepareSays(f, "stays, look at it yourself: %s: %s\n", printable(item.Path), item.What)
	}
	for _, p := range inv.Places {
		a.prepareSays(f, "TPM handle %s: key %s\n", p.Handle, printable(p.Key))
	}
}

// confirmRemoval asks before keys are lost.
func (a *app) confirmRemoval(ctx context.Context, f prepareFlags) error {
	if f.yes {
		return nil
	}
	if !isTerminal(a.in) {
		return usagef("removed keys cannot be brought back: say --yes, where nobody can be asked")
	}
	ask := questions{in: bufio.NewReader(a.in), out: a.err, echoes: true}
	if !isYes(ask.ask(ctx, "Remove this? It cannot be brought back. [y/N]")) {
		return errors.New("nothing was removed")
	}
	return nil
}

func (a *app) prepareSays(f prepareFlags, format string, args ...any) {
	if !f.json {
		fmt.Fprintf(a.out, format, args...)
	}
}
