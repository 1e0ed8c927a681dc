package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keyagent/keyagent/internal/keyring"
	"github.com/keyagent/keyagent/internal/shell"
)

func (a *app) keySelfSignCommand(place *placeFlags) *cobra.Command {
	var req keyring.SelfSignOptions
	var out string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "self-sign NAME",
		Short: "Make a certificate for an app registration",
		Long: `Make a certificate that the key signs itself, put it beside the key, and say what to
upload to the app registration in Entra.

For an app that sends signed assertions (bound: never), and for servers of your own.
Over mutual TLS (bound: require, the default), Entra takes no certificate that was merely
uploaded, by all that is known: it has to come from an authority that the app registration
trusts by subject name and issuer. For that, see keyagent key csr --help.

Entra takes RSA keys only. A certificate that works and is in use is replaced only with
--replace, because the app registration does not know the new one yet. What is replaced
is said and kept: keyagent cert import NAME --restore puts it back.`,
		Example: `  keyagent key self-sign app --subject CN=app --out app.cer
  keyagent key self-sign app --next --subject CN=app --days 180`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case req.Subject == "":
				return usagef("--subject is needed, as in --subject CN=app")
			case cmd.Flags().Changed("days") && req.Days <= 0:
				return usagef("--days %d would be a certificate that has expired", req.Days)
			}
			if err := checkAuth(req.Auth, false); err != nil {
				return err
			}
			if req.NoImport && out == "" {
				return usageError{fmt.Errorf("--no-import without --out would make a certificate and put it nowhere")}
			}
			if asJSON && out == standardOutput {
				return usageError{errors.New("--json and --out - exclude each other: the JSON has the certificate, too")}
			}
			return a.withKeys(cmd, place, func(keys *keyring.Keyring) error {
				report, err := awaited(cmd.Context(), a, "having the key sign its certificate", func() (keyring.CertificateReport, error) {
					return keys.SelfSign(cmd.Context(), args[0], req)
				})
				if err != nil {
					return err
				}
				return a.handOut(args[0], report, out, asJSON, req)
			})
		},
	}
	addNameFlags(cmd, &req.NameRequest)
	flags := cmd.Flags()
	flags.IntVar(&req.Days, "days", 0, "days until it expires (default: one year)")
	flags.BoolVar(&req.LongLived, "long-lived", false, "allow more than two years")
	flags.BoolVar(&req.Next, "next", false, "for the generation that a rotation has begun")
	flags.StringVar(&out, "out", "", "file to write, too; - is standard output")
	flags.BoolVar(&req.NoImport, "no-import", false, "write --out only, and leave the key's certificate as it is")
	flags.BoolVar(&req.Replace, "replace", false, "replace a certificate that works and is in use")
	flags.BoolVar(&asJSON, "json", false, "print JSON")
	addAuthFlags(cmd, &req.Auth)
	return cmd
}

// standardOutput is the name of a file that means standard output.
const standardOutput = "-"

// handOut writes a new certificate where it was asked for, and says what to do with it. The key may
// have it already.
func (a *app) handOut(name string, report keyring.CertificateReport, out string, asJSON bool, req keyring.SelfSignOptions) error {
	switch out {
	case "":
	case standardOutput: // for the certificate alone
		if _, err := io.WriteString(a.out, report.PEM); err != nil {
			return err
		}
		talk := *a
		talk.out = a.err
		a, out = &talk, "FILE"
		report.File = cmp.Or(report.File, out)
	default:
		if err := keyring.WriteCertificate(out, report); err != nil {
			return err
		}
		report.File = out
	}
	if err := a.printUpload(report, asJSON); err != nil || asJSON {
		return err
	}
	return a.printSteps(name, out, report, req)
}

// printSteps prints the steps that remain, for a certificate for Entra those after its upload.
func (a *app) printSteps(name, file string, report keyring.CertificateReport, req keyring.SelfSignOptions) error {
	var steps []string
	next, replace := "", ""
	if report.NeedsReplace {
		replace = " --replace"
	}
	if req.Next {
		next = " --next"
	}
	if req.NoImport {
		steps = append(steps, "keyagent cert import "+name+next+" --file "+shell.Word(file)+replace)
	}
	if req.Next {
		steps = append(steps, "keyagent key rotate "+name+" --finish")
	}
	if len(steps) == 0 {
		return nil
	}
	when := "After that"
	if !report.ForEntra {
		when = "Once the servers it is for know it"
	}
	_, err := fmt.Fprintf(a.out, "%s:\n  %s\n", when, strings.Join(steps, "\n  "))
	return err
}
