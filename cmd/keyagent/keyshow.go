package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/keyagent/keyagent/internal/keyring"
)

func (a *app) keyShowCommand(place *placeFlags) *cobra.Command {
	var auth keyring.AuthSource
	var foreign foreignFlags
	var asJSON, public bool
	cmd := &cobra.Command{
		Use:   "show [NAME]",
		Short: "Show keys, as the TPM reports them",
		Long: `Show all keys, or one, with each generation: what the TPM reports of it, whether it
signs, which versions of TLS it can be used in, and its certificate.

--file shows any key file (TSS2 PRIVATE KEY) by loading it. With --parent it is loaded
under that persistent key, and with --no-auth it is tried without an authorization value
also where the TPM would count that as a failed try.`,
		Example: `  keyagent key show
  keyagent key show app --public
  keyagent key show --file key.pem --json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := ""
			if len(args) > 0 {
				name = args[0]
			}
			if name != "" && foreign.path != "" {
				return usageError{errors.New("NAME and --file exclude each other")}
			}
			from, err := foreign.file("--file", auth)
			if err == nil {
				err = checkAuth(auth, false)
			}
			if err != nil {
				return err
			}
			return a.withKeys(cmd, place, func(keys *keyring.Keyring) error {
				if from.Path != "" {
					report, err := awaited(cmd.Context(), a, "looking at the key", func() (keyring.KeyReport, error) { return keys.Inspect(cmd.Context(), from, auth) })
					if err != nil {
						return err
					}
					return a.printKeys([]keyring.KeyReport{report}, asJSON, public)
				}
				reports, err := awaited(cmd.Context(), a, "looking at the keys", func() ([]keyring.KeyReport, error) { return keys.Show(cmd.Context(), name, auth) })
				if err != nil {
					return err
				}
				if len(reports) == 0 && !asJSON {
					return a.printNoKeys(keys)
				}
				return a.printKeys(reports, asJSON, public)
			})
		},
	}
	cmd.Flags().StringVar(&foreign.path, "file", "", "show the key of this file (- is standard input)")
	foreign.add(cmd)
	cmd.Flags().BoolVar(&public, "public", false, "print the public keys, too")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	addAuthFlags(cmd, &auth)
	return cmd
}
