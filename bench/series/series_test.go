package series_test

import (
	"reflect"
	"testing"

	"github.com/keyagent/keyagent/bench/series"
)

func TestParseReadsWhatABenchmarkLogs(t *testing.T) {
	want := series.Series{Plot: "start", Name: "this build", X: []float64{0, 20}, Y: []float64{36, 380}}
	got, ok := series.Parse(`    bench_test.go:9: series: {"plot":"start","name":"this build","x":[0,20],"y":[36,380]}` + "\n")
	if !ok || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, ok)
	}
}

func TestParseIgnoresLinesThatAreNoSeries(t *testing.T) {
	for name, line := range map[string]string{
		"another line":        "BenchmarkSign-2  100  900 ns/op",
		"no JSON":             "x.go:1: series: of errors",
		"no plot":             `x.go:1: series: {"name":"a","x":[1],"y":[1]}`,
		"points that are odd": `x.go:1: series: {"plot":"start","name":"a","x":[1,2],"y":[1]}`,
	} {
		if s, ok := series.Parse(line); ok {
			t.Errorf("%s: got %+v", name, s)
		}
	}
}
