package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/fleet"
	"github.com/keyagent/keyagent/attest/formats"
	"github.com/keyagent/keyagent/attest/report"
)

// fleetLine is the JSON of one file; docs/attestation.md describes it.
type fleetLine struct {
	File        string         `json:"file"`
	Verified    bool           `json:"verified"`
	Error       string         `json:"error,omitempty"`
	SameMachine string         `json:"same_machine_as,omitempty"`
	Report      *report.Report `json:"report"`
}

// verifyFleet verifies each file of a directory.
func (a *app) verifyFleet(ctx context.Context, f verifyFlags, q report.Question) error {
	cfg := fleet.Config{Dir: f.evidence, Question: q, Workers: runtime.GOMAXPROCS(0), SameMachine: f.sameMachine}
	if err := f.fleetChallenges(a, &cfg); err != nil {
		return err
	}
	if f.explain && !f.asJSON {
		if err := a.explain(f, q); err != nil {
			return err
		}
		fmt.Fprintln(a.out)
	}
	pages, err := newFleetPages(f, q)
	if err != nil {
		return err
	}
	result, err := a.newFleetResult(f, q)
	if err != nil {
		return err
	}
	sum, err := fleet.Verify(ctx, cfg, func(row fleet.Row) error { return errors.Join(a.tellRow(f, row, result), pages.add(row)) })
	if err != nil {
		return err
	}
	if err := errors.Join(a.tellSummary(f, sum, result), pages.end(sum)); err != nil {
		return err
	}
	switch {
	case sum.Files == 0:
		return fmt.Errorf("not verified: no file in %s ends in %s", f.evidence, fleet.Suffix)
	case !sum.OK:
		return fmt.Errorf("not verified: %d of %d files", sum.Files-sum.Verified, sum.Files)
	}
	return nil
}

// fleetChallenges finds out what each file must answer.
func (f verifyFlags) fleetChallenges(a *app, cfg *fleet.Config) error {
	if f.nonces == "" {
		if !f.challenge.none {
			return usagef("a directory of evidence needs --nonces: each machine must have been sent a nonce of its own. For one file, name that file")
		}
		one, err := f.challenge.read(a.in)
		cfg.Challenge = func(string) (*attest.Challenge, error) { return one, nil }
		return err
	}
	if f.challenge.nonce != "" || f.challenge.nonceFile != "" || f.challenge.none {
		return usagef("--nonces excludes --nonce, --nonce-file and --no-nonce")
	}
	base, err := f.challenge.base()
	if err != nil {
		return err
	}
	if strings.Contains(f.nonces, fleet.Placeholder) {
		cfg.Challenge = fleet.FromFiles(f.nonces, base)
		if cfg.Expected, err = fleet.Awaited(f.nonces); err != nil {
			return usageError{fmt.Errorf("--nonces: %w", err)}
		}
		return nil
	}
	file, err := os.Open(f.nonces)
	if err != nil {
		return err
	}
	defer file.Close()
	list, err := fleet.ReadList(file, base)
	if err != nil {
		return usageError{fmt.Errorf("%s: %w", f.nonces, err)}
	}
	cfg.Challenge, cfg.Expected = list.Challenge, list.Names()
	return nil
}

// tellRow prints a line about one file.
func (a *app) tellRow(f verifyFlags, row fleet.Row, result *formats.Fleet) error {
	if result != nil {
		return addResult(result, row)
	}
	if f.asJSON {
		line := fleetLine{File: row.Name, Verified: row.Verified(), SameMachine: row.Twin, Report: row.Report}
		if row.Err != nil {
			line.Error = row.Err.Error()
		}
		return a.printJSONLine(line)
	}
	_, err := fmt.Fprintf(a.out, "%s  %s\n", a.reportText().Result(row.Verified()), report.Printable(row.Name+"  "+rowText(row)))
	return err
}

// rowText says which machine it is, or what stands against the file.
func rowText(row fleet.Row) string {
	switch {
	case row.Err != nil:
		return row.Err.Error()
	case row.Twin != "":
		return "the same machine as " + row.Twin
	case row.Report.Verified:
		text := "VM " + row.Report.Facts.VMID
		if key := row.Report.Facts.Key; key != nil {
			text += ", key SHA-256 " + key.SPKISHA256
		}
		return text
	}
	return row.Report.Why()
}

func (a *app) tellSummary(f verifyFlags, sum fleet.Summary, result *formats.Fleet) error {
	if result != nil {
		return result.End()
	}
	if f.asJSON {
		return a.printJSONLine(sum)
	}
	_, err := fmt.Fprintf(a.out, "\n%s\n", summaryText(sum))
	return err
}

func summaryText(sum fleet.Summary) string {
	var parts []string
	for _, p := range []struct {
		n    int
		what string
	}{
		{sum.Verified, "verified"}, {sum.Rejected, "rejected"}, {sum.Missing, "incomplete"}, {sum.Twins, "of a machine that had answered already"}, {sum.Failed, "not read"},
	} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	text := fmt.Sprintf("%d files: %s", sum.Files, cmp.Or(strings.Join(parts, ", "), "none"))
	if sum.Others > 0 {
		text += fmt.Sprintf("; %d more in the directory not looked at: their names do not end in %s", sum.Others, fleet.Suffix)
	}
	return text
}

// isDirectory says whether evidence is a directory of files.
func isDirectory(path string) (bool, error) {
	if path == "-" {
		return false, nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return false, fmt.Errorf("evidence: %w", err)
	}
	return info.IsDir(), nil
}
