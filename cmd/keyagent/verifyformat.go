package main

import (
	"encoding/hex"
	"errors"

	"github.com/keyagent/keyagent/attest/fleet"
	"github.com/keyagent/keyagent/attest/formats"
	"github.com/keyagent/keyagent/attest/report"
)

// checkFormat turns the two forms that have flags or are the usual ones into what those say, and
// leaves the others.
func (f *verifyFlags) checkFormat() error {
	switch f.format {
	case "":
		return nil
	case "text", "json":
		if f.asJSON && f.format == "text" {
			return usagef("--json and --format text exclude each other")
		}
		f.asJSON, f.format = f.format == "json", ""
		return nil
	}
	if _, err := formats.Parse(f.format, append([]formats.Format{"text", "json"}, formats.OfResults()...)); err != nil {
		return usageError{err}
	}
	if f.asJSON || f.explain {
		return usagef("--json and --explain are not for --format %s", f.format)
	}
	return nil
}

// printResult prints a result in a form of others.
func (a *app) printResult(f formats.Format, q report.Question, found *report.Report) error {
	if found.Result() == nil {
		return errors.New("the evidence cannot be read, so there is no result to write; without --format the reason is shown")
	}
	appraisal := appraisalOf(q)
	appraisal.Result = found.Result()
	if q.Challenge != nil {
		appraisal.Nonce = q.Challenge.Nonce
	}
	return formats.WriteResult(visible{a.out}, f, appraisal)
}

// appraisalOf has what is the same for all evidence that is held against one policy.
func appraisalOf(q report.Question) formats.Appraisal {
	of := formats.Appraisal{At: q.At, Build: "keyagent " + version, PolicyIDs: []string{"default"}}
	if q.Policy.SHA256 != "" {
		of.PolicyIDs = []string{"sha-256:" + q.Policy.SHA256}
	}
	return of
}

// newFleetResult begins the form of others in which a fleet's result is printed; nil: none is asked
// for.
func (a *app) newFleetResult(f verifyFlags, q report.Question) (*formats.Fleet, error) {
	if f.format == "" {
		return nil, nil
	}
	return formats.NewFleet(visible{a.out}, appraisalOf(q))
}

// addResult adds a file.
func addResult(to *formats.Fleet, row fleet.Row) error {
	switch {
	case row.Err != nil:
		return to.Add(row.Name, nil, nil, row.Err.Error())
	case row.Report.Result() == nil:
		return to.Add(row.Name, nil, nil, row.Report.Why())
	}
	var nonce []byte
	if c := row.Report.Challenge; c != nil {
		nonce, _ = hex.DecodeString(c.Nonce) // impossible to fail: we have encoded it
	}
	reason := ""
	if row.Twin != "" {
		reason = rowText(row)
	}
	return to.Add(row.Name, row.Report.Result(), nonce, reason)
}
