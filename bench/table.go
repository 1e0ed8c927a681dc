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
	if r.Better == higher {
		return fmt.Sprintf(">= %.2f", r.Bar)
	}
	return fmt.Sprintf("<= %.2f", r.Bar)
}

func met(r result) string {
	if r.Met {
		return "yes"
	}
	return "missed"
}
