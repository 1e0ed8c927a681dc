// Package series carries what a benchmark measured point by point, which a ratio does not show, to
// the file series.json, from which the plots in docs/performance.md are drawn.
//
// The benchmark logs each line of a plot with [Log]; the program that runs the benchmarks finds it
// in their output with [Parse].
package series

import (
	"encoding/json"
	"strings"
	"testing"
)

// A Series is one line of a plot.
type Series struct {
	Plot string    `json:"plot"` // the plot that it belongs to
	Name string    `json:"name"` // what it shows
	X    []float64 `json:"x"`
	Y    []float64 `json:"y"` // as many as X
}

// Add appends a point.
func (s *Series) Add(x, y float64) { s.X, s.Y = append(s.X, x), append(s.Y, y) }

// A Run is the file series.json: the series of one run of all benchmarks, and where it was.
type Run struct {
	Date    string   `json:"date"`
	Machine string   `json:"machine"`
	Series  []Series `json:"series"`
}

// Of returns the series of a plot.
func (r Run) Of(plot string) (all []Series) {
	for _, s := range r.Series {
		if s.Plot == plot {
			all = append(all, s)
		}
	}
	return all
}

const mark = "series: "

// Log writes a series into the benchmark's output.
func Log(b *testing.B, s Series) {
	b.Helper()
	text, err := json.Marshal(s)
	if err != nil {
		b.Fatal(err)
	}
	b.Log(mark + string(text))
}

// Parse reads a series from a line of a benchmark's output; ok is false if there is none.
func Parse(line string) (s Series, ok bool) {
	_, text, found := strings.Cut(line, mark)
	if !found || json.Unmarshal([]byte(text), &s) != nil || s.Plot == "" || len(s.X) != len(s.Y) {
		return Series{}, false
	}
	return s, true
}
