package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/keyring"
	"github.com/keyagent/keyagent/internal/launch"
)

// addCompletion adds cobra's own command, which would answer an unknown shell with its help and
// exit code 0, and what it completes: names of files only where a file is wanted.
func (a *app) addCompletion(root *cobra.Command) {
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		if cmd.Name() == "completion" {
			cmd.Args = subcommands
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
			cmd.Long += "The script for bash needs the package bash-completion.\n"
		}
	}
	a.completeFlags(root)
}

// fileFlags name files and directories.
var fileFlags = []string{"config", "socket", "file", "out", "ca-file", "auth-file", "from-key-file", "state-dir", "nonce-file"}

// completeFlags registers what the flags of a command, and of those below it, are completed with.
func (a *app) completeFlags(cmd *cobra.Command) {
	values := map[string]cobra.CompletionFunc{
		"identity":   a.completeIdentity,
		"output":     cobra.FixedCompletions([]string{"json", "raw", "header"}, cobra.ShellCompDirectiveNoFileComp),
		"type":       cobra.FixedCompletions([]string{wire.TypeBearer, wire.TypePoP}, cobra.ShellCompDirectiveNoFileComp),
		"algorithm":  cobra.FixedCompletions(keyring.Algorithms(), cobra.ShellCompDirectiveNoFileComp),
		"pcr-bank":   cobra.FixedCompletions([]string{"sha256", "sha384"}, cobra.ShellCompDirectiveNoFileComp),
		"for":        cobra.FixedCompletions(launch.FamilyNames(), cobra.ShellCompDirectiveNoFileComp),
		"format":     cobra.FixedCompletions(launch.Forms(), cobra.ShellCompDirectiveNoFileComp),
		"lifetime":   cobra.FixedCompletions([]string{wire.LifetimeProcess, wire.LifetimeUnit}, cobra.ShellCompDirectiveNoFileComp),
		"log-format": cobra.FixedCompletions([]string{"json", "text"}, cobra.ShellCompDirectiveNoFileComp),
	}
	register := func(f *pflag.Flag) {
		complete, has := values[f.Name]
		switch {
		case has:
		case slices.Contains(fileFlags, f.Name):
			complete = cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault)
		default:
			complete = cobra.NoFileCompletions
		}
		_ = cmd.RegisterFlagCompletionFunc(f.Name, complete) // it fails for a flag that has one
	}
	cmd.LocalNonPersistentFlags().VisitAll(register)
	cmd.PersistentFlags().VisitAll(register)
	for _, sub := range cmd.Commands() {
		a.completeFlags(sub)
	}
}

// completeIdentity completes an identity of the configuration, if this user may read it.
func (a *app) completeIdentity(_ *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
	cfg, err := config.Load(a.configPath)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, id := range cfg.Identities {
		names = append(names, id.Name)
	}
	return beginningWith(begun, names), cobra.ShellCompDirectiveNoFileComp
}

// completeKeys has the one argument of each command completed with the keys of the state directory,
// if this user may read it.
func (a *app) completeKeys(place *placeFlags, commands ...*cobra.Command) {
	for _, cmd := range commands {
		cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var names []string
			err := a.withKeys(cmd, place, func(keys *keyring.Keyring) (err error) {
				names, err = keys.Names()
				return err
			})
			if err != nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return beginningWith(begun, names), cobra.ShellCompDirectiveNoFileComp
		}
	}
}

func beginningWith(begun string, names []string) []string {
	return slices.DeleteFunc(names, func(name string) bool { return !strings.HasPrefix(name, begun) })
}
