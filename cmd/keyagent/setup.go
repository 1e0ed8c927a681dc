package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/accounts"
	"github.com/keyagent/keyagent/internal/advice"
	"github.com/keyagent/keyagent/internal/daemon"
	"github.com/keyagent/keyagent/internal/inspect"
	"github.com/keyagent/keyagent/internal/rulebook"
	"github.com/keyagent/keyagent/internal/setup"
	"github.com/keyagent/keyagent/internal/statefile"
)

const (
	setupName   = "setup"
	packageUser = "keyagent" // the agent's user, as the packages make it
)

// setupFlags are the answers that the command line gives.
type setupFlags struct {
	choices                         setup.Choices
	base, user                      string
	yes, dryRun, print, force, json bool
}

func (a *app) setupCommand() *cobra.Command {
	var f setupFlags
	cmd := &cobra.Command{
		Use:   setupName,
		Short: "Look at the machine and write a configuration for it",
		Long: `Look at the machine (TPM, instance metadata service, the agent's user), propose a
configuration with the reason for each decision, and write it if the answer is yes.
What is needed and was not said by flags is asked for: who may have tokens, and for
which resources. There is no default for either.

A configuration that is there is not overwritten: what would change is shown, and
--force replaces it and keeps the old one beside it, as config.yaml.old-1. If it is
there as it would be written, nothing is left to do, and the exit code is 0: a script
can run this again and again.

Without a terminal, nothing is asked for: flags say everything, and --yes writes. The
exit code is 2 if something was not said, and 1 if nothing was written for another
reason.

Nothing on the machine is changed but this one file. What is to be done besides is
printed at the end: starting the agent, looking at it (keyagent doctor), and the first
token.`,
		Example: `  keyagent setup
  keyagent setup --unit web.service --resource https://vault.azure.net --yes
  keyagent setup --client-id 1f2e3d4c-0000-4000-8000-0000000077e1 --user www-data --resource https://vault.azure.net --dry-run
  keyagent setup --application c0ffee00-0000-4000-8000-0000000000aa --tenant contoso.com --user batch --resource https://graph.microsoft.com --yes
  keyagent setup --base site.yaml --user web --resource https://vault.azure.net --print >config.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.setup(cmd.Context(), f) },
	}
	f.add(cmd)
	return cmd
}

func (f *setupFlags) add(cmd *cobra.Command) {
	flags, c := cmd.Flags(), &f.choices
	flags.StringVar(&c.Name, "identity", "", "what callers call the identity (default: vm, or app with --application)")
	flags.StringVar(&c.Managed.ClientID, "client-id", "", "client id of a user-assigned managed identity (default: the VM's own)")
	flags.StringVar(&c.Managed.ObjectID, "object-id", "", "object id of one")
	flags.StringVar(&c.Managed.ResourceID, "resource-id", "", "ARM resource id of one")
	flags.StringVar(&c.Application, "application", "", "client id of an application that trusts the managed identity (federated credential)")
	flags.StringVar(&c.Tenant, "tenant", "", "the application's tenant: a GUID or a domain")
	flags.StringVar(&c.Bound, "bound", "", "require, prefer or never: whether credentials are bound to a key of this machine (default: require)")
	flags.StringSliceVar(&c.Users, "user", nil, "a user who may have tokens, by name or number; again for another")
	flags.StringSliceVar(&c.Groups, "group", nil, "a group whose members may")
	flags.StringSliceVar(&c.Units, "unit", nil, "a systemd service that may, as in web.service")
	flags.StringSliceVar(&c.Resources, "resource", nil, `what tokens may be for, as in https://vault.azure.net; "*" for any`)
	flags.StringSliceVar(&c.Types, "type", nil, "types of tokens: bearer, mtls_pop (default: bearer)")
	flags.BoolVar(&c.AppService, "app-service", false, "serve programs that know nothing of keyagent, too, at "+setup.AppServiceAddress)
	flags.StringVar(&c.TPM, "tpm", "", "the TPM: device:/dev/tpmrm0, unix:/path or tcp:host:port (default: what is found)")
	flags.StringVar(&f.base, "base", "", "a file of settings for all machines, without identities and rules, that the configuration begins with")
	flags.StringVar(&f.user, "agent-user", "", "the user that the agent runs as (default: "+packageUser+")")
	flags.BoolVar(&f.yes, "yes", false, "write without asking")
	flags.BoolVar(&f.dryRun, "dry-run", false, "show everything, and write nothing")
	flags.BoolVar(&f.print, "print", false, "print the configuration alone, and write nothing; the rest goes to standard error")
	flags.BoolVar(&f.force, "force", false, "replace a configuration that is there, and keep the old one beside it")
	flags.BoolVar(&f.json, "json", false, "print JSON; nothing is asked for")
}

// check finds flags that exclude each other.
func (f *setupFlags) check() error {
	count := func(set ...bool) (n int) {
		for _, s := range set {
			if s {
				n++
			}
		}
		return n
	}
	m := f.choices.Managed
	switch {
	case count(m.ClientID != "", m.ObjectID != "", m.ResourceID != "") > 1:
		return usagef("--client-id, --object-id and --resource-id say the same: give one of them")
	case count(f.yes, f.dryRun, f.print) > 1:
		return usagef("--yes, --dry-run and --print exclude each other")
	case f.json && f.print:
		return usagef("--json and --print exclude each other: the JSON has the configuration, too")
	}
	return nil
}

// setupReport is what setup prints as JSON.
type setupReport struct {
	File string `json:"file"`
	*setup.Proposal
	Changes []string `json:"changes,omitempty"` // of the configuration that is there
	Written bool     `json:"written"`
	Kept    string   `json:"kept,omitempty"` // the name of the one before
}

// setup proposes, asks and writes.
func (a *app) setup(ctx context.Context, f setupFlags) error {
	if err := f.check(); err != nil {
		return err
	}
	path, err := filepath.Abs(a.configPath)
	if err != nil {
		return err
	}
	ask := a.questions(f)
	base, err := f.readBase()
	if err != nil {
		return configError{err}
	}
	if err := ask.missing(ctx, &f.choices); err != nil {
		return err
	}
	f.choices.Path = path
	f.user = agentUser(f.user)
	facts, err := awaited(ctx, a, "looking at TPM and metadata service", func() (setup.Facts, error) {
		return inspect.Machine(ctx, inspect.Options{Base: base, Choices: &f.choices, User: f.user, Version: version}), ctx.Err()
	})
	if err != nil {
		return err
	}
	proposal, err := setup.Propose(facts, f.choices, words{})
	if unbound, ok := errors.AsType[*setup.UnboundError](err); ok && ask.unbound(ctx, unbound) {
		f.choices.Bound = config.BoundPrefer
		proposal, err = setup.Propose(facts, f.choices, words{})
	}
	if err != nil {
		return explainProposal(err)
	}
	report := setupReport{File: path, Proposal: proposal}
	err = a.settle(ctx, f, &report, ask)
	if f.json {
		return errors.Join(err, a.printJSON(report))
	}
	return err
}

// settle shows the proposal, and writes it if the user wants that.
func (a *app) settle(ctx context.Context, f setupFlags, r *setupReport, ask *questions) error {
	a.showProposal(f, r.Proposal)
	if err := errors.Join(a.checkProposal(ctx, r.Config), checkFilesFor(f.user, r.Config)); err != nil {
		return err
	}
	if f.print {
		_, err := io.WriteString(a.out, r.Text)
		return err
	}
	there, err := readExisting(r.File)
	if err != nil {
		return err
	}
	if there == r.Text {
		a.setupSays(f, "%s is there already as it would be written: nothing is changed\n", r.File)
		a.showNext(f, r)
		return nil
	}
	if there != "" {
		r.Changes = setup.Changes(there, r.Text)
	}
	a.showText(f, r)
	switch {
	case f.dryRun:
		a.setupSays(f, "nothing was written (--dry-run)\n")
		return nil
	case there != "" && !f.force:
		return advice.To(fmt.Errorf("%s is there, and differs from the proposal: nothing was written", r.File),
			"take over the right parts by hand, or replace the file and keep the old one beside it: %s", advice.Run(advice.Setup, "", advice.Force))
	case !ask.mayWrite(ctx, f, r.File):
		return advice.To(errors.New("nothing was written"), "say yes, or where nobody can be asked, --yes")
	}
	return a.install(ctx, f, r)
}

// install writes the configuration, and reads it as the agent will.
func (a *app) install(ctx context.Context, f setupFlags, r *setupReport) error {
	how, err := installation(f)
	if err != nil {
		return err
	}
	if r.Kept, err = statefile.Install(r.File, []byte(r.Text), how); err != nil {
		return err
	}
	r.Written = true
	if _, _, err := a.loadConfigFrom(ctx); err != nil {
		if _, off := errors.AsType[*rulebook.OffError](err); !off {
			return err
		}
	}
	a.setupSays(f, "%s was written\n", r.File)
	if r.Kept != "" {
		a.setupSays(f, "the one before is kept as %s\n", r.Kept)
	}
	a.showNext(f, r)
	return nil
}

// installation is for the agent's user to read, and for root alone to write. An agent that runs as
// the user of this process has a file of that user's.
func installation(f setupFlags) (statefile.Installation, error) {
	how := statefile.Installation{Mode: 0o600, GID: -1, Replace: f.force}
	account, err := accounts.Finder{}.Account(f.user)
	switch {
	case os.Geteuid() == 0 && (errors.Is(err, accounts.ErrUnknown) || err == nil && account.UID == 0):
		how.Mode = 0o644 // the user is still to be made; there is nothing secret in it
	case os.Geteuid() == 0 && err != nil:
		return how, advice.To(fmt.Errorf("who may read the configuration cannot be found out: %w", err), "see that /etc/passwd and /etc/group can be read and are whole")
	case os.Geteuid() == 0:
		how.Mode, how.GID = 0o640, int(account.GID)
	case err != nil || int64(account.UID) != int64(os.Geteuid()):
		return how, advice.To(fmt.Errorf("the configuration of an agent that runs as %s is for root to write: another user could change it", f.user),
			"run it as root: sudo %s; or, for an agent that runs as you, name yourself with --agent-user", advice.Run(advice.Setup, ""))
	}
	return how, nil
}

// agentUser is the package's, unless another was named. An agent that an ordinary user sets up
// where the package is not installed runs as that user.
func agentUser(named string) string {
	if named != "" || os.Geteuid() == 0 {
		return cmp.Or(named, packageUser)
	}
	if _, err := (accounts.Finder{}).Account(packageUser); err == nil {
		return packageUser
	}
	return accounts.NameOf(uint32(os.Geteuid())) //nolint:gosec // a uid
}

func (f *setupFlags) readBase() (*config.Config, error) {
	if f.base == "" {
		return config.Default(), nil
	}
	part, text, err := config.LoadPart(f.base)
	if err != nil {
		return nil, err
	}
	f.choices.Base, f.choices.BaseName = text, f.base
	return part.Config, nil
}

// maxExisting is above what a configuration may have.
const maxExisting = 2 << 20

// readExisting returns the text of the configuration's file, "" if there is none.
func readExisting(path string) (string, error) {
	file, err := os.Open(path) // #nosec G304 -- the operator's choice
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxExisting))
	if err == nil && len(text) == 0 {
		text = []byte("\n") // it is there
	}
	return string(text), err
}

