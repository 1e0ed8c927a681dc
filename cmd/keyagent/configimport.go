package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

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
said there in comments and, unless standard output is a terminal, on standard error.
Client secrets and passwords are not read: keyagent has no use for them. A certificate's
private key stays behind, too: make a new one in the TPM (keyagent key create) and
register its certificate.

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
				return usageError{errors.New(args[0] + ": " + strings.ReplaceAll(err.Error(), "\n", "\n"+args[0]+": "))}
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
	a.printNotices(imported.Notices)
	_, err = a.out.Write(text)
	return err
}

// printNotices does not repeat on a terminal what the comments say there.
func (a *app) printNotices(notices []string) {
	if len(notices) > 0 && isTerminal(a.out) {
		fmt.Fprintf(a.err, "keyagent: notices: %d, see the comments\n", len(notices))
		return
	}
	for _, notice := range notices {
		fmt.Fprintf(a.err, "keyagent: notice: %s\n", printable(notice))
	}
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
