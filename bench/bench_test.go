package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/bench/series"
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

func TestParseIgnoresLinesThatAreNoResults(t *testing.T) {
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
	got, err := c.evaluate(parse(output))
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
	if _, err := c.evaluate(parse(output)); err == nil {
		t.Error("a comparison without numbers was evaluated")
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
	for pair, want := range map[string]string{"ns": "ns", "p99-ns": "ns", "req/s": "req/s", "req/cpu-s": "req/cpu-s", "verified-ns": "ns"} {
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
	results, failed := evaluate(all, map[benchmark]measurement{good: {lines: parse(output)}, bad: {err: errNoNumbers}})
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
		if c.bar < 0 || c.bar == 0 && !mayBeWithoutBar(c.name) || c.better != lower && c.better != higher {
			t.Errorf("%q has no bar", c.name)
		}
	}
}

// mayBeWithoutBar names what is only shown, for which there is a reason: no peer verifies what its
// TPM made, the attestation key signs as often in every build, a simulated TPM answers in no time,
// and no peer looks at more than the hardware's part.
func mayBeWithoutBar(name string) bool {
	besidePeer := strings.HasPrefix(name, "signature, ") && !strings.HasSuffix(name, " + one verification")
	return besidePeer || strings.HasPrefix(name, "the least for who verifies") || strings.Contains(name, "the attestation key as slow") ||
		strings.HasPrefix(name, "evidence made, verified and encoded, simulated TPM") || strings.Contains(name, " of a real machine, claims")
}

func TestAComparisonWithoutABarIsMetAndItsBarIsNull(t *testing.T) {
	r, ok := shown("x", benchmark{name: "BenchmarkSign"}, "PSS", "ns").reading(parse(output)[1])
	if !ok || !r.Met {
		t.Fatalf("got %+v, %v", r, ok)
	}
	text, err := json.Marshal(r)
	if err != nil || !strings.Contains(string(text), `"bar":null`) || strings.Contains(string(text), "skipped") {
		t.Errorf("got %s, %v", text, err)
	}
	text, err = json.Marshal(result{Bar: 1.03})
	if err != nil || !strings.Contains(string(text), `"bar":1.03`) {
		t.Errorf("got %s, %v", text, err)
	}
}

const skipping = `BenchmarkBeside
    bench_test.go:74: commit 2176621 is not here
--- SKIP: BenchmarkBeside
BenchmarkPart
BenchmarkPart/one
    bench_test.go:80: not here either
--- SKIP: BenchmarkPart/one
BenchmarkPart/two
    bench_test.go:90: series: {"plot":"p","name":"n","x":[1],"y":[2]}
    bench_test.go:90: series: {"plot":"p","name":"n","x":[1],"y":[3]}
BenchmarkPart/two-2     1   900 ns/op   1100 ours-ns   1000 reference-ns
PASS
`

func TestABenchmarkThatCannotRunHereIsARowWithTheReason(t *testing.T) {
	whole, part := benchmark{name: "BenchmarkBeside"}, benchmark{name: "BenchmarkPart"}
	all := []comparison{
		{name: "a", of: whole, sub: "warm", pair: "ms", better: lower, bar: 0.35},
		{name: "b", of: part, sub: "one", pair: "ns", better: lower, bar: 1},
		{name: "c", of: part, sub: "two", pair: "ns", better: lower, bar: 2},
	}
	m := measurement{lines: parse(skipping), skipped: parseSkips(skipping)}
	results, failed := evaluate(all, map[benchmark]measurement{whole: m, part: m})
	if len(failed) != 0 || len(results) != 3 {
		t.Fatalf("got %v, failures %v", results, failed)
	}
	if results[0].Skipped != "commit 2176621 is not here" || results[0].Met || results[0].Bar != 0.35 {
		t.Errorf("got %+v", results[0])
	}
	if results[1].Skipped != "not here either" || results[2].Skipped != "" || !results[2].Met {
		t.Errorf("got %+v and %+v", results[1], results[2])
	}
	var b strings.Builder
	printTable(&b, results, failed)
	if !strings.Contains(b.String(), "not measured: commit 2176621 is not here") {
		t.Errorf("the table does not say why:\n%s", b.String())
	}
}

func TestOfARepeatedSeriesTheLastIsKept(t *testing.T) {
	want := []series.Series{{Plot: "p", Name: "n", X: []float64{1}, Y: []float64{3}}}
	if got := parseSeries(skipping); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
}

func TestTheSummaryCountsRowsAndRepeatsThoseThatMissed(t *testing.T) {
	var b strings.Builder
	printSummary(&b, []result{
		{Name: "good", Bar: 1, Ratio: 0.5, Better: lower, Met: true},
		{Name: "bad", Bar: 1, Ratio: 1.5, Better: lower},
		{Name: "told", Ratio: 1.5, Better: lower, Met: true},
		{Name: "elsewhere", Bar: 1, Better: lower, Skipped: "no history"},
	}, []failure{{comparison{name: "broken"}, errNoNumbers}})
	said := b.String()
	const want = "5 comparisons: 1 met their bar, 1 missed it, 1 have none, 1 could not be measured here, 1 failed"
	if !strings.Contains(said, want) || !strings.Contains(said, "bad") || strings.Contains(said, "good") {
		t.Errorf("the summary lacks %q, or the row:\n%s", want, said)
	}
}

// A benchmark that was renamed would be found missing only by whoever runs them all next.
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
