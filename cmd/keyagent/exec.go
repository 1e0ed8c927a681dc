package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/internal/advice"
	"github.com/keyagent/keyagent/internal/launch"
)

// execName is the command that becomes another program.
const execName = "exec"

// Exit codes of a program that was not started, as POSIX has them for a shell (XCU 2.8.2).
const (
	exitNotExecutable = 126
	exitNotFound      = 127
)

// programError says why a program was not started.
type programError struct {
	error
	code int
}

func (e programError) Unwrap() error { return e.error }

// launchFlags are common to exec and env.
type launchFlags struct {
	identity string
	families []string
	lifetime string
	quiet    bool
}

func (f *launchFlags) add(cmd *cobra.Command, lifetime string) {
	flags := cmd.Flags()
	flags.StringVar(&f.identity, "identity", "", "name of the identity in the agent's configuration (may be left out if only one is allowed)")
	flags.StringSliceVar(&f.families, "for", []string{string(launch.All)}, "which programs it is for: "+strings.Join(launch.FamilyNames(), ", "))
	flags.StringVar(&f.lifetime, "lifetime", lifetime, "when the secret ends: with the process or the unit (a systemd unit, or a login session)")
	flags.BoolVar(&f.quiet, "quiet", false, "do not say what an SDK will do differently")
}

// check refuses wrong flags before the agent is asked.
func (f *launchFlags) check() ([]launch.Family, error) {
	if f.lifetime != wire.LifetimeProcess && f.lifetime != wire.LifetimeUnit {
		return nil, usageError{fmt.Errorf("--lifetime %q is not %s or %s", f.lifetime, wire.LifetimeProcess, wire.LifetimeUnit)}
	}
	families, err := launch.ParseFamilies(f.families)
	if err != nil {
		return nil, usageError{fmt.Errorf("--for: %w", err)}
	}
	return families, nil
}

func (a *app) execCommand() *cobra.Command {
	var flags launchFlags
	cmd := &cobra.Command{
		Use:   execName + " --identity NAME [flags] [--] PROGRAM [ARGUMENT...]",
		Short: "Run an unmodified program that gets its tokens from the agent",
		Long: `Run an unmodified program that gets its tokens from the agent: Azure's SDKs find it by
the variables that this command sets (IDENTITY_ENDPOINT, MSI_ENDPOINT and others).
--for sets only those that one kind of programs looks at.

keyagent becomes the program: signals, terminal, input, output and exit code are the
program's own. The secret in its environment is of use to this user only, and ends
with the program; with --lifetime unit, for programs that go on in the background, it
ends with the systemd unit or login session.

What would make an SDK ask somebody else is said on standard error, unless --quiet.
The exit code is that of the program; 126 if it cannot be run, 127 if it is not found,
3 if the agent refuses, 4 if the agent is not reachable.`,
		Example: `  keyagent exec --identity vm -- ./app --verbose
  keyagent exec --identity vm sh -c 'az login --identity && az keyvault list'
  keyagent exec --identity vm --for adal -- telegraf --config telegraf.conf`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			families, err := flags.check()
			if err != nil {
				return err
			}
			path, err := findProgram(args[0])
			if err != nil {
				return err
			}
			env, err := a.plan(cmd, flags, families)
			if err != nil {
				return err
			}
			return become(cmd.Context(), path, args, env.Apply(os.Environ()))
		},
	}
	cmd.DisableFlagsInUseLine = true // flags behind the program's name are the program's
	cmd.ValidArgsFunction = cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault)
	cmd.Flags().SetInterspersed(false) // what follows the program's name is the program's
	cmd.Flags().Bool("json", false, "errors and warnings of keyagent as JSON")
	flags.add(cmd, wire.LifetimeProcess)
	return cmd
}

// plan asks the agent, and says what the user should know.
func (a *app) plan(cmd *cobra.Command, flags launchFlags, families []launch.Family) (launch.Environment, error) {
	socket := a.agentSocket(cmd)
	agent := client.New(client.Config{Socket: socket})
	defer agent.Close()
	req := client.EndpointRequest{Identity: flags.identity, Lifetime: flags.lifetime}
	endpoint, err := awaited(cmd.Context(), a, "waiting for the agent", func() (wire.Endpoint, error) { return agent.Endpoint(cmd.Context(), req) })
	if err != nil {
		return launch.Environment{}, withoutUnit(err, cmd)
	}
	if socket != "" {
		if socket, err = filepath.Abs(socket); err != nil { // the program may go to another directory
			return launch.Environment{}, err
		}
	}
	env, err := launch.Plan(launch.Request{
		Endpoint: endpoint, Families: families, Environ: os.Environ(), Socket: socket,
		ClientID: clientIDOf(cmd.Context(), agent, endpoint.Identity),
	})
	if err != nil || flags.quiet {
		return env, err
	}
	for _, note := range env.Notes {
		a.warnOf(errors.New(string(note)))
	}
	return env, nil
}

