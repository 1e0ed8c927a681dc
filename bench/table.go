package main

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// A failure is a comparison that did not run.
type failure struct {
	comparison
	err error
}

func printTable(w io.Writer, results []result, failed []failure) {
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "what\tours\treference\tratio\tbar\tmet")
	for _, r := range results {
		if r.Skipped != "" {
			fmt.Fprintf(t, "%s\t\t\t\t%s\tnot measured: %s\n", r.Name, bar(r), r.Skipped)
			continue
		}
		fmt.Fprintf(t, "%s\t%.0f %s\t%.0f %s\t%.3f\t%s\t%s\n",
			r.Name, r.Ours, r.Unit, r.Reference, r.Unit, r.Ratio, bar(r), met(r))
	}
	for _, f := range failed {
		fmt.Fprintf(t, "%s\t\t\t\t\tfailed\n", f.name)
	}
	t.Flush() //nolint:errcheck // nobody is left to tell
	for i, f := range failed {
		if i > 0 && f.err == failed[i-1].err { //nolint:errorlint // the same benchmark's, which is told once
			continue
		}
		fmt.Fprintf(w, "\n%s: %v\n", f.name, f.err)
	}
}

func bar(r result) string {
	if r.Bar == 0 {
		return "none"
	}
	if r.Better == higher {
		return fmt.Sprintf(">= %.2f", r.Bar)
	}
	return fmt.Sprintf("<= %.2f", r.Bar)
}

func met(r result) string {
	switch {
	case r.Bar == 0:
		return "shown"
	case r.Met:
		return "yes"
	default:
		return "missed"
	}
}

// printSummary ends the run: how many rows there were of each kind, and once more those that missed
// their bar.
func printSummary(w io.Writer, results []result, failed []failure) {
	var yes, withoutBar, skipped int
	var missed []result
	for _, r := range results {
		switch {
		case r.Skipped != "":
			skipped++
		case r.Bar == 0:
			withoutBar++
		case r.Met:
			yes++
		default:
			missed = append(missed, r)
		}
	}
	fmt.Fprintf(w, "\n%d comparisons: %d met their bar, %d missed it, %d have none, %d could not be measured here, %d failed\n",
		len(results)+len(failed), yes, len(missed), withoutBar, skipped, len(failed))
	if len(missed) > 0 {
		printTable(w, missed, nil)
	}
}
