package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/keyagent/keyagent/config"
)

// maxSettingsBytes is more than what config takes, so that it can say that it is too
// much.
const maxSettingsBytes = 2 << 20

func (a *app) configImportCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "import [--name NAME] FILE",
		Short: "Make an identity of an app's appsettings.json",
		Long: `Make an identity of the settings that an app has for Microsoft.Identity.Web: the section
AzureAd of its appsettings.json, or that section alone. "-" is standard input.

The identity goes to standard output, to be put into the agent's configuration, with a
rule for the app's user. What cannot be taken over, and what is to be done besides, is
said there in comments, and on standard error. Client secrets and passwords are not
read: keyagent has no use for them. A certificate's private key stays behind, too: make
a new one in the TPM (keyagent key create) and register its certificate.

Exit code 2 means that nothing in the file can be used.`,
		Example: "  keyagent config import --name shop /srv/shop/appsettings.json >identity.yaml",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			settings, err := a.readSettings(args[0])
			if err != nil {
				return usageError{err}
			}
			imported, err := config.ImportAppSettings(settings)
			if err != nil {
				return usageError{fmt.Errorf("%s: %w", args[0], err)}
			}
			return a.printImported(imported, name)
		},
	}
	cmd.Flags().StringVar(&name, "name", "app", "name of the identity")
	return cmd
}

func (a *app) printImported(imported *config.Imported, name string) error {
	imported.Identity.Name = name
	text, err := imported.YAML()
	if err != nil {
		return usageError{fmt.Errorf("--name %q is not made of lower-case letters, digits and inner hyphens (at most 63)", name)}
	}
	for _, notice := range imported.Notices {
		fmt.Fprintf(a.err, "keyagent: notice: %s\n", printable(notice))
	}
	_, err = a.out.Write(text)
	return err
}

func (a *app) readSettings(path string) ([]byte, error) {
	if path == "-" {
		return io.ReadAll(io.LimitReader(a.in, maxSettingsBytes))
	}
	f, err := os.Open(path) // #nosec G304 -- the operator's choice
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxSettingsBytes))
}
