package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyagent/keyagent/internal/keyring"
	"github.com/keyagent/keyagent/internal/statedir"
)

func (a *app) keyListCommand(place *placeFlags) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List keys, a line each",
		Long: `List all keys, a line for each generation: whether it is in use, its algorithm, and
until when its certificate is valid. keyagent key show says more of each, and --json
prints the same as there. Where the TPM does not answer, it lists what the files say,
and that the keys were not tested.`,
		Example: "  keyagent key list\n  keyagent key list --json | jq -r '.[].name'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withKeys(cmd, place, func(keys *keyring.Keyring) error {
				var untested error
				reports, err := awaited(cmd.Context(), a, "looking at the keys", func() (reports []keyring.KeyReport, err error) {
					reports, untested, err = keys.List(cmd.Context())
					return reports, err
				})
				if err != nil {
					return err
				}
				if untested != nil {
					a.warnOf(fmt.Errorf("the keys were not tested: %w", untested))
				}
				if len(reports) == 0 && !asJSON {
					return a.printNoKeys(keys)
				}
				if asJSON {
					return a.printKeys(reports, true, false)
				}
				return a.printKeyList(reports, untested == nil)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (a *app) printKeyList(reports []keyring.KeyReport, tested bool) error {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tGENERATION\tSTATE\tALGORITHM\tCERTIFICATE")
	for _, r := range reports {
		if !tested && r.Problem == "" {
			r.State += ", not tested"
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\n", printable(r.Name), r.Generation, r.State, r.Algorithm, printable(certificateText(r)))
	}
	return w.Flush()
}

// certificateText says in a few words the state of a key's certificate, or the key's fault.
func certificateText(r keyring.KeyReport) string {
	c := r.Certificate
	switch {
	case r.Problem != "":
		return "the key does not work: see keyagent key show " + r.Name
	case c == nil && r.Name == statedir.BindingKeyName:
		return "obtained from the platform; see keyagent status"
	case c == nil:
		return "none"
	case c.Problem != "":
		return "it cannot be used: see keyagent cert show " + r.Name
	case c.ExpiresSoon:
		return "expires soon, at " + c.NotAfter.UTC().Format(time.DateOnly)
	}
	return "until " + c.NotAfter.UTC().Format(time.DateOnly)
}

func (a *app) printNoKeys(keys *keyring.Keyring) error {
	_, err := fmt.Fprintf(a.out, "there are no keys in %s; keyagent key create NAME makes one\n", printable(keys.Dir()))
	return err
}
