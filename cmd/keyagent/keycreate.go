package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/keyagent/keyagent/internal/keyring"
	"github.com/keyagent/keyagent/internal/statedir"
)

func (a *app) keyCreateCommand(place *placeFlags) *cobra.Command {
	var flags keyFlags
	var foreign foreignFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:        "create NAME",
		SuggestFor: []string{"new", "make", "generate", "add"},
		Short:      "Make a key in the TPM",
		Long: `Make a key in the TPM that signs and cannot leave it. Its file in the state directory
is of no use on another machine.

The name "binding" is the agent's own key, which its first start makes: here, too, it
is made as the configuration says.

--from-key-file adopts a key that another program made in this TPM: a TSS2 PRIVATE KEY
file of tpm2-tools or of OpenSSL's tpm2 provider. The file is copied. What is worse
than in a key made here is reported; a key that could leave the TPM is refused. Where
the file names another parent than the key has, as tpm2_encodeobject does for parents
that are not persistent, --parent says which persistent key is its parent.`,
		Example: `  keyagent key create app
  keyagent key create app --algorithm ecdsa-p256 --pcrs 0,2,7
  keyagent key create app --from-key-file key.pem`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			from, err := foreign.file("--from-key-file", flags.auth)
			if err != nil {
				return err
			}
			req, err := flags.request()
			if err != nil {
				return err
			}
			switch {
			case from.Path != "" && flags.algorithm+flags.pcrs+flags.pcrBank != "":
				return usagef("algorithm and PCRs are decided when a key is made; --from-key-file takes one that was")
			case flags.pcrBank != "" && flags.pcrs == "":
				return usagef("--pcr-bank is of no use without --pcrs")
			}
			return a.withFirstKey(cmd, place, func(keys *keyring.Keyring) error {
				var report keyring.KeyReport
				err := a.during(cmd.Context(), "making the key in the TPM (RSA can take a minute)", func() (err error) {
					if from.Path != "" {
						report, err = keys.Adopt(cmd.Context(), args[0], from, req)
					} else {
						report, err = keys.Create(cmd.Context(), args[0], req)
					}
					return err
				})
				if err != nil {
					return err
				}
				return a.printKey(report, asJSON, afterCreate(report.Name))
			})
		},
	}
	flags.add(cmd, "rsa-2048")
	cmd.Flags().StringVar(&foreign.path, "from-key-file", "", "adopt the key of this file (- is standard input)")
	foreign.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// afterCreate says what to do with a key that was made.
func afterCreate(name string) string {
	if name == statedir.BindingKeyName {
		return "the agent uses it from its next start on, and obtains the certificates for it from the platform"
	}
	return fmt.Sprintf("next: keyagent key csr %[1]s --subject CN=%[1]s for an authority, or, where signed assertions are enough, keyagent key self-sign %[1]s --subject CN=%[1]s", name)
}
