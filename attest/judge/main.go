// Command judge judges files of evidence with this module's own verifier, for people who do not
// take our word for it: each case states the expected outcome for its evidence, and judge prints
// the actual one.
//
//	go run ./attest/judge -cases testdata/azure-cvm/cases.json
//
// The format of the file is described in testdata/azure-cvm/README.md. Nothing is fetched, and no
// clock is read: each case names its time.
//
// The exit status is 0 if every case came out as it says, 1 if one did not or could not be read,
// and 2 if there was nothing to judge: no such file, another format, or no case in it.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/keyagent/keyagent/attest/judge/cases"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("judge", flag.ContinueOnError)
	flags.SetOutput(stderr)
	name := flags.String("cases", "", "file of cases, of the format "+cases.Format)
	asJSON := flags.Bool("json", false, "print one JSON document instead of a line for each case")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if *name == "" || flags.NArg() > 0 {
		_, _ = fmt.Fprintln(stderr, "usage: judge -cases FILE [-json]")
		return 2
	}
	file, err := cases.Open(*name)
	if err != nil {
		_, _ = fmt.Fprintln(stderr, "judge:", err)
		return 2
	}
	report := file.Judge()
	show := printLines
	if *asJSON {
		show = printJSON
	}
	if err := show(stdout, report); err != nil {
		_, _ = fmt.Fprintln(stderr, "judge:", err)
		return 2
	}
	if report.Failed > 0 {
		return 1
	}
	return 0
}

func printJSON(w io.Writer, report *cases.Report) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", " ")
	return enc.Encode(report)
}

func printLines(w io.Writer, report *cases.Report) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, o := range report.Cases {
		state := "ok"
		if !o.AsExpected {
			state = "FAIL"
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\texpected %s\tgot %s\t%s\n", state, printable(o.ID), printable(o.Expected), o.Got, strings.Join(o.FailedChecks(), " "))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, o := range report.Cases {
		for _, p := range o.Problems {
			_, _ = fmt.Fprintf(w, "%s: %s\n", printable(o.ID), printable(p))
		}
		for _, n := range o.Notes {
			_, _ = fmt.Fprintf(w, "%s: note: %s\n", printable(o.ID), printable(n))
		}
	}
	for _, n := range report.Notes {
		_, _ = fmt.Fprintf(w, "note: %s\n", printable(n))
	}
	_, err := fmt.Fprintf(w, "%d of %d cases came out as expected\n", len(report.Cases)-report.Failed, len(report.Cases))
	return err
}

// printable keeps what a file of cases says from moving the terminal's cursor.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}
