package main

import (
	"regexp"
	"strconv"
	"strings"
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
