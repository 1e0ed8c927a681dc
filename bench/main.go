// Command bench runs every committed comparison and says who won.
//
// A comparison is a benchmark that measures ours and a reference alternately in the same process,
// so that a busy machine slows both, and reports the pair with b.ReportMetric as "ours-UNIT" and
// "reference-UNIT", or, where there are several pairs, with a word before the unit: "ours-p99-UNIT"
// and "reference-p99-UNIT". The benchmarks live beside what they measure, or, where the reference
// is another project's code, in packages peers and callers of this module; the table in suite.go,
// token.go, starts.go and peers.go lists which of their pairs are comparisons, with the bar of
// each. The ratio is always ours / reference. Where there is nobody to be compared with, the
// reference is what it may cost: a number of requests, nanoseconds, kilobytes.
//
// The program prints the rows of each benchmark when it is done, in the end those that missed their
// bar, and writes bench/results.json, and for the plots (see package plots) bench/series.json. A
// bar that is missed is shown as missed and is no failure: machines differ, and the number is the
// message. A comparison that did not run is one, and the program ends with status 1. One that
// cannot be made here, for want of history in a shallow clone, is in the table and in the file with
// the reason. A row without a bar is only shown; in results.json its bar is null, and it is met.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/keyagent/keyagent/bench/series"
)

func main() {
	var o options
	flag.StringVar(&o.repo, "repo", "..", "folder of the main module")
	flag.IntVar(&o.count, "count", 5, "runs of each benchmark; the one with the median ratio is taken")
	only := flag.String("only", "", "regular expression: run these benchmarks, and write their results alone")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var err error
	if o.only, err = regexp.Compile(*only); err == nil {
		err = run(ctx, os.Stdout, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	repo  string
	count int
	only  *regexp.Regexp
}

// file returns the path of a file that is written.
func (o options) file(name string) string { return filepath.Join(o.repo, "bench", name) }

func run(ctx context.Context, w io.Writer, o options) error {
	all := slices.DeleteFunc(suite(), func(c comparison) bool { return !o.only.MatchString(c.of.name) })
	measured := map[benchmark]measurement{}
	points := series.Run{Date: time.Now().UTC().Format(time.DateOnly), Machine: machine()}
	for _, b := range benchmarks(all) {
		runs := cmp.Or(b.runs, o.count)
		fmt.Fprintf(w, "\nmeasuring %s in %s, %d runs\n", b.name, path.Join(b.module, b.pkg), runs)
		m := measure(ctx, o.repo, b, runs)
		if err := ctx.Err(); err != nil {
			return err // somebody interrupted it: the results of an earlier run stay
		}
		measured[b] = m
		points.Series = append(points.Series, m.series...)
		results, failed := evaluate(of(b, all), measured)
		printTable(w, results, failed)
	}
	results, failed := evaluate(all, measured)
	printSummary(w, results, failed)
	if results == nil {
		results = []result{} // an array in any case
	}
	if err := errors.Join(write(o.file("results.json"), results), write(o.file("series.json"), points)); err != nil {
		return err
	}
	if len(failed) > 0 {
		return fmt.Errorf("%d of %d comparisons did not run", len(failed), len(all))
	}
	return nil
}

// of returns the comparisons that a benchmark gives.
func of(b benchmark, all []comparison) (some []comparison) {
	for _, c := range all {
		if c.of == b {
			some = append(some, c)
		}
	}
	return some
}

// machine says where this was measured, and how busy others had it at that time.
func machine() string {
	return fmt.Sprintf("%d processors, %s/%s, %s, simulated TPM, load average %s before",
		runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version(), loadAverage())
}

// loadAverage is the load average of the last minute, as proc_loadavg(5) has it.
func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	minute, _, _ := strings.Cut(string(text), " ")
	return minute
}

// evaluate finds each comparison's result in the measurements.
func evaluate(all []comparison, measured map[benchmark]measurement) (results []result, failed []failure) {
	for _, c := range all {
		m := measured[c.of]
		if m.err != nil {
			failed = append(failed, failure{c, m.err})
			continue
		}
		if reason, ok := c.skippedBy(m.skipped); ok {
			results = append(results, result{Name: c.name, Bar: c.bar, Better: c.better, Skipped: reason})
			continue
		}
		r, err := c.evaluate(m.lines)
		if err != nil {
			failed = append(failed, failure{c, err})
			continue
		}
		results = append(results, r)
	}
	return results, failed
}

// A measurement is the output of one benchmark function.
type measurement struct {
	lines   []line
	skipped map[string]string // benchmarks and sub-benchmarks that could not be run here, and why
	series  []series.Series
	err     error
}

// measure runs one benchmark function with all its sub-benchmarks.
func measure(ctx context.Context, repo string, b benchmark, runs int) measurement {
	// -v is for the reasons of skipped benchmarks.
	args := []string{"test", "-v", "-run", "^$", "-bench", "^" + b.name + "$", "-count", fmt.Sprint(runs), "-timeout", "20m"}
	if b.time != "" {
		args = append(args, "-benchtime", b.time)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, b.pkg)...)
	cmd.Dir = filepath.Join(repo, b.module)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return measurement{err: fmt.Errorf("go test -bench %s %s: %w\n%s", b.name, b.pkg, err, out)}
	}
	said := string(out)
	return measurement{lines: parse(said), skipped: parseSkips(said), series: parseSeries(said)}
}

func write(path string, content any) error {
	out, err := json.MarshalIndent(content, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(out, '\n'), 0o644)
}
