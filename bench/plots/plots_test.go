package main

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/bench/series"
)

var named = regexp.MustCompile(`row "([^"]+)"`)

// someRun has what the page and the plots need.
func someRun() measured {
	m := measured{run: series.Run{Date: "2026-01-02", Machine: "a machine"}}
	for _, match := range named.FindAllStringSubmatch(pageText, -1) {
		m.results = append(m.results, result{Name: match[1], Ours: 1234, Reference: 2000, Unit: "ms", Ratio: 0.617, Bar: 0.6, Better: "lower"})
	}
	for _, plot := range []string{"start", "herd", "outage, last-minutes"} {
		for _, name := range []string{"ours", "theirs"} {
			m.run.Series = append(m.run.Series, series.Series{Plot: plot, Name: name, X: []float64{0, 1500, 20000}, Y: []float64{0, 10, 60}})
		}
	}
	return m
}

func TestThePageHasTheNumbersAndAPlotForEachTheme(t *testing.T) {
	dir := t.TempDir()
	f := files{filepath.Join(dir, "results.json"), filepath.Join(dir, "series.json"), filepath.Join(dir, "docs")}
	m := someRun()
	write(t, f.results, m.results)
	write(t, f.series, m.run)
	if err := f.draw(); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(f.docs, "performance.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"2026-01-02, a machine", "1.23 s", "| 1,234 ms | 2,000 ms | 0.617 | ≤ 0.60 | **missed** |"} {
		if !strings.Contains(string(page), want) {
			t.Errorf("the page lacks %q:\n%s", want, page)
		}
	}
	for _, fig := range figures() {
		for _, theme := range themes() {
			if !strings.Contains(string(page), `"performance/`+fig.file(theme)+`"`) {
				t.Errorf("the page does not show %s", fig.file(theme))
			}
			isXML(t, filepath.Join(f.docs, "performance", fig.file(theme)))
		}
	}
}

func TestAPlotWithoutItsNumbersIsAnError(t *testing.T) {
	for _, fig := range figures() {
		if _, err := fig.render(measured{}, themes()[0]); err == nil {
			t.Errorf("%s was drawn of nothing", fig.name)
		}
	}
	if _, err := (measured{}).page(); err == nil {
		t.Error("the page was written without numbers")
	}
}

func TestARowThatWasNotMeasuredSaysWhy(t *testing.T) {
	m := measured{results: []result{{Name: "a", Skipped: "no history"}}}
	if _, err := m.row("a"); err == nil || !strings.Contains(err.Error(), "no history") {
		t.Errorf("got %v", err)
	}
}

// The committed page is of this template: it has its headings, and its plots are there.
func TestTheCommittedPageIsComplete(t *testing.T) {
	docs := filepath.Join("..", "..", "docs")
	page, err := os.ReadFile(filepath.Join(docs, "performance.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, heading := range regexp.MustCompile(`(?m)^## .*$`).FindAllString(pageText, -1) {
		if !strings.Contains(string(page), heading+"\n") {
			t.Errorf("docs/performance.md lacks %q: go run ./plots", heading)
		}
	}
	for _, fig := range figures() {
		for _, theme := range themes() {
			isXML(t, filepath.Join(docs, "performance", fig.file(theme)))
		}
	}
}

func isXML(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	for decoder := xml.NewDecoder(f); err == nil; {
		_, err = decoder.Token()
	}
	if !errors.Is(err, io.EOF) {
		t.Errorf("%s: %v", path, err)
	}
}

func write(t *testing.T, path string, content any) {
	t.Helper()
	text, err := json.Marshal(content)
	if err == nil {
		err = os.WriteFile(path, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
