package main

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

const output = `goos: linux
goarch: amd64
BenchmarkSign/PSS-2     100   900 ns/op   1100 ours-ns   1000 reference-ns   1.1 ratio
BenchmarkSign/PSS-2     100   900 ns/op   1500 ours-ns   1000 reference-ns   1.5 ratio
BenchmarkSign/PSS-2     100   900 ns/op   1200 ours-ns   1000 reference-ns   1.2 ratio
BenchmarkSign/PKCS1-2   100   900 ns/op
a line that a test logged: 3 ours-ns
PASS
ok  	github.com/keyagent/keyagent/signer	1.2s
`

func TestParsePassesOverWhatIsNoResult(t *testing.T) {
	lines := parse(output)
	if len(lines) != 4 {
		t.Fatalf("%d lines, want 4: %v", len(lines), lines)
	}
	want := line{"BenchmarkSign/PSS", map[string]float64{"ns/op": 900, "ours-ns": 1100, "reference-ns": 1000, "ratio": 1.1}}
	if !reflect.DeepEqual(lines[0], want) {
		t.Errorf("first line = %v, want %v", lines[0], want)
	}
}

func TestTheRunWithTheMedianRatioIsTaken(t *testing.T) {
	c := comparison{name: "x", of: benchmark{name: "BenchmarkSign"}, sub: "PSS", pair: "ns", better: lower, bar: 1.25}
	got, err := c.judge(parse(output))
	if err != nil {
		t.Fatal(err)
	}
	want := result{Name: "x", Ours: 1200, Reference: 1000, Unit: "ns", Ratio: 1.2, Bar: 1.25, Better: lower, Met: true}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestABenchmarkWithoutThePairIsAFailure(t *testing.T) {
	c := comparison{of: benchmark{pkg: "./signer", name: "BenchmarkSign"}, sub: "PKCS1", pair: "ns", better: lower}
	if _, err := c.judge(parse(output)); err == nil {
		t.Error("a comparison without numbers was judged")
	}
}

func TestTheBarHoldsInItsDirection(t *testing.T) {
	tests := []struct {
		name   string
		better direction
		ratio  float64
		met    bool
	}{
		{"lower is better and it is below", lower, 0.7, true},
		{"lower is better and it is at the bar", lower, 0.8, true},
		{"lower is better and it is above", lower, 0.9, false},
		{"higher is better and it is above", higher, 0.9, true},
		{"higher is better and it is at the bar", higher, 0.8, true},
		{"higher is better and it is below", higher, 0.7, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := (comparison{better: tt.better, bar: 0.8}).met(tt.ratio); got != tt.met {
				t.Errorf("met = %v, want %v", got, tt.met)
			}
		})
	}
}

func TestAUnitIsWithoutTheWordBeforeIt(t *testing.T) {
	for pair, want := range map[string]string{"ns": "ns", "p99-ns": "ns", "req/s": "req/s", "verified-ns": "ns"} {
		if got := (comparison{pair: pair}).unit(); got != want {
			t.Errorf("%s counts %q, want %q", pair, got, want)
		}
	}
}

func TestABenchmarkThatFailedTakesOnlyItsOwnComparisonsAlong(t *testing.T) {
	good, bad := benchmark{name: "BenchmarkSign"}, benchmark{name: "BenchmarkBroken"}
	all := []comparison{
		{name: "a", of: bad, sub: "PSS", pair: "ns"},
		{name: "b", of: good, sub: "PSS", pair: "ns"},
		{name: "c", of: bad, sub: "PKCS1", pair: "ns"},
	}
	results, failed := judge(all, map[benchmark]measurement{good: {lines: parse(output)}, bad: {err: errNoNumbers}})
	if len(results) != 1 || results[0].Name != "b" {
		t.Errorf("results %v", results)
	}
	if len(failed) != 2 || failed[0].name != "a" || failed[1].name != "c" {
		t.Errorf("failures %v", failed)
	}
}

func TestTheSuiteComparesEachThingOnce(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range suite() {
		if seen[c.name] {
			t.Errorf("%q is compared twice", c.name)
		}
		seen[c.name] = true
		if c.bar <= 0 || c.better != lower && c.better != higher {
			t.Errorf("%q has no bar", c.name)
		}
	}
}

// A benchmark that was renamed would be found missing only by the next who runs them all.
func TestEveryBenchmarkOfTheSuiteExists(t *testing.T) {
	for _, b := range benchmarks(suite()) {
		files, err := filepath.Glob(filepath.Join("..", b.module, b.pkg, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(files, func(name string) bool {
			text, err := os.ReadFile(name)
			return err == nil && strings.Contains(string(text), "\nfunc "+b.name+"(")
		}) {
			t.Errorf("%s is not in %s", b.name, filepath.Join(b.module, b.pkg))
		}
	}
}

func TestTheTableTellsAFailureOnce(t *testing.T) {
	var b strings.Builder
	printTable(&b, nil, []failure{{comparison{name: "one"}, errNoNumbers}, {comparison{name: "two"}, errNoNumbers}})
	if n := strings.Count(b.String(), errNoNumbers.Error()); n != 1 {
		t.Errorf("the reason is told %d times:\n%s", n, b.String())
	}
	if n := strings.Count(b.String(), "failed"); n != 2 {
		t.Errorf("%d rows are failed, want 2:\n%s", n, b.String())
	}
}

func TestTheTableShowsMissedBarsAndFailures(t *testing.T) {
	var b strings.Builder
	printTable(&b,
		[]result{{Name: "one", Ours: 2, Reference: 1, Unit: "ns", Ratio: 2, Bar: 1.25, Better: lower}},
		[]failure{{comparison{name: "two"}, errNoNumbers}})
	for _, want := range []string{"missed", "two: no numbers", "<= 1.25", "failed"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, b.String())
		}
	}
}

type testError string

func (e testError) Error() string { return string(e) }

const errNoNumbers = testError("no numbers")
