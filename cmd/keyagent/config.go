package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/daemon"
)

func (a *app) configCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Work with the configuration file",
		Args:  subcommands,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.configCheckCommand(), a.configShowCommand(), a.configImportCommand())
	return cmd
}

func (a *app) configCheckCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Say whether the configuration can be used",
		Long: `Read the configuration file as the agent would and report what is wrong
with it. Users and groups are looked up and the files it names are read; TPM and
network are not touched. What the rules give that may not be expected is said
in warnings. Exit code 2 means that the agent would not take the file, or would
leave rules out whose users or groups are not known.`,
		Example: "  keyagent config check --config /etc/keyagent/config.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.loadConfig(cmd.Context())
			if err != nil {
				return err
			}
			notices := daemon.Notices(cfg)
			a.warn(notices)
			if asJSON {
				return a.printJSONLine(map[string]any{
					"file": a.configPath, "ok": true, "identities": len(cfg.Identities), "rules": len(cfg.Rules), "warnings": append([]string{}, notices...),
				})
			}
			_, err = fmt.Fprintf(a.out, "%s: ok (identities: %d, rules: %d)\n", a.configPath, len(cfg.Identities), len(cfg.Rules))
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// loadConfig reads the configuration and checks what it refers to. If it refers to something that
// cannot be used, it is returned with the error.
func (a *app) loadConfig(ctx context.Context) (*config.Config, error) {
	cfg, _, err := a.loadConfigFrom(ctx)
	return cfg, err
}

// loadConfigFrom is loadConfig, and says which file that was.
func (a *app) loadConfigFrom(ctx context.Context) (*config.Config, config.Origin, error) {
	cfg, origin, err := config.LoadFrom(a.configPath)
	if err != nil {
		return nil, origin, configError{err}
	}
	if err := a.during(ctx, "looking for users and groups", func() error { return daemon.Check(ctx, cfg) }); err != nil {
		return cfg, origin, configError{referenceError{fmt.Errorf("%s: %w", a.configPath, err)}}
	}
	return cfg, origin, nil
}
