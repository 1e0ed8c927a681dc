// Command bench runs every committed comparison and says who won.
//
// A comparison is a benchmark that measures ours and a reference alternately in the same
// process, so that a busy machine slows both, and reports the pair with b.ReportMetric as
// "ours-UNIT" and "reference-UNIT", or "ours-p99-UNIT" and "reference-p99-UNIT". The benchmarks live beside what they measure; which
// of their pairs are comparisons, and what bar each has to reach, is the table in
// suite.go. The ratio is always ours / reference.
//
// The program prints a table and writes bench/results.json. A bar that is missed is
// shown as missed and is no failure: machines differ, and the number is the message. A
// comparison that did not run is one, and the program ends with status 1.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
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
	measured := map[string][]line{}
	failures := map[string]error{}
	for _, b := range benchmarks(suite) {
		fmt.Fprintf(w, "measuring %s in %s, %d runs\n", b.name, b.pkg, count)
		lines, err := measure(ctx, repo, b, count)
		failures[b.name] = err
		measured[b.name] = lines
	}
	var results []result
	var failed []failure
	for _, c := range suite {
		r, err := c.judge(measured[c.bench])
		if failures[c.bench] != nil {
			err = failures[c.bench]
		}
		if err != nil {
			failed = append(failed, failure{c, err})
			continue
		}
		results = append(results, r)
	}
	printTable(w, results, failed)
	if err := writeResults(filepath.Join(repo, "bench", "results.json"), results); err != nil {
		return err
	}
	if len(failed) > 0 {
		return fmt.Errorf("%d of %d comparisons did not run", len(failed), len(suite))
	}
	return nil
}

// measure runs one benchmark function with all its sub-benchmarks.
func measure(ctx context.Context, repo string, b benchmark, count int) ([]line, error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^"+b.name+"$",
		"-count", fmt.Sprint(count), "-timeout", "10m", b.pkg)
	cmd.Dir = repo
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("go test -bench %s %s: %w\n%s", b.name, b.pkg, err, out)
	}
	return parse(string(out)), nil
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
