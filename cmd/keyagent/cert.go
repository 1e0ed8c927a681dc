package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/keyagent/keyagent/internal/daemon"
)

func (a *app) certCommand() *cobra.Command {
	var place placeFlags
	cmd := &cobra.Command{
		Use:   "cert",
		Short: "Keep the certificates of keys",
		Long: `Keep the certificates of keys. Like keyagent key, these commands use the TPM and the
state directory of the configuration, or of --tpm and --state-dir.`,
		Example: "  keyagent cert import app --file chain.pem\n  keyagent cert show app",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	place.add(cmd)
	cmd.AddCommand(a.certShowCommand(&place), a.certImportCommand(&place))
	return cmd
}

func (a *app) certShowCommand(place *placeFlags) *cobra.Command {
	var next, asJSON, asPEM bool
	cmd := &cobra.Command{
		Use:     "show NAME",
		Short:   "Show a key's certificate",
		Example: "  keyagent cert show app\n  keyagent cert show app --pem > app.pem",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if asJSON && asPEM {
				return usageError{errors.New("--json and --pem exclude each other")}
			}
			return a.withKeys(cmd, place, func(keys *daemon.Keyring) error {
				report, err := keys.Certificate(args[0], next)
				if err != nil {
					return err
				}
				if asPEM {
					_, err := a.out.Write([]byte(report.PEM))
					return err
				}
				return a.printCertificate(report, asJSON)
			})
		},
	}
	cmd.Flags().BoolVar(&next, "next", false, "of the generation that a rotation has begun")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&asPEM, "pem", false, "print the chain as PEM")
	return cmd
}

func (a *app) certImportCommand(place *placeFlags) *cobra.Command {
	var next, asJSON bool
	var file string
	cmd := &cobra.Command{
		Use:   "import NAME --file FILE",
		Short: "Put a certificate beside its key",
		Long: `Put a certificate and its issuers, PEM or DER, the certificate first, beside the key
that it is over. It is checked before: the public key, the validity, that it may be a
TLS client's, and that each certificate is signed by the next. What is wrong is said
field by field, and nothing changes then. An older certificate is replaced in one step.`,
		Example: "  keyagent cert import app --file chain.pem\n  keyagent cert import app --next --file chain.pem",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if file == "" {
				return usageError{errors.New("--file is needed")}
			}
			return a.withKeys(cmd, place, func(keys *daemon.Keyring) error {
				report, err := keys.Import(cmd.Context(), args[0], file, next)
				if err != nil {
					return err
				}
				return a.printCertificate(report, asJSON)
			})
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "file with the certificate and its issuers")
	cmd.Flags().BoolVar(&next, "next", false, "for the generation that a rotation has begun")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
