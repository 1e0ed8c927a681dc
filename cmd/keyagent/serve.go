package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/daemon"
	"github.com/keyagent/keyagent/internal/writequeue"
)

// serveName is the one command that is there to be interrupted.
const serveName = "serve"

const (
	// maxWaitingMessages is how many lines of the log wait for a reader that stalls.
	maxWaitingMessages = 1024
	// messagePatience is how long the end of the process waits for its last lines to be read.
	messagePatience = 500 * time.Millisecond
)

func (a *app) serveCommand() *cobra.Command {
	var logFormat string
	cmd := &cobra.Command{
		Use:   serveName,
		Short: "Run the agent in the foreground",
		Long: `Run the agent in the foreground until it is interrupted or terminated.

It loads its binding key from the state directory, or creates it in the TPM at the
first start, and then answers on its Unix socket. Log records go to standard error,
audit records, one JSON object a line, to standard output. If nobody reads them, the
agent goes on: audit.required in the configuration says whether tokens do.`,
		Example: "  keyagent serve --config /etc/keyagent/config.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			handler, err := a.queueMessages(cmd.Context(), logFormat)
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
			if err := checkAudit(cfg, a.out); err != nil {
				return err
			}
			if err := daemon.Harden(); err != nil {
				return err
			}
			agent, err := daemon.Open(cmd.Context(), cfg, daemon.Options{
				Version: version,
				Logger:  slog.New(handler),
				Audit:   slog.New(slog.NewJSONHandler(writequeue.NewLines(a.out), nil)),
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

// queueMessages has what goes to standard error wait in a queue, and nobody for whoever
// reads it. It returns the handler of the log.
func (a *app) queueMessages(ctx context.Context, format string) (slog.Handler, error) {
	if format == "" {
		format = "json"
		if a.isTerminal() {
			format = "text"
		}
	}
	lines := writequeue.NewLines(a.err)
	a.messages = writequeue.New(writequeue.Config{
		Limit:    maxWaitingMessages,
		Patience: messagePatience,
		TellLost: func(n uint64) error {
			lost := slog.NewRecord(time.Now(), slog.LevelWarn, "lines of the log were lost: nobody read them, or writing them failed", 0)
			lost.AddAttrs(slog.Uint64("count", n))
			return logHandler(format, lines).Handle(ctx, lost)
		},
	})
	a.err = a.messages.Writer(lines)
	if format != "text" && format != "json" {
		return nil, usageError{fmt.Errorf("--log-format %q is not text or json", format)}
	}
	return logHandler(format, a.err), nil
}

func logHandler(format string, w io.Writer) slog.Handler {
	if format == "text" {
		return slog.NewTextHandler(w, nil)
	}
	return slog.NewJSONHandler(w, nil)
}

// checkAudit refuses to require records that nobody can ever read.
func checkAudit(cfg *config.Config, out io.Writer) error {
	file, ok := out.(*os.File)
	if !cfg.Audit.Required || !ok {
		return nil
	}
	target, err := file.Stat()
	if err != nil {
		return fmt.Errorf("audit.required: standard output, where audit records go: %w", err)
	}
	if null, err := os.Stat(os.DevNull); err == nil && os.SameFile(target, null) {
		return fmt.Errorf("audit.required: standard output, where audit records go, is closed or %s: connect it to what keeps them", os.DevNull)
	}
	return nil
}
