package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/formats"
	"github.com/keyagent/keyagent/attest/policyfile"
	"github.com/keyagent/keyagent/attest/report"
)

// maxEvidenceFile is the largest file that is read, in bytes; package attest has limits for each
// part.
const maxEvidenceFile = 4 << 20

// verifyFlags name the evidence and the conditions that it must meet.
type verifyFlags struct {
	evidence  string
	challenge challengeFlags
	nonces    string
	policy    string
	intel     []string // directories
	at        string
	html      string
	format    string
	asJSON    bool
	explain   bool

	sameMachine bool
}

func (a *app) verifyCommand() *cobra.Command {
	var f verifyFlags
	cmd := &cobra.Command{
		Use:   "verify --evidence FILE|DIR (--nonce HEX | --nonce-file FILE | --nonces FILE|TEMPLATE)",
		Short: "Verify a machine's evidence, offline",
		Long: `Verify evidence that keyagent attest made on another machine: that a key lives in the
TPM of a genuine Azure Confidential VM, cannot leave it, and was there when the machine
got your nonce. Each step of the chain from your nonce to the processor's maker is a
check with its reason; what is proven, by whom, and what is not, comes at the end.
Nothing is asked over the network.

The nonce is the one that you gave to the machine: 16 to 64 bytes, new for each request.
Evidence that is not held to a nonce may be old or somebody else's, so it is never
verified: --no-nonce shows all other checks and ends with exit code 1, whatever they say.
--audience must be what keyagent attest was given.

With a directory, each file in it that ends in .json is verified, on all processors: a
line each, then a summary. --nonces is a file with a line "NAME NONCE" for each machine,
or a path with {name} in it, as in nonces/{name}, for a file for each. A machine that
is in the list and has not answered, and a second file of one machine, count as not
verified. With --json, each line is JSON, the last one is the summary.

Without --policy the default policy holds (docs/attestation.md): genuine hardware, no
debugging, Azure's paravisor, a key that cannot leave its TPM, PCRs 0 to 7 quoted. --explain
prints the policy in force, also without evidence.

Exit code 0 means that all of it holds, 1 that it does not or that something failed,
2 wrong usage or a policy that cannot be used.`,
		Example: `  keyagent verify --evidence vm.json --nonce "$NONCE" --audience https://verifier.example
  keyagent verify --evidence vm.json --nonce-file vm.nonce --policy policy.yaml --json
  keyagent verify --evidence vm.json --nonce-file vm.nonce --html vm.html
  keyagent verify --evidence vm.json --nonce-file vm.nonce --format ear >vm.ear.json
  keyagent verify --evidence fleet/ --nonces 'nonces/{name}' --audience https://verifier.example
  keyagent verify --explain --policy policy.yaml
  keyagent verify --evidence old.json --nonce "$NONCE" --at 2026-06-01T12:00:00Z`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.verify(cmd.Context(), f) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.evidence, "evidence", "", "file with the evidence (- is standard input), or directory with files")
	flags.StringVar(&f.nonces, "nonces", "", "for a directory: file with names and nonces, or path of each nonce with {name} in it")
	flags.BoolVar(&f.sameMachine, "allow-same-machine", false, "for a directory: several files may be of one machine, as where it has several keys")
	flags.StringVar(&f.policy, "policy", "", "file with the policy, YAML or JSON (default: the default policy)")
	flags.StringArrayVar(&f.intel, "tdx-collateral", nil, "directory with Intel's collateral, in place of that of policy and evidence; may be repeated")
	flags.StringVar(&f.at, "at", "", "time to verify at, as in 2026-06-01T12:00:00Z (default: now)")
	flags.StringVar(&f.html, "html", "", "write a page to be filed (mode 0600): one file that needs nothing else; for a directory of evidence, a directory")
	flags.BoolVar(&f.asJSON, "json", false, "print JSON (docs/attestation.md has its members)")
	flags.StringVar(&f.format, "format", "", "form of the result: text, json, or a form of others (docs/formats.md): ear, and for one file ear-veraison")
	flags.BoolVar(&f.explain, "explain", false, "print what the policy asks, check by check")
	f.challenge.add(cmd)
	return cmd
}

