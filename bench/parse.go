package main

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/keyagent/keyagent/bench/series"
)

// A line is one result of `go test -bench`: a name without the -N of GOMAXPROCS, and
// its metrics by unit.
type line struct {
	name    string
	metrics map[string]float64
}

var procs = regexp.MustCompile(`-\d+$`)

// parse finds the result lines in go test's output and passes over everything else.
func parse(out string) []line {
	var lines []line
	for text := range strings.Lines(out) {
		if l, ok := parseLine(text); ok {
			lines = append(lines, l)
		}
	}
	return lines
}

// parseLine reads "BenchmarkName-2  <iterations>  <value> <unit>  <value> <unit> …".
func parseLine(text string) (line, bool) {
	fields := strings.Fields(text)
	if len(fields) < 4 || len(fields)%2 != 0 || !strings.HasPrefix(fields[0], "Benchmark") {
		return line{}, false
	}
	metrics := map[string]float64{}
	for i := 2; i < len(fields); i += 2 {
		value, err := strconv.ParseFloat(fields[i], 64)
		if err != nil {
			return line{}, false
		}
		metrics[fields[i+1]] = value
	}
	return line{procs.ReplaceAllString(fields[0], ""), metrics}, true
}

// logged is a line that a benchmark logged, told with the place in the source.
var logged = regexp.MustCompile(`^\s+\S+\.go:\d+: (.*)`)

// parseSkips finds the benchmarks that were skipped, and why: the last line that they logged.
func parseSkips(out string) map[string]string {
	skipped, reason := map[string]string{}, ""
	for text := range strings.Lines(out) {
		if match := logged.FindStringSubmatch(text); match != nil {
			reason = match[1]
		}
		if name, ok := strings.CutPrefix(strings.TrimSpace(text), "--- SKIP: "); ok {
			name, _, _ = strings.Cut(name, " ")
			skipped[procs.ReplaceAllString(name, "")] = reason
		}
	}
	return skipped
}

// parseSeries finds the series for plots. Of several runs' it takes the last.
func parseSeries(out string) []series.Series {
	var all []series.Series
	for text := range strings.Lines(out) {
		s, ok := series.Parse(text)
		if !ok {
			continue
		}
		same := func(other series.Series) bool { return other.Plot == s.Plot && other.Name == s.Name }
		all = append(slices.DeleteFunc(all, same), s)
	}
	return all
}
