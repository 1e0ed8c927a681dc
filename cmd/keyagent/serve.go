package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/auditsink"
	"github.com/keyagent/keyagent/internal/daemon"
	"github.com/keyagent/keyagent/internal/rulebook"
	"github.com/keyagent/keyagent/internal/writequeue"
	"github.com/keyagent/keyagent/systemd"
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
	var activated, confined bool
	cmd := &cobra.Command{
		Use:   serveName,
		Short: "Run the agent in the foreground",
		Long: `Run the agent in the foreground until it is interrupted or terminated. SIGHUP has
it read its configuration again; if that cannot be used, the one before stays in
force, and log and status say why.

It loads its binding key from the state directory, or creates it in the TPM at the
first start, and then answers on its Unix socket. Log records go to standard error
(log_level in the configuration says how many),
audit records, one JSON object a line, to standard output, or where audit.to in the
configuration says: a file, which SIGHUP opens again, or the journal. If they cannot
be written, the agent goes on: audit.required says whether tokens do. Sockets that
systemd passes are taken by their names: keyagent, app-service, imds, takeover, admin,
metrics. If sockets are passed and the configuration cannot be used, the agent stays, and
tells every caller to come back, until it can: it is read again at SIGHUP and every half
minute. To be started again would not help, and take the sockets down in the end.`,
		Example: "  keyagent serve --config /etc/keyagent/config.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			hangups := make(chan os.Signal, 1) // from here on it does not end the process
			signal.Notify(hangups, syscall.SIGHUP)
			defer signal.Stop(hangups)
			sockets, err := systemd.TakeSockets()
			if err != nil {
				return err
			}
			manager, err := systemd.OpenNotifier()
			if err != nil {
				return err
			}
			level := new(slog.LevelVar)
			handler, err := a.queueMessages(cmd.Context(), logFormat, level)
			if err != nil {
				return err
			}
			if err := daemon.Harden(); err != nil {
				return err
			}
			// A hundred files, which crypto/x509 reads once, when somebody needs them: so early
			// that nobody waits.
			go func() { _, _ = x509.SystemCertPool() }()
			s := &service{app: a, sockets: sockets, hangups: hangups, confined: confined, options: daemon.Options{
				Version:   version,
				Logger:    slog.New(handler),
				LogLevel:  level,
				Words:     words{},
				Activated: activated,
				Manager:   manager,
			}}
			return s.run(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&logFormat, "log-format", "", "text or json (default: text on a terminal, else json)")
	cmd.Flags().BoolVar(&activated, "activated", false, "open no sockets: systemd passes all of them (activated in the configuration)")
	cmd.Flags().BoolVar(&confined, "confine", false, "write in the agent's own directories only, by Landlock, where the kernel has it")
	return cmd
}

// configToServe reads and checks the configuration. Rules that are off because of unknown users are
// told by the agent itself.
func (a *app) configToServe(ctx context.Context) (*config.Config, config.Origin, error) {
	cfg, origin, err := a.loadConfigFrom(ctx)
	if _, rulesOff := errors.AsType[*rulebook.OffError](err); err != nil && !rulesOff {
		return nil, origin, err
	}
	a.overrideSocket(cfg)
	return cfg, fromAnywhere(origin), checkAudit(cfg, a.out)
}

// fromAnywhere names the file so that it can be found from any directory: status says where it is
// to others.
func fromAnywhere(o config.Origin) config.Origin {
	if path, err := filepath.Abs(o.File); err == nil {
		o.File = path
	}
	return o
}

// configAgain reads the configuration for a reload, which checks it.
func (a *app) configAgain(context.Context) (*config.Config, config.Origin, error) {
	cfg, origin, err := config.LoadFrom(a.configPath)
	if err == nil {
		a.overrideSocket(cfg)
	}
	return cfg, fromAnywhere(origin), err
}

func (a *app) overrideSocket(cfg *config.Config) {
	if a.socket != "" {
		cfg.Socket = a.socket
	}
}

// reloadAt has the agent reload its configuration at each hang-up, and the audit file opened again,
// until the function that it returns is called. Hang-ups that come meanwhile are one.
func (a *app) reloadAt(ctx context.Context, agent *daemon.Daemon, audit *auditsink.Sink, hangups <-chan os.Signal) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-hangups:
				audit.Reopen()
				_ = agent.Reload(ctx, causeHangup, a.configAgain) // which logs why it did not
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

// queueMessages puts a queue before standard error, so that nothing in the agent waits for its
// reader. It returns the handler of the log.
func (a *app) queueMessages(ctx context.Context, format string, level slog.Leveler) (slog.Handler, error) {
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
			lost := slog.NewRecord(time.Now(), slog.LevelWarn, "lines of the log were lost: they were not read, or writing them failed", 0)
			lost.AddAttrs(slog.Uint64("count", n))
			return logHandler(format, lines, level).Handle(ctx, lost)
		},
	})
	a.err = a.messages.Writer(lines)
	if format != "text" && format != "json" {
		return nil, usageError{fmt.Errorf("--log-format %q is not text or json", format)}
	}
	return logHandler(format, a.err, level), nil
}

func logHandler(format string, w io.Writer, level slog.Leveler) slog.Handler {
	opts := &slog.HandlerOptions{Level: level}
	if format == "text" {
		return slog.NewTextHandler(w, opts)
	}
	return slog.NewJSONHandler(w, opts)
}

// checkAudit refuses audit.required where audit records cannot be kept.
func checkAudit(cfg *config.Config, out io.Writer) error {
	file, ok := out.(*os.File)
	if !cfg.Audit.Required || cfg.Audit.To != config.AuditToStdout || !ok {
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