func (a *app) verify(ctx context.Context, f verifyFlags) error {
	if err := f.checkFormat(); err != nil {
		return err
	}
	q, err := f.question()
	if err != nil {
		return err
	}
	if f.evidence == "" {
		if !f.explain {
			return usagef("--evidence is needed: the file that keyagent attest wrote")
		}
		return a.explain(f, q)
	}
	fleet, err := isDirectory(f.evidence)
	switch {
	case err != nil:
		return err
	case fleet && f.format != "" && f.format != string(formats.EAR):
		return usagef("--format %s is for one file of evidence: it has room for one nonce", f.format)
	case fleet:
		return a.verifyFleet(ctx, f, q)
	case f.nonces != "" || f.sameMachine:
		return usagef("--nonces and --allow-same-machine are for a directory of evidence")
	}
	if q.Challenge, err = f.challenge.read(a.in); err != nil {
		return err
	}
	bundle, err := a.readEvidence(f.evidence)
	if err != nil {
		return err
	}
	q.File = f.evidence
	return a.tellVerification(f, q, report.Verify(bundle, q))
}

// question has all but the evidence and the challenge.
func (f verifyFlags) question() (report.Question, error) {
	q := report.Question{At: time.Now()}
	if f.at != "" {
		at, err := time.Parse(time.RFC3339, f.at)
		if err != nil {
			return q, usagef("--at %q is not a time such as 2026-06-01T12:00:00Z", f.at)
		}
		q.At = at
	}
	policy := policyfile.Default()
	if f.policy != "" {
		loaded, err := policyfile.Load(f.policy)
		if err != nil {
			return q, usageError{suggestion{err, "docs/attestation.md has all members of a policy, with an example"}}
		}
		policy = *loaded
	}
	if len(f.intel) > 0 {
		if err := policy.ReadCollateral("--tdx-collateral", f.intel); err != nil {
			return q, usageError{err}
		}
	}
	q.Rules, q.Anchors = policy.Rules, policy.Anchors
	q.Policy = report.Policy{File: policy.Origin.File, SHA256: policy.Origin.SHA256}
	for _, n := range policy.Origin.Named {
		q.Policy.Anchors = append(q.Policy.Anchors, report.File{Use: n.Member, File: n.File, SHA256: n.SHA256})
	}
	return q, nil
}

// explain prints the policy in force.
func (a *app) explain(f verifyFlags, q report.Question) error {
	explained := report.Explain(q.Rules, q.Policy)
	if f.asJSON {
		return a.printJSON(explained)
	}
	return a.reportText().Explain(a.out, explained)
}

func (a *app) reportText() report.Text {
	return report.Text{Colours: isTerminal(a.out) && os.Getenv("NO_COLOR") == ""}
}

// readEvidence reads a file, or standard input.
func (a *app) readEvidence(path string) ([]byte, error) {
	in := a.in
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("evidence: %w", err)
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxEvidenceFile+1))
	if err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	if len(data) > maxEvidenceFile {
		return nil, fmt.Errorf("evidence: %s has more than %d bytes, which no evidence has", path, maxEvidenceFile)
	}
	return data, nil
}

// tellVerification prints the findings. Evidence that is not verified is an error.
func (a *app) tellVerification(f verifyFlags, q report.Question, found *report.Report) error {
	err := a.writePage(f, q, found)
	if err == nil && f.html != standardOutput {
		err = a.printReport(f, q, found)
	}
	if err != nil {
		return err
	}
	if !found.Verified {
		return notVerified(found)
	}
	return nil
}

func (a *app) printReport(f verifyFlags, q report.Question, found *report.Report) error {
	if f.format != "" {
		return a.printResult(formats.Format(f.format), q, found)
	}
	if f.asJSON {
		if f.explain {
			explained := report.Explain(q.Rules, q.Policy)
			found.Explanation = &explained
		}
		return a.printJSON(found)
	}
	if f.explain {
		if err := a.explain(f, q); err != nil {
			return err
		}
		fmt.Fprintln(a.out)
	}
	return a.reportText().Write(a.out, found)
}

// notVerified is the error about evidence that does not hold.
func notVerified(found *report.Report) error {
	if found.Challenge == nil {
		return errors.New("not verified: there was no nonce, so the evidence may be old or somebody else's")
	}
	if n := len(found.Hindrances()); n > 0 {
		return fmt.Errorf("not verified: %d of %d checks stand against it", n, len(found.Checks))
	}
	return fmt.Errorf("not verified: %s", attest.Incomplete)
}
