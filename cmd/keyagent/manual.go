package main

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/config"
)

// manualName is the command that packages make their manual pages with.
const manualName = "manual"

func (a *app) manualCommand() *cobra.Command {
	return &cobra.Command{
		Use:    manualName + " DIRECTORY",
		Short:  "Write the manual pages into a directory",
		Long:   "Write a manual page for each command into a directory, as packages bring them.",
		Hidden: true, // packages bring the pages with the program
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil { //nolint:gosec // manual pages are for everybody
				return err
			}
			return writePages(cmd.Root(), args[0])
		},
	}
}

// writePages writes the page of a command, and those of the commands below it.
func writePages(cmd *cobra.Command, dir string) error {
	path := filepath.Join(dir, pageName(cmd)+".1")
	if err := os.WriteFile(path, []byte(manualPage(cmd)), 0o644); err != nil { //nolint:gosec // as above
		return err
	}
	for _, sub := range pagesBelow(cmd) {
		if err := writePages(sub, dir); err != nil {
			return err
		}
	}
	return nil
}

// pagesBelow are the commands that have pages: not those that nobody types, nor what cobra brings,
// which is the same for each shell.
func pagesBelow(cmd *cobra.Command) []*cobra.Command {
	var with []*cobra.Command
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() && sub.Name() != "help" && cmd.Name() != "completion" {
			with = append(with, sub)
		}
	}
	return with
}

func pageName(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

// manualPage is a command's page for man(1), made of what --help says.
func manualPage(cmd *cobra.Command) string {
	var page roff
	page.title(pageName(cmd), "1", "keyagent "+version)
	page.section("NAME")
	page.line(literal(pageName(cmd)), ` \- `, literal(purpose(cmd)))
	page.section("SYNOPSIS")
	page.line(bold(cmd.CommandPath()), literal(strings.TrimPrefix(synopsis(cmd), cmd.CommandPath())))
	page.section("DESCRIPTION")
	page.text(cmd.Long, cmd.Short+".")
	commandSection(&page, cmd)
	optionSection(&page, "OPTIONS", cmd.NonInheritedFlags())
	optionSection(&page, "COMMON OPTIONS", cmd.InheritedFlags())
	if !cmd.HasParent() {
		generalSections(&page)
	}
	if cmd.Example != "" {
		page.section("EXAMPLES")
		page.verbatim(cmd.Example)
	}
	page.section("SEE ALSO")
	page.line(strings.Join(related(cmd), ", "))
	return page.String()
}

// purpose is a phrase that follows the name: of a command, what it does.
func purpose(cmd *cobra.Command) string {
	if !cmd.HasParent() {
		return cmd.Short
	}
	return strings.ToLower(cmd.Short[:1]) + cmd.Short[1:]
}

func synopsis(cmd *cobra.Command) string {
	if cmd.HasSubCommands() {
		return cmd.CommandPath() + " COMMAND [flags]"
	}
	return cmd.UseLine()
}

func commandSection(page *roff, cmd *cobra.Command) {
	subs := pagesBelow(cmd)
	if len(subs) == 0 {
		return
	}
	page.section("COMMANDS")
	for _, sub := range subs {
		page.item(bold(sub.Name()), literal(sub.Short+"."))
	}
}

func optionSection(page *roff, heading string, flags *pflag.FlagSet) {
	if !flags.HasAvailableFlags() {
		return
	}
	page.section(heading)
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		names := bold("--" + f.Name)
		if f.Shorthand != "" {
			names = bold("-"+f.Shorthand) + ", " + names
		}
		if value != "" {
			names += " " + italic(value)
		}
		page.item(names, literal(usage+defaultOf(f)))
	})
}

// defaultOf says what a flag is where it is not given, unless that is nothing.
func defaultOf(f *pflag.Flag) string {
	switch f.DefValue {
	case "", "false", "0", "0s", "[]":
		return ""
	}
	return " (default: " + strings.Trim(f.DefValue, "[]") + ")"
}

// generalSections are what holds for all commands.
func generalSections(page *roff) {
	page.section("EXIT STATUS")
	for _, code := range [][2]string{
		{"0", "Done."},
		{"1", "Failed."},
		{"2", "Wrong usage or configuration."},
		{"3", "Refused by the agent's rules."},
		{"4", "The agent is not reachable."},
	} {
		page.item(bold(code[0]), literal(code[1]))
	}
	page.section("ENVIRONMENT")
	page.item(bold("KEYAGENT_CONFIG"), literal("The configuration file, where --config does not name one."))
	page.item(bold(wire.EnvSocket), literal("The agent's socket, where --socket does not name one."))
	page.section("FILES")
	page.item(italic(config.DefaultPath), literal("The configuration. It does not come with the package: an example that denies everything is in /usr/share/doc/keyagent/examples."))
	page.item(italic(wire.DefaultSocket), literal("The agent's socket."))
	page.item(italic(config.Default().StateDir), literal("Keys, certificates and notes of the agent. The keys are of no use without this machine's TPM."))
	page.item(italic("/usr/share/doc/keyagent"), literal("The documentation, as Markdown."))
}

// related are the pages that a reader may want next: that of the command above, and those below.
func related(cmd *cobra.Command) []string {
	var pages []string
	for up := cmd.Parent(); up != nil; up = up.Parent() {
		pages = append(pages, reference(up))
	}
	for _, sub := range pagesBelow(cmd) {
		pages = append(pages, reference(sub))
	}
	if !cmd.HasParent() {
		pages = append(pages, bold("systemctl")+"(1)")
	}
	return pages
}

func reference(cmd *cobra.Command) string { return bold(pageName(cmd)) + "(1)" }
