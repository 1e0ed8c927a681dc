package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/keyagent/keyagent/internal/keyring"
)

func (a *app) certCommand() *cobra.Command {
	var place placeFlags
	cmd := &cobra.Command{
		Use:   "cert",
		Short: "Keep the certificates of keys",
		Long: `Keep the certificates of keys. Like keyagent key, these commands use the TPM and the
state directory of the configuration, or of --tpm and --state-dir.`,
		Example: "  keyagent cert import app --file chain.pem\n  keyagent cert show app",
		Args:    subcommands,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	place.add(cmd)
	existing := []*cobra.Command{a.certShowCommand(&place), a.certImportCommand(&place)}
	a.completeKeys(&place, existing...)
	cmd.AddCommand(existing...)
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
			return a.withKeys(cmd, place, func(keys *keyring.Keyring) error {
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
	var req keyring.ImportOptions
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "import NAME --file FILE",
		Short: "Put a certificate beside its key",
		Long: `Put a certificate and its issuers, PEM or DER, the certificate first, beside the key
that it is over. It is checked before: the public key, the validity, that it may be a
TLS client's, and that each certificate is signed by the next. What is wrong is said
field by field, and nothing changes then.

A certificate that works and is in use is replaced only with --replace, as by
keyagent key self-sign: Entra may not know the new one yet. What is replaced, and whether
the agent has obtained a token from Entra with it, is said. The last sixteen that were
replaced are kept; --restore puts back the last one, and done again, takes that back.`,
		Example: `  keyagent cert import app --file chain.pem
  keyagent cert import app --next --file chain.pem
  keyagent cert import app --file renewed.pem --replace
  keyagent cert import app --restore
  curl -s https://ca.example/app.pem | keyagent cert import app --file -`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (req.File == "") == !req.Restore {
				return usagef("--file or --restore is needed, and not both")
			}
			return a.withKeys(cmd, place, func(keys *keyring.Keyring) error {
				report, err := awaited(cmd.Context(), a, "putting the certificate beside its key", func() (keyring.CertificateReport, error) {
					return keys.Import(cmd.Context(), args[0], req)
				})
				if err != nil {
					return err
				}
				return a.printCertificate(report, asJSON)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&req.File, "file", "", "file with the certificate and its issuers (- is standard input)")
	flags.BoolVar(&req.Restore, "restore", false, "put back the certificate that was replaced last, in place of --file")
	flags.BoolVar(&req.Next, "next", false, "for the generation that a rotation has begun")
	flags.BoolVar(&req.Replace, "replace", false, "replace a certificate that works and is in use")
	flags.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
