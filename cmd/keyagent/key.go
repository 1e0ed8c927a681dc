package main

import (
	"cmp"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/keyring"
	"github.com/keyagent/keyagent/internal/statedir"
)

func (a *app) keyCommand() *cobra.Command {
	var place placeFlags
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Make and keep keys in the TPM",
		Long: `Make and keep keys in the TPM, with their certificates.

These commands use the TPM and the state directory of the configuration, beside a
running agent or without one. They do not need the configuration file: where it is not
at its usual place and not named, --tpm and --state-dir say what it would, or the
defaults hold. Run them as the user that the agent runs as.`,
		Example: `  keyagent key create app
  keyagent key self-sign app --subject CN=app
  keyagent key show`,
		Args: subcommands,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	place.add(cmd)
	existing := []*cobra.Command{
		a.keyShowCommand(&place), a.keyCSRCommand(&place), a.keySelfSignCommand(&place), a.keyRotateCommand(&place), a.keyDeleteCommand(&place),
	}
	a.completeKeys(&place, existing...)
	cmd.AddCommand(a.keyCreateCommand(&place), a.keyListCommand(&place))
	cmd.AddCommand(existing...)
	return cmd
}

// placeFlags say where keys are, in place of the configuration.
type placeFlags struct{ tpm, stateDir string }

func (f *placeFlags) add(cmd *cobra.Command) {
	flags := cmd.PersistentFlags()
	flags.StringVar(&f.tpm, "tpm", "", "the TPM, in place of the configuration's: device:/dev/tpmrm0, unix:/path or tcp:host:port")
	flags.StringVar(&f.stateDir, "state-dir", "", "the state directory, in place of the configuration's")
}

// config reads the configuration. A file that the operator did not name may be missing.
func (f *placeFlags) config(a *app, cmd *cobra.Command) (*config.Config, error) {
	cfg, err := config.Load(a.configPath)
	if errors.Is(err, fs.ErrNotExist) && !configNamed(cmd) {
		cfg, err = config.Default(), nil
	}
	if err != nil {
		return nil, configError{err}
	}
	return cfg, f.override(cfg)
}

// configNamed reports whether the operator named the configuration.
func configNamed(cmd *cobra.Command) bool {
	return cmd.Flags().Changed("config") || os.Getenv("KEYAGENT_CONFIG") != ""
}

// override lets the flags win.
func (f *placeFlags) override(cfg *config.Config) error {
	cfg.TPM = cmp.Or(f.tpm, cfg.TPM)
	if f.stateDir == "" {
		return nil
	}
	var err error
	cfg.StateDir, err = filepath.Abs(f.stateDir)
	return err
}

// withKeys opens the keys that there are for do.
func (a *app) withKeys(cmd *cobra.Command, place *placeFlags, do func(*keyring.Keyring) error) error {
	return a.withKeysOr(cmd, place, statedir.Options{LookOnly: true}, do)
}

// withFirstKey is withKeys where there may be none yet.
func (a *app) withFirstKey(cmd *cobra.Command, place *placeFlags, do func(*keyring.Keyring) error) error {
	return a.withKeysOr(cmd, place, statedir.Options{}, do)
}

func (a *app) withKeysOr(cmd *cobra.Command, place *placeFlags, opts statedir.Options, do func(*keyring.Keyring) error) error {
	cfg, err := place.config(a, cmd)
	if err != nil {
		return err
	}
	opts.Logger, opts.Waits, opts.Words = a.warnings(), a.waits, words{}
	keys, err := keyring.Open(cfg, opts)
	if err != nil {
		return err
	}
	defer keys.Close()
	return do(keys)
}

// warnings is a logger for messages that are not part of the command's result.
func (a *app) warnings() *slog.Logger {
	options := &slog.HandlerOptions{
		Level: slog.LevelWarn,
		ReplaceAttr: func(_ []string, attr slog.Attr) slog.Attr {
			if attr.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return attr
		},
	}
	if a.json {
		return slog.New(slog.NewJSONHandler(a.err, options))
	}
	return slog.New(slog.NewTextHandler(a.err, options))
}

func addNameFlags(cmd *cobra.Command, names *keyring.NameRequest) {
	cmd.Flags().StringVar(&names.Subject, "subject", "", "distinguished name, as in CN=app,O=Contoso or /O=Contoso/CN=app")
	cmd.Flags().StringArrayVar(&names.AltNames, "san", nil, "subject alternative name, as in DNS:app.example, URI:api://app, IP:10.0.0.1 or email:a@b.example; may be repeated")
}
