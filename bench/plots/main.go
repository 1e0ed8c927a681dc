// Command plots draws docs/performance.md: the page with its numbers, and a plot for each of its
// parts, from what `make bench` left.
//
// Each plot is drawn twice, for light and for dark pages. Nobody edits the page: its text is
// performance.md.tmpl.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/keyagent/keyagent/bench/series"
)

func main() {
	var f files
	flag.StringVar(&f.results, "results", "results.json", "what make bench measured")
	flag.StringVar(&f.series, "series", "series.json", "the same, point by point")
	flag.StringVar(&f.docs, "docs", filepath.Join("..", "docs"), "folder for performance.md, and for the folder performance with the plots")
	flag.Parse()
	if err := f.draw(); err != nil {
		fmt.Fprintln(os.Stderr, "plots:", err)
		os.Exit(1)
	}
}

// files are where the command reads and writes.
type files struct{ results, series, docs string }

// A result is an element of results.json.
type result struct {
	Name      string  `json:"name"`
	Ours      float64 `json:"ours"`
	Reference float64 `json:"reference"`
	Unit      string  `json:"unit"`
	Ratio     float64 `json:"ratio"`
	Bar       float64 `json:"bar"` // 0: it has none
	Better    string  `json:"better"`
	Met       bool    `json:"met"`
	Skipped   string  `json:"skipped"`
}

// measured is everything that one run of the benchmarks left.
type measured struct {
	results []result
	run     series.Run
}

// row finds a result by its name.
func (m measured) row(name string) (result, error) {
	for _, r := range m.results {
		if r.Name == name && r.Skipped != "" {
			return result{}, fmt.Errorf("%q was not measured: %s", name, r.Skipped)
		}
		if r.Name == name {
			return r, nil
		}
	}
	return result{}, fmt.Errorf("the results have no %q: the page needs all that make bench measures", name)
}

func (f files) draw() error {
	var m measured
	if err := errors.Join(read(f.results, &m.results), read(f.series, &m.run)); err != nil {
		return err
	}
	folder := filepath.Join(f.docs, "performance")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	for _, fig := range figures() {
		for _, t := range themes() {
			svg, err := fig.render(m, t)
			if err != nil {
				return fmt.Errorf("plot %s: %w", fig.name, err)
			}
			if err := os.WriteFile(filepath.Join(folder, fig.file(t)), svg, 0o644); err != nil {
				return err
			}
		}
	}
	page, err := m.page()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(f.docs, "performance.md"), page, 0o644)
}

func read(path string, into any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
