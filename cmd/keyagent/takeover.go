package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/daemon"
	"github.com/keyagent/keyagent/internal/takeover"
)

// nftFile is where the unit finds the firewall's rules unless told otherwise, and nftProgram what
// loads them.
const (
	nftFile    = "/etc/keyagent/takeover.nft"
	nftProgram = "/usr/sbin/nft"
)

func (a *app) takeoverCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "takeover",
		Short: "Take 169.254.169.254 over for chosen users",
		Long: `Take 169.254.169.254 over for the users of endpoints.takeover in the configuration:
their programs, unmodified, get the agent in the place of IMDS, and cannot go around it.
The firewall does that, with rules that print makes. docs/takeover.md says how.`,
		Args: subcommands,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.takeoverPrintCommand(), a.takeoverCheckCommand())
	return cmd
}

func (a *app) takeoverPrintCommand() *cobra.Command {
	var format, file string
	cmd := &cobra.Command{
		Use:   "print",
		Short: "Print the firewall's rules, or the unit that loads them",
		Long: `Print the firewall's rules for endpoints.takeover of the configuration, as a file for
nft -f, or a systemd unit that loads that file before programs start. Nothing is changed.
Users are looked up, and /etc/subuid is read: print the rules anew when either changes.`,
		Example: `  keyagent takeover print >/etc/keyagent/takeover.nft
  nft --check --file /etc/keyagent/takeover.nft
  keyagent takeover print --format unit >/etc/systemd/system/keyagent-takeover.service
  systemctl enable --now keyagent-takeover.service
  keyagent takeover check`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var text string
			switch format {
			case "nft":
				plan, err := a.takeoverPlan(cmd.Context())
				if err != nil {
					return err
				}
				text = plan.Ruleset()
			case "unit":
				if !filepath.IsAbs(file) || strings.ContainsAny(file, " \t\n\"'\\%$") {
					return usageError{fmt.Errorf("--file: %q is not an absolute path without spaces and special characters", file)}
				}
				text = takeover.Unit(file, nftProgram)
			default:
				return usageError{fmt.Errorf("--format: %q is neither nft nor unit", format)}
			}
			_, err := io.WriteString(a.out, text)
			return err
		},
	}
	cmd.Flags().StringVar(&format, "format", "nft", "nft: the firewall's rules; unit: a systemd unit that loads them")
	cmd.Flags().StringVar(&file, "file", nftFile, "where the unit finds the rules")
	return cmd
}

// takeoverConfig reads the configuration of the takeover.
func (a *app) takeoverConfig() (*config.Takeover, error) {
	cfg, err := config.Load(a.configPath)
	if err != nil {
		return nil, configError{err}
	}
	if cfg.Endpoints.Takeover == nil {
		return nil, configError{referenceError{fmt.Errorf("%s: %w", a.configPath, errNoTakeover)}}
	}
	return cfg.Endpoints.Takeover, nil
}

var errNoTakeover = errors.New("endpoints.takeover: not configured, so nobody's traffic is taken over")

// takeoverPlan is what the firewall must do for the configuration.
func (a *app) takeoverPlan(ctx context.Context) (takeover.Plan, error) {
	t, err := a.takeoverConfig()
	if err != nil {
		return takeover.Plan{}, err
	}
	var plan takeover.Plan
	err = a.during(ctx, "looking for users", func() error {
		plan, err = daemon.TakeoverPlan(ctx, t, nil)
		return err
	})
	if err != nil {
		return plan, configError{referenceError{fmt.Errorf("%s: %w", a.configPath, err)}}
	}
	return plan, nil
}
