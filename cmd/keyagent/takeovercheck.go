package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyagent/keyagent/internal/advice"
	"github.com/keyagent/keyagent/internal/doctor"
	"github.com/keyagent/keyagent/internal/takeover"
)

// legacyTables is where the kernel lists the tables of iptables that nft does not show.
const legacyTables = "/proc/net/ip_tables_names"

// nftTimeout bounds how long nft may take to list all rules.
const nftTimeout = 30 * time.Second

func (a *app) takeoverCheckCommand() *cobra.Command {
	var asJSON bool
	var file string
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Say whether the takeover works",
		Long: `Say whether the takeover works. Root compares the firewall's rules with what they
should be, and looks for rules of others in the way. A user who is taken over tries what a
program of theirs would: IMDS, and ways around the agent. Nothing is changed, and nothing
is asked of IMDS itself.

Each check ends with ok, warn or fail, and says what to do. Exit code 0 means that
nothing failed.`,
		Example: `  keyagent takeover check
  runuser -u www-data -- keyagent takeover check --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			look := a.tryTakeover
			if os.Geteuid() == 0 {
				look = func(ctx context.Context) ([]takeover.Finding, error) { return a.lookAtTakeover(ctx, file) }
			}
			found, err := look(cmd.Context())
			if err != nil {
				return err
			}
			diagnosis := takeoverDiagnosis(found)
			if err := a.printDiagnosis(diagnosis, asJSON); err != nil {
				return err
			}
			if !diagnosis.OK {
				return errors.New("the takeover does not work; see what failed above")
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().StringVar(&file, "file", nftFile, "where the rules are that are loaded at boot")
	return cmd
}

// takeoverDiagnosis says what to do about the findings.
func takeoverDiagnosis(found []takeover.Finding) doctor.Diagnosis {
	d := doctor.Diagnosis{OK: true}
	for _, f := range found {
		action := ""
		if f.Load {
			action = fmt.Sprintf("as root: keyagent takeover print >%[1]s && nft -f %[1]s, or systemctl reload-or-restart keyagent-takeover.service in the place of the latter", nftFile)
		}
		d.Findings = append(d.Findings, doctor.Finding{Check: f.Check, Verdict: f.Verdict, Detail: f.Detail, Action: action})
		d.OK = d.OK && f.Verdict != takeover.Fail
	}
	return d
}

// lookAtTakeover is the check of root.
func (a *app) lookAtTakeover(ctx context.Context, file string) ([]takeover.Finding, error) {
	plan, err := a.takeoverPlan(ctx)
	if err != nil {
		return nil, err
	}
	listing, err := listRules(ctx)
	if err != nil {
		return nil, err
	}
	found := plan.Check(listing)
	return append(found, legacyFinding(), fileFinding(plan, file)), nil
}

// listRules asks nft for all rules.
func listRules(ctx context.Context) (*takeover.Listing, error) {
	ctx, cancel := context.WithTimeout(ctx, nftTimeout)
	defer cancel()
	program, err := exec.LookPath(nftProgram)
	if err != nil {
		if program, err = exec.LookPath("nft"); err != nil {
			return nil, advice.To(fmt.Errorf("listing the firewall's rules: %w", err), "install nftables")
		}
	}
	var said bytes.Buffer
	nft := exec.CommandContext(ctx, program, "-j", "list", "ruleset") //nolint:gosec // the nft of root
	nft.Stderr = &said
	out, err := nft.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := nft.Start(); err != nil {
		return nil, fmt.Errorf("listing the firewall's rules: %w", err)
	}
	listing, err := takeover.Read(out)
	if ended := nft.Wait(); ended != nil {
		return nil, fmt.Errorf("listing the firewall's rules: %w: %.300s", ended, strings.TrimSpace(said.String()))
	}
	return listing, err
}

// legacyFinding says whether there may be rules that nft does not show.
func legacyFinding() takeover.Finding {
	text, err := os.ReadFile(legacyTables)
	if err == nil {
		for _, table := range strings.Fields(string(text)) {
			if slices.Contains([]string{"nat", "mangle", "raw"}, table) {
				return takeover.Finding{Check: "iptables", Verdict: takeover.Warn, Detail: "there is a table " + table + " of the older iptables, whose rules nft does not show; iptables-legacy-save lists them"}
			}
		}
	}
	return takeover.Finding{Check: "iptables", Verdict: takeover.OK, Detail: "there are no tables of the older iptables in the way"}
}

// fileFinding compares the file that is loaded at boot.
func fileFinding(plan takeover.Plan, file string) takeover.Finding {
	text, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return takeover.Finding{Check: "file", Verdict: takeover.Warn, Detail: file + " is not there: after a boot nothing is taken over", Load: true}
	case err != nil:
		return takeover.Finding{Check: "file", Verdict: takeover.Warn, Detail: err.Error()}
	case string(text) != plan.Ruleset():
		return takeover.Finding{Check: "file", Verdict: takeover.Warn, Detail: file + " differs from the file that the configuration makes now: after a boot other rules are loaded", Load: true}
	}
	return takeover.Finding{Check: "file", Verdict: takeover.OK, Detail: file + " is the file that the configuration makes"}
}

// tryTakeover checks the redirection for the calling user, also if they may not read the
// configuration.
func (a *app) tryTakeover(ctx context.Context) ([]takeover.Finding, error) {
	var port uint16
	switch plan, err := a.takeoverPlan(ctx); {
	case errors.Is(err, fs.ErrPermission):
	case err != nil:
		return nil, err
	case !plan.Takes(uint32(os.Geteuid())): //nolint:gosec // a uid
		return nil, usageError{fmt.Errorf("uid %d is not taken over: run this as root, or as a user who is", os.Geteuid())}
	default:
		port = plan.Port
	}
	var dialer net.Dialer
	dialer.SetMultipathTCP(false)
	return takeover.Try(ctx, dialer.DialContext, port), nil
}
