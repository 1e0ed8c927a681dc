package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/daemon"
	"github.com/keyagent/keyagent/internal/waiting"
	"github.com/keyagent/keyagent/internal/writequeue"
)

// streams are the process' standard streams.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// app is what the commands share: the streams and the common flags.
type app struct {
	streams
	configPath string
	socket     string
	args       []string          // the command line
	json       bool              // errors are written as JSON, too
	waits      *waiting.Board    // of commands that do not run the agent
	messages   *writequeue.Queue // of what goes to standard error; nil: that is written at once
}

// interruptPatience is how long an interrupted command may clean up, such as flush its objects in
// the TPM.
const interruptPatience = 5 * time.Second

// run executes one command line and returns the exit code.
func run(ctx context.Context, args []string, std streams) int {
	a := &app{streams: std, args: args, json: wantsJSON(args), waits: waiting.New(waiting.Config{})}
	if err := daemon.Conceal(); err != nil {
		return a.exit(err, nil)
	}
	root := a.rootCommand() //nolint:contextcheck // commands get theirs from ExecuteContextC
	root.SetArgs(args)
	target, _, err := root.Find(args)
	serves := err == nil && target.Name() == serveName
	code := make(chan int, 1)
	go func() {
		cmd, err := root.ExecuteContextC(ctx)
		if interrupted(ctx, err) {
			code <- a.exitInterrupted()
			return
		}
		code <- a.exit(err, cmd)
	}()
	if serves {
		c := <-code // it has requests to finish and a key to flush, and ends when that is done
		if a.messages != nil {
			a.messages.Drain(messagePatience)
		}
		return c
	}
	return a.await(ctx, code)
}

// await waits for a command. A read from a pipe or a terminal cannot be cancelled, so a command
// that has not ended interruptPatience after the interrupt is abandoned. What it has begun is left
// as by a power cut, which every command that changes something is built to survive.
func (a *app) await(ctx context.Context, code <-chan int) int {
	select {
	case c := <-code:
		return c
	case <-ctx.Done():
	}
	select {
	case c := <-code:
		return c
	case <-time.After(interruptPatience):
		return a.exitInterrupted()
	}
}

// interrupted reports whether a command ended because it was interrupted: what it could not do then
// is no fault of the TPM, nor of the agent. Some errors have the cause as text only.
func interrupted(ctx context.Context, err error) bool {
	return err != nil && ctx.Err() != nil && (errors.Is(err, context.Canceled) || strings.Contains(err.Error(), context.Canceled.Error()))
}

func (a *app) exitInterrupted() int {
	if a.json {
		a.writeError(errorReport{Code: codeInterrupted, Message: "interrupted", ExitCode: exitFailed})
	} else {
		fmt.Fprintln(a.err, "keyagent: error: interrupted")
	}
	return exitFailed
}

func (a *app) rootCommand() *cobra.Command {
	var showVersion bool
	root := &cobra.Command{
		Use:   "keyagent",
		Short: "Entra tokens from a key that cannot leave this VM's TPM",
		Long: `keyagent hands out Microsoft Entra access tokens that were obtained with a key
that cannot leave this Confidential VM's TPM.

One daemon per VM ("keyagent serve") owns the key. token, exec, env, capabilities and
status talk to it over a local Unix socket; who may have which token is decided by the rules in
its configuration. key, cert, config and doctor work beside it. attest makes evidence of
where a key is, and verify judges the evidence of another machine, anywhere.

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 refused by policy,
4 agent not reachable. With --json, errors are JSON, too, on standard error: see docs/cli.md.`,
		Example: `  keyagent setup
  keyagent config check
  keyagent token --identity vm --resource https://vault.azure.net --output header
  keyagent exec --identity vm -- ./app
  keyagent status`,
		SilenceErrors: true, // exit() prints them, with a hint
		SilenceUsage:  true,
		Args:          subcommands,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if showVersion {
				return a.printVersion()
			}
			return cmd.Help()
		},
	}
	// Cobra's own --version prints by a template. With package text/template in it, the program
	// would keep every method that anything could call by name, and be a fifth larger.
	root.Flags().BoolVarP(&showVersion, "version", "v", false, "version for keyagent")
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{cmp.Or(a.mistyped(cmd), suggestFlag(cmd, err))}
	})
	root.PersistentFlags().StringVar(&a.configPath, "config", cmp.Or(os.Getenv("KEYAGENT_CONFIG"), config.DefaultPath),
		"configuration file (env KEYAGENT_CONFIG)")
	root.PersistentFlags().StringVar(&a.socket, "socket", "",
		"the agent's socket (env KEYAGENT_SOCKET; default: from --config or KEYAGENT_CONFIG if readable, else /run/keyagent/agent.sock)")
	root.AddCommand(a.serveCommand(), a.reloadCommand(), a.tokenCommand(), a.statusCommand(), a.capabilitiesCommand(), a.keyCommand(), a.certCommand(),
		a.doctorCommand(), a.configCommand(), a.setupCommand(), a.imagePrepareCommand(), a.takeoverCommand(), a.execCommand(), a.envCommand(), a.bridgeCommand(), a.versionCommand(),
		a.attestCommand(), a.verifyCommand())
	root.AddCommand(a.manualCommand())
	addHelp(root)
	a.addCompletion(root)
	wrapArgs(root)
	return root
}

// agentSocket is where a command looks for the agent; empty leaves that to package client. Of a
// configuration only its socket is used, and only if the configuration was named. It is ignored
// without a warning if this user may not read it, as a user who may have tokens need not be able
// to; if it is wrong or missing, a warning says so.
func (a *app) agentSocket(cmd *cobra.Command) string {
	if a.socket != "" || os.Getenv(wire.EnvSocket) != "" || !configNamed(cmd) {
		return a.socket
	}
	cfg, err := config.Load(a.configPath)
	switch {
	case err == nil:
		return cfg.Socket
	case !errors.Is(err, fs.ErrPermission):
		a.warnOf(fmt.Errorf("%w; the agent is looked for at %s, which --socket or %s changes", err, wire.DefaultSocket, wire.EnvSocket))
	}
	return ""
}

// warnOf warns of a failure that the command can do without.
func (a *app) warnOf(err error) {
	if a.json {
		a.warnings().Warn(err.Error())
		return
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		fmt.Fprintf(a.err, "keyagent: warning: %s\n", printable(line))
	}
}

// wrapArgs makes wrong arguments usage errors, which cobra does not tell apart, and refuses empty
// values.
func wrapArgs(cmd *cobra.Command) {
	check := cmd.Args
	if check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return usageError{err}
			}
			return checkValues(cmd)
		}
	}
	for _, sub := range cmd.Commands() {
		wrapArgs(sub)
	}
}

// checkValues refuses an empty value where it would mean none: of a variable that is not set, as in
// --pcrs "$PCRS", a key would come that is bound to nothing.
func checkValues(cmd *cobra.Command) error {
	for _, name := range []string{
		"type", "claims", "capabilities", "name", "section", "algorithm", "pcrs", "pcr-bank", "persistent", "auth-file", "auth-credential", "from-key-file", "connect", "ca-file", "file", "out", "tpm", "state-dir", "drop-in",
		"nonce", "nonce-file", "audience", "evidence", "nonce-issued", "nonces", "html", "policy", "at",
	} {
		if f := cmd.Flags().Lookup(name); f != nil && f.Changed && f.Value.String() == "" {
			return usageError{fmt.Errorf("--%s has no value", name)}
		}
	}
	return nil
}
