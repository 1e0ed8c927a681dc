package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/internal/launch"
	"github.com/keyagent/keyagent/internal/statefile"
)

const envName = "env"

func (a *app) envCommand() *cobra.Command {
	var flags launchFlags
	var form, out, dropIn string
	var check bool
	cmd := &cobra.Command{
		Use:   envName + " --identity NAME",
		Short: "Print the environment in which an unmodified program gets its tokens from the agent",
		Long: `Print the environment in which an unmodified program gets its tokens from the agent: what
"keyagent exec" sets, for a systemd unit, a shell, or whatever starts the program. Where
exec can start the program, prefer it: there the secret ends with the program.

The output has a secret. It is of use to this user only, and only in the systemd unit
or login session in which this command runs, and ends with that. It outlives a restart
of the agent. --out writes a file that nobody else can read.

--drop-in prints what makes a unit have its environment written before each start; it
asks no agent, and has no secret in it.`,
		Example: `  keyagent env --identity vm --drop-in web.service
  eval "$(keyagent env --identity vm)"
  keyagent env --identity vm --format dotenv --out .env`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			families, err := flags.check()
			if err != nil {
				return err
			}
			if flags.lifetime == wire.LifetimeProcess {
				return usageError{errors.New("--lifetime process: such a secret would end with this command; keyagent exec gets one for a program")}
			}
			if check {
				return checkEnvironment(families)
			}
			if dropIn != "" {
				return a.printDropIn(cmd, flags, families, dropIn)
			}
			as, err := launch.ParseForm(form)
			if err != nil {
				return usageError{errors.New("--format: " + err.Error())}
			}
			env, err := a.plan(cmd, flags, families)
			if err != nil {
				return err
			}
			text, err := env.Format(as)
			if err != nil {
				return err
			}
			return a.printEnvironment(text, out, flags.quiet)
		},
	}
	flags.add(cmd, wire.LifetimeUnit)
	cmd.Flags().StringVar(&form, "format", string(launch.Export), "how it is written: "+strings.Join(launch.Forms(), ", "))
	cmd.Flags().StringVar(&out, "out", "", "file to write (mode 0600) in place of standard output")
	cmd.Flags().StringVar(&dropIn, "drop-in", "", "print the drop-in of this systemd unit instead")
	cmd.Flags().BoolVar(&check, "check", false, "look whether this command has such an environment itself")
	cmd.Flags().Bool("json", false, "errors and warnings as JSON")
	return cmd
}

// checkEnvironment looks at this process' own environment.
func checkEnvironment(families []launch.Family) error {
	err := launch.Check(os.Environ(), families)
	if err != nil {
		return fmt.Errorf("the environment is not that which keyagent has written: %w; in a systemd unit: EnvironmentFile= was not read", err)
	}
	return nil
}

// printEnvironment writes to a file, or to standard output.
func (a *app) printEnvironment(text []byte, out string, quiet bool) error {
	if out != "" && out != "-" {
		return statefile.ExportPrivate(out, text)
	}
	if isTerminal(a.out) && !quiet {
		a.warnOf(errors.New("IDENTITY_HEADER and MSI_SECRET are a secret: whoever has it gets tokens as this user in this login session; --out FILE keeps it off the screen"))
	}
	_, err := a.out.Write(text)
	return err
}

// printDropIn prints the drop-in of a unit, which runs this command again.
func (a *app) printDropIn(cmd *cobra.Command, flags launchFlags, families []launch.Family, name string) error {
	unit, err := launch.ParseUnit(name)
	if err != nil {
		return usageError{errors.New("--drop-in: " + err.Error())}
	}
	program, err := ownPath()
	if err != nil {
		return err
	}
	write, look := []string{program, envName}, []string{program, envName, "--check"}
	add := func(flag, value string) {
		if value != "" {
			write = append(write, flag, value)
		}
	}
	add("--identity", flags.identity)
	if cmd.Flags().Changed("for") {
		add("--for", strings.Join(flags.families, ","))
		look = append(look, "--for", strings.Join(flags.families, ","))
	}
	if a.socket != "" {
		if a.socket, err = filepath.Abs(a.socket); err != nil {
			return err
		}
	}
	add("--socket", a.socket)
	add("--lifetime", wire.LifetimeUnit)
	add("--format", string(launch.Systemd))
	add("--out", unit.File())
	_, err = a.out.Write([]byte(unit.DropIn(write, look, families)))
	return err
}

// ownPath is the path of this program; that in PATH if both are the same, since it stays the same
// over upgrades.
func ownPath() (string, error) {
	own, err := os.Executable()
	if err != nil {
		return "", err
	}
	short, err := exec.LookPath("keyagent")
	if err != nil {
		return own, nil //nolint:nilerr // it is not in PATH
	}
	a, errA := os.Stat(short)
	b, errB := os.Stat(own)
	if errA == nil && errB == nil && os.SameFile(a, b) {
		return short, nil
	}
	return own, nil
}
