package main

import (
	"github.com/spf13/cobra"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/engine"
)

func (a *app) configShowCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Print the configuration with its defaults",
		Long: `Print the configuration as the agent takes it, with the defaults of what the file
does not say. It is a configuration file again. What has no value and no default is
left out; docs/configuration.md has every setting.

Users, groups and files that it names are not looked up: see keyagent config check.`,
		Example: "  keyagent config show\n  keyagent config show --json | jq '.identities[].name'",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := config.Load(a.configPath)
			if err != nil {
				return configError{err}
			}
			cfg = engine.Effective(*cfg)
			if asJSON {
				settings, err := cfg.Settings()
				if err != nil {
					return err
				}
				return a.printJSON(settings)
			}
			text, err := cfg.YAML()
			if err != nil {
				return err
			}
			_, err = a.out.Write(text)
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
