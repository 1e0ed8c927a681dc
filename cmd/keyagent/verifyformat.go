package main

import (
	"errors"

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
	appraisal := formats.Appraisal{Result: found.Result(), At: q.At, Build: "keyagent " + version, PolicyIDs: []string{"default"}}
	if q.Challenge != nil {
		appraisal.Nonce = q.Challenge.Nonce
	}
	if q.Policy.SHA256 != "" {
		appraisal.PolicyIDs = []string{"sha-256:" + q.Policy.SHA256}
	}
	return formats.WriteResult(a.out, f, appraisal)
}
