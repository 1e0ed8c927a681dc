package main

import (
	"reflect"
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
	c := comparison{name: "x", bench: "BenchmarkSign", sub: "PSS", pair: "ns", better: lower, bar: 1.25}
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
	c := comparison{pkg: "./signer", bench: "BenchmarkSign", sub: "PKCS1", pair: "ns", better: lower}
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
