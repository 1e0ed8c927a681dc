package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keyagent/keyagent/internal/nearby"
)

// subcommands is for a command that has subcommands and takes no arguments: an argument is an
// unknown command, and similar ones are suggested.
func subcommands(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := fmt.Errorf("unknown command %q for %q", args[0], cmd.CommandPath())
	cmd.SuggestionsMinimumDistance = nearby.Letters
	return suggest(err, cmd.CommandPath()+" ", args[0], cmd.SuggestionsFor(args[0]))
}

// suggestFlag adds to the error about an unknown flag the one that was probably meant.
func suggestFlag(cmd *cobra.Command, err error) error {
	var unknown interface {
		error
		GetSpecifiedName() string
	}
	if !errors.As(err, &unknown) {
		return err
	}
	given := unknown.GetSpecifiedName()
	var like []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden && nearby.Distance(given, f.Name) <= nearby.Letters {
			like = append(like, f.Name)
		}
	})
	return suggest(err, "--", given, like)
}

// suggest adds to an error those of the names that are closest to the one that was given. A name
// that goes on where the given one ends is as close as can be.
func suggest(err error, prefix, given string, names []string) error {
	far := func(name string) int {
		if strings.HasPrefix(name, given) {
			return 0
		}
		return nearby.Distance(given, name)
	}
	var meant []string
	for _, name := range names {
		if !slices.ContainsFunc(names, func(other string) bool { return far(other) < far(name) }) {
			meant = append(meant, prefix+name)
		}
	}
	if len(meant) == 0 {
		return err
	}
	return suggestion{err, "did you mean " + strings.Join(meant, " or ") + "?"}
}

// mistyped returns the error about a command that there is not, where cobra complains of its flags;
// nil if that is not why.
func (a *app) mistyped(group *cobra.Command) error {
	if !group.HasSubCommands() {
		return nil
	}
	_, rest, _ := group.Root().Find(a.args) // the file that it cannot find is the mistyped one
	for _, arg := range rest {
		if strings.HasPrefix(arg, "-") {
			continue
		}
		if slices.ContainsFunc(group.Commands(), func(c *cobra.Command) bool { return c.Name() == arg }) {
			return nil
		}
		return subcommands(group, []string{arg})
	}
	return nil
}

// suggestion is an error with the command that was probably meant.
type suggestion struct {
	error
	hint string
}

func (s suggestion) Unwrap() error { return s.error }

// Hint names the command or flag that was probably meant.
func (s suggestion) Hint() string { return s.hint }

// addHelp adds cobra's own command, which would answer an unknown command with the general help and
// exit code 0.
func addHelp(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	for _, cmd := range root.Commands() {
		if cmd.Name() != "help" {
			continue
		}
		show := cmd.Run
		cmd.Run = nil
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			about, rest, err := root.Find(args)
			if err == nil {
				err = subcommands(about, rest)
			}
			if err != nil {
				return usageError{err}
			}
			show(cmd, args)
			return nil
		}
	}
}