// checkProposal looks at what the configuration names on this machine, as the agent would. Users
// who are yet to be created keep a rule out of force, and are among the decisions.
func (a *app) checkProposal(ctx context.Context, cfg *config.Config) error {
	err := a.during(ctx, "looking for users and groups", func() error { return daemon.Check(ctx, cfg) })
	if _, off := errors.AsType[*rulebook.OffError](err); off {
		return nil
	}
	return err
}

// explainProposal says which of the operator's choices is at fault.
func explainProposal(err error) error {
	if _, ok := errors.AsType[*setup.UnboundError](err); ok {
		return advice.To(err, "choose to do without for now: %s; the agent then says of each such token that it is not bound, and binds them once the host can", advice.Bound)
	}
	if errors.Is(err, setup.ErrNoTPM) {
		return advice.To(err, "run this as root, who may open every TPM; name another with --tpm; or give the machine one: on Azure, choose a Confidential VM")
	}
	return usageError{err}
}

// setupSays is for people: with --json and --print, standard output has another use.
func (a *app) setupSays(f setupFlags, format string, args ...any) {
	switch {
	case f.json:
	case f.print:
		fmt.Fprintf(a.err, format, args...)
	default:
		fmt.Fprintf(a.out, format, args...)
	}
}

func (a *app) showProposal(f setupFlags, p *setup.Proposal) {
	for _, d := range p.Decisions {
		a.setupSays(f, "%-4s  %s: %s\n      %s\n", d.Verdict, printable(d.About), printable(d.Choice), printableLines(d.Why))
	}
}

func (a *app) showText(f setupFlags, r *setupReport) {
	shown := r.Changes
	title := "this would be written to " + r.File + ":"
	if shown != nil {
		title = "this would change in " + r.File + ":"
	} else {
		shown = strings.Split(strings.TrimSuffix(r.Text, "\n"), "\n")
	}
	a.setupSays(f, "\n%s\n", title)
	for _, line := range shown {
		a.setupSays(f, "  %s\n", printable(line))
	}
	a.setupSays(f, "\n")
}

func (a *app) showNext(f setupFlags, r *setupReport) {
	if r.Kept != "" { // an agent may run
		r.Next[0] = "keyagent reload, or where none runs yet: " + r.Next[0]
	}
	a.setupSays(f, "next:\n")
	for _, line := range slices.Concat(r.Before, r.Next) {
		a.setupSays(f, "  %s\n", printable(line))
	}
}
