// Command bench runs every committed comparison and says who won.
//
// A comparison is a benchmark that measures ours and a reference alternately in the same
// process, so that a busy machine slows both, and reports the pair with b.ReportMetric as
// "ours-UNIT" and "reference-UNIT", or, where there are several pairs, with a word before
// the unit: "ours-p99-UNIT" and "reference-p99-UNIT". The benchmarks live beside what they
// measure, or, where the reference is another project's code, in packages peers and callers
// of this module; which of their pairs are comparisons, and what bar each has to reach, is the
// table in suite.go, roads.go and peers.go. The ratio is always ours / reference. Where there
// is nobody to be compared with, the reference is what it may cost: a number of requests,
// nanoseconds, kilobytes.
//
// The program prints a table and writes bench/results.json. A bar that is missed is
// shown as missed and is no failure: machines differ, and the number is the message. A
// comparison that did not run is one, and the program ends with status 1.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"path/filepath"
)

func main() {
	repo := flag.String("repo", "..", "folder of the main module")
	count := flag.Int("count", 5, "runs of each benchmark; the one with the median ratio is taken")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout, *repo, *count); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, w io.Writer, repo string, count int) error {
	all := suite()
	measured := map[benchmark]measurement{}
	for _, b := range benchmarks(all) {
		runs := cmp.Or(b.runs, count)
		fmt.Fprintf(w, "measuring %s in %s, %d runs\n", b.name, path.Join(b.module, b.pkg), runs)
		measured[b] = measure(ctx, repo, b, runs)
	}
	results, failed := judge(all, measured)
	printTable(w, results, failed)
	if err := writeResults(filepath.Join(repo, "bench", "results.json"), results); err != nil {
		return err
	}
	if len(failed) > 0 {
		return fmt.Errorf("%d of %d comparisons did not run", len(failed), len(all))
	}
	return nil
}

// judge finds each comparison's result in what was measured.
func judge(all []comparison, measured map[benchmark]measurement) (results []result, failed []failure) {
	for _, c := range all {
		m := measured[c.of]
		if m.err != nil {
			failed = append(failed, failure{c, m.err})
			continue
		}
		r, err := c.judge(m.lines)
		if err != nil {
			failed = append(failed, failure{c, err})
			continue
		}
		results = append(results, r)
	}
	return results, failed
}

// A measurement is what came out of one benchmark function.
type measurement struct {
	lines []line
	err   error
}

// measure runs one benchmark function with all its sub-benchmarks.
func measure(ctx context.Context, repo string, b benchmark, runs int) measurement {
	args := []string{"test", "-run", "^$", "-bench", "^" + b.name + "$", "-count", fmt.Sprint(runs), "-timeout", "20m"}
	if b.time != "" {
		args = append(args, "-benchtime", b.time)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, b.pkg)...)
	cmd.Dir = filepath.Join(repo, b.module)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return measurement{err: fmt.Errorf("go test -bench %s %s: %w\n%s", b.name, b.pkg, err, out)}
	}
	return measurement{lines: parse(string(out))}
}

func writeResults(path string, results []result) error {
	if results == nil {
		results = []result{} // an array in any case
	}
	out, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(out, '\n'), 0o644)
}
