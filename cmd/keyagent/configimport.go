package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/inputfile"
)

// maxSettingsBytes is more than what config takes, so that it can say that it is too
// much.
const maxSettingsBytes = 2 << 20

func (a *app) configImportCommand() *cobra.Command {
	var name, section string
	cmd := &cobra.Command{
		Use:   "import [--section SECTION] [--name NAME] FILE",
		Short: "Make an identity of an app's settings for Microsoft.Identity.Web",
		Long: `Make an identity of the settings that an app has for Microsoft.Identity.Web. "-" is
standard input. FILE is what .NET takes: an appsettings.json; an environment, as lines
NAME=VALUE or as the list or object of variables that the Azure portal and az print; or
the local.settings.json of Azure Functions.

The section is AzureAd, or the one that --section names (AzureAd:Staff is Staff within
AzureAd). Without one, a managed identity that the app uses for itself, without a
registration (AcquireTokenOptions:ManagedIdentity of an API), becomes an identity, too.

The identity goes to standard output, to be put into the agent's configuration, with a
rule for the app's user. What cannot be taken over, and what is to be done besides, is
said there in comments and, unless standard output is a terminal, on standard error.
Client secrets and passwords are not used: keyagent has no use for them. A certificate's
private key stays behind, too: make a new one in the TPM (keyagent key create) and
register its certificate. If another application of the agent's configuration has a key
of the same name, that is said. An assertion in a file whose path the settings do not say is
where AZURE_FEDERATED_TOKEN_FILE of this command's environment is.

Exit code 2 means that nothing was imported, and why.`,
		Example: `  keyagent config import --name shop /srv/shop/appsettings.json >identity.yaml
  keyagent config import --section AzureAd:Staff /srv/shop/appsettings.json
  az webapp config appsettings list -g shop -n shop | keyagent config import -
  systemctl show -P Environment shop | tr ' ' '\n' | keyagent config import -`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault), // files
		RunE: func(_ *cobra.Command, args []string) error {
			settings, err := a.readSettings(args[0])
			if err != nil {
				return usageError{err}
			}
			imported, err := config.ImportAppSettings(settings, config.ImportOptions{
				Section: section, FederatedTokenFile: os.Getenv("AZURE_FEDERATED_TOKEN_FILE"), Name: name,
			})
			if err != nil {
				file := inputfile.Shown(args[0]) + ": "
				return usageError{errors.New(file + strings.ReplaceAll(err.Error(), "\n", "\n"+file))}
			}
			a.noteSharedKeys(imported)
			return a.printImported(imported, name)
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "name of the identity, and of its key if it has one (default: app, or vm for a managed identity)")
	cmd.Flags().StringVar(&section, "section", "", "path of the section with the settings, its names separated by colons (default: AzureAd)")
	return cmd
}

// noteSharedKeys looks for the names of the imported keys in the agent's configuration. Where there
// is none yet, or this user may not read it, nobody can know.
func (a *app) noteSharedKeys(imported *config.Imported) {
	if cfg, err := config.Load(a.configPath); err == nil {
		imported.NoteKeysOf(cfg, a.configPath)
	}
}

func (a *app) printImported(imported *config.Imported, name string) error {
	imported.Identity.Name = cmp.Or(name, imported.Identity.Name)
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
