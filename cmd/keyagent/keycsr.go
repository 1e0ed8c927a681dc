package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/keyagent/keyagent/internal/keyring"
	"github.com/keyagent/keyagent/internal/shell"
)

func (a *app) keyCSRCommand(place *placeFlags) *cobra.Command {
	var req keyring.RequestOptions
	var out string
	cmd := &cobra.Command{
		Use:   "csr NAME",
		Short: "Make a certificate request",
		Long: `Make a certificate request (PKCS #10, PEM) for a key, signed by it. It asks for the key
usage digitalSignature and the extended key usage clientAuth. An authority issues the
certificate for it, which keyagent cert import puts beside the key.`,
		Example: `  keyagent key csr app --subject CN=app,O=Contoso --out app.csr
  keyagent key csr app --next --subject CN=app --san DNS:app.example --san URI:api://app`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if req.Subject == "" && len(req.AltNames) == 0 {
				return usagef("--subject or --san is needed, as in --subject CN=app")
			}
			if err := checkAuth(req.Auth, false); err != nil {
				return err
			}
			return a.withKeys(cmd, place, func(keys *keyring.Keyring) error {
				text, err := awaited(cmd.Context(), a, "having the key sign the request", func() ([]byte, error) { return keys.Request(cmd.Context(), args[0], req) })
				if err != nil {
					return err
				}
				if out == "" || out == standardOutput {
					_, err = a.out.Write(text)
					return err
				}
				if err := keyring.WriteFile(out, text); err != nil {
					return err
				}
				a.printAfterRequest(args[0], out, req.Next)
				return nil
			})
		},
	}
	addNameFlags(cmd, &req.NameRequest)
	cmd.Flags().BoolVar(&req.Next, "next", false, "for the generation that a rotation has begun")
	cmd.Flags().BoolVar(&req.PSS, "pss", false, "sign with RSASSA-PSS in place of PKCS #1 v1.5; some issuers cannot verify it")
	cmd.Flags().StringVar(&out, "out", "", "file to write, in place of standard output (-)")
	addAuthFlags(cmd, &req.Auth)
	return cmd
}

// printAfterRequest says what becomes of a request. It does not go to standard output, which the
// file may be.
func (a *app) printAfterRequest(name, file string, next bool) {
	generation, finish := "", ""
	if next {
		generation, finish = " --next", ", and keyagent key rotate "+name+" --finish"
	}
	fmt.Fprintf(a.err, "keyagent: next: give %s to an authority, and run with the certificate that it issues: keyagent cert import %s%s --file FILE%s\n",
		printable(shell.Word(file)), name, generation, finish)
}