// withoutUnit says what to do where a secret cannot end with a unit.
func withoutUnit(err error, cmd *cobra.Command) error {
	e, ok := errors.AsType[*client.Error](err)
	if !ok || e.Problem.Field != wire.ParamLifetime {
		return err
	}
	e.Problem.Hint = "start the program with keyagent exec, which needs no unit"
	if cmd.Name() == execName {
		e.Problem.Hint = "without --lifetime unit, the secret ends with the program"
	}
	return err
}

// clientIDOf asks for the client id of an identity where that matters. Empty: it is not known.
func clientIDOf(ctx context.Context, agent *client.Client, name string) string {
	if os.Getenv("AZURE_CLIENT_ID") == "" {
		return ""
	}
	identities, err := agent.Identities(ctx)
	if err != nil {
		return "" // the note says then that it may be another
	}
	for _, id := range identities {
		if id.Name == name {
			return id.ClientID
		}
	}
	return ""
}

// become replaces this process. What comes back is why it could not.
func become(ctx context.Context, path string, args, environ []string) error {
	signal.Reset(os.Interrupt, syscall.SIGTERM) // from here on they end the process, as they end the program
	if err := ctx.Err(); err != nil {
		return err
	}
	err := syscall.Exec(path, args, environ) // #nosec G204 -- this is what the command is for
	switch {
	case errors.Is(err, syscall.ENOEXEC):
		err = errors.New("it is no program for this machine, and has no #! in its first line")
	case errors.Is(err, fs.ErrNotExist):
		err = errors.New("its interpreter is not there")
	}
	return programError{fmt.Errorf("running %s: %w", path, err), exitNotExecutable}
}

// findProgram looks for a program as a shell does, except that it is not taken from the working
// directory unless it is named with a slash.
func findProgram(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	cause := err
	if e, ok := errors.AsType[*exec.Error](err); ok {
		cause = e.Err
	}
	switch {
	case errors.Is(err, exec.ErrDot):
		cause = fmt.Errorf("PATH has the working directory; name it ./%s if that is meant", name)
	case errors.Is(err, exec.ErrNotFound) && isInPath(name):
		cause = fs.ErrPermission
	}
	code := exitNotFound
	if errors.Is(cause, fs.ErrPermission) || errors.Is(cause, syscall.EISDIR) {
		code = exitNotExecutable
	}
	return "", advice.Add(programError{fmt.Errorf("running %s: %w", name, cause), code}, findAdvice(name, cause))
}

// findAdvice says what to do about a program that was not found, or cannot be run.
func findAdvice(name string, cause error) advice.Advice {
	switch {
	case errors.Is(cause, syscall.EISDIR):
		return advice.New("name the program in it")
	case errors.Is(cause, fs.ErrPermission):
		return advice.New("see that this user may execute it (ls -l), and enter the directories that lead to it")
	case strings.HasPrefix(name, "-"):
		return advice.New("flags of this command stand before the program")
	case strings.Contains(name, "/"):
		return advice.New("see that the path is right, and where a script is meant, that the interpreter in its first line is there")
	case errors.Is(cause, exec.ErrNotFound):
		return advice.New("it is in no directory of PATH; name it by its path, or see which PATH this command has: a systemd unit and sudo have short ones")
	}
	return advice.Advice{}
}

// isInPath reports whether PATH has a file of this name, which is not executable then.
func isInPath(name string) bool {
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		info, err := os.Stat(filepath.Join(dir, name)) // #nosec G703 -- both are the user's own
		if err == nil && info.Mode().IsRegular() {
			return true
		}
	}
	return false
}

// ownArgs returns those of the arguments that are keyagent's own: what follows the program of exec
// is the program's.
func ownArgs(args []string) []string {
	command := ""
	for i := 0; i < len(args); i++ {
		switch arg := args[i]; {
		case slices.Contains(execValues(), arg):
			i++
		case strings.HasPrefix(arg, "-"):
		case command == "":
			command = arg
		case command == execName:
			return args[:i]
		default:
			return args
		}
	}
	return args
}

// execValues are the flags of exec that take the next argument.
func execValues() []string {
	return []string{"--identity", "--for", "--lifetime", "--config", "--socket"}
}
