package main

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/keyagent/keyagent/internal/daemon"
)

// serveName is the one command that is there to be interrupted.
const serveName = "serve"

func (a *app) serveCommand() *cobra.Command {
	var logFormat string
	cmd := &cobra.Command{
		Use:   serveName,
		Short: "Run the agent in the foreground",
		Long: `Run the agent in the foreground until it is interrupted or terminated.

It loads its binding key from the state directory, or creates it in the TPM at the
first start, and then answers on its Unix socket. Log records go to standard error,
audit records, one JSON object a line, to standard output.`,
		Example: "  keyagent serve --config /etc/keyagent/config.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			handler, err := a.logHandler(logFormat)
			if err != nil {
				return err
			}
			cfg, err := a.loadConfig(cmd.Context())
			if _, rulesOff := errors.AsType[*daemon.RulesOffError](err); err != nil && !rulesOff { // which the agent itself tells
				return err
			}
			if a.socket != "" {
				cfg.Socket = a.socket
			}
			if err := daemon.Harden(); err != nil {
				return err
			}
			agent, err := daemon.Open(cmd.Context(), cfg, daemon.Options{
				Version: version,
				Logger:  slog.New(handler),
				Audit:   slog.New(slog.NewJSONHandler(a.out, nil)),
			})
			if err != nil {
				return err
			}
			defer agent.Close()
			return agent.Run(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&logFormat, "log-format", "", "text or json (default: text on a terminal, else json)")
	return cmd
}

func (a *app) logHandler(format string) (slog.Handler, error) {
	switch {
	case format == "text", format == "" && a.isTerminal():
		return slog.NewTextHandler(a.err, nil), nil
	case format == "json", format == "":
		return slog.NewJSONHandler(a.err, nil), nil
	}
	return nil, usageError{fmt.Errorf("--log-format %q is not text or json", format)}
}
