package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keyagent/keyagent/internal/keyring"
)

func (a *app) keyDeleteCommand(place *placeFlags) *cobra.Command {
	var yes, force, asJSON bool
	cmd := &cobra.Command{
		Use:        "delete NAME",
		SuggestFor: []string{"remove", "rm"},
		Short:      "Delete a key for good",
		Long: `Delete a key for good, with all generations, their certificates, and their places in
the TPM. There is no copy anywhere: certificates over it are of no use afterwards.

On a terminal it asks; elsewhere --yes is needed. The agent's own key needs --force.`,
		Example: "  keyagent key delete app\n  keyagent key delete app --yes",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withKeys(cmd, place, func(keys *keyring.Keyring) error {
				if err := keys.CheckDelete(args[0], force); err != nil {
					return err
				}
				if err := a.confirm(cmd.Context(), args[0], yes); err != nil {
					return err
				}
				if err := a.during(cmd.Context(), "deleting the key", func() error { return keys.Delete(cmd.Context(), args[0], force) }); err != nil {
					return err
				}
				return a.printDone(asJSON, "deleted", args[0], "key %q is deleted\n")
			})
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&force, "force", false, "delete the agent's own key, too")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// confirm asks for the key's name on a terminal.
func (a *app) confirm(ctx context.Context, name string, yes bool) error {
	if yes {
		return nil
	}
	if !isTerminal(a.in) {
		return usageError{fmt.Errorf("deleting key %q cannot be undone: say --yes, where nobody can be asked", name)}
	}
	fmt.Fprintf(a.err, "Deleting key %q cannot be undone. Type its name to go on: ", name)
	answer, err := readLine(ctx, a.in)
	if err != nil {
		return fmt.Errorf("nothing was deleted: %w", err)
	}
	if answer != name {
		return errors.New("nothing was deleted: that is not its name")
	}
	return nil
}

// readLine reads a line, or until the command is interrupted: a read from a terminal knows no
// context, and its goroutine then ends with the process.
func readLine(ctx context.Context, in io.Reader) (string, error) {
	type answer struct {
		line string
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		line, err := bufio.NewReader(in).ReadString('\n')
		if line != "" {
			err = nil
		}
		answers <- answer{strings.TrimSpace(line), err}
	}()
	select {
	case a := <-answers:
		return a.line, a.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}
