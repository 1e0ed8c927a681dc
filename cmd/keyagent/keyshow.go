package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/keyagent/keyagent/internal/daemon"
)

func (a *app) keyShowCommand(place *placeFlags) *cobra.Command {
	var auth daemon.AuthSource
	var file string
	var asJSON, public bool
	cmd := &cobra.Command{
		Use:   "show [NAME]",
		Short: "Show keys, as the TPM reports them",
		Long: `Show all keys, or one, with each generation: what the TPM reports of it, whether it
signs, which versions of TLS it can be used in, and its certificate.

--file shows any key file (TSS2 PRIVATE KEY) by loading it.`,
		Example: `  keyagent key show
  keyagent key show app --public
  keyagent key show --file key.pem --json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := ""
			if len(args) > 0 {
				name = args[0]
			}
			if name != "" && file != "" {
				return usageError{errors.New("NAME and --file exclude each other")}
			}
			return a.withKeys(cmd, place, func(keys *daemon.Keyring) error {
				if file != "" {
					report, err := keys.Inspect(cmd.Context(), file, auth)
					if err != nil {
						return err
					}
					return a.printKeys([]daemon.KeyReport{report}, asJSON, public)
				}
				reports, err := keys.Show(cmd.Context(), name, auth)
				if err != nil {
					return err
				}
				if len(reports) == 0 && !asJSON {
					_, err := fmt.Fprintf(a.out, "there are no keys in %s; keyagent key create NAME makes one\n", printable(keys.Dir()))
					return err
				}
				return a.printKeys(reports, asJSON, public)
			})
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "show the key of this file")
	cmd.Flags().BoolVar(&public, "public", false, "print the public keys, too")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	addAuthFlags(cmd, &auth)
	return cmd
}
