package report

import (
	"fmt"
	"io"
	"time"
)

// Index is a page about many files of evidence, each of which may have a page of its own.
type Index struct {
	Title  string
	Time   time.Time // that the evidence was verified at
	OK     bool      // nothing stands against any of them
	Counts string
	Rows   []IndexRow
}

// IndexRow is one file.
type IndexRow struct {
	File     string
	Verified bool
	Say      string
	Page     string // a file name beside the index, made of File; empty: there is none
}

// WritePage writes the index; see [Report.WritePage].
func (x Index) WritePage(w io.Writer, e Explanation) error {
	m := &markup{}
	state, word := "fail", "Not verified"
	if x.OK {
		state, word = "pass", "Verified"
	}
	m.begin(word + ": " + x.Title)
	m.element("h1", "Verification of attestation evidence: "+x.Title)
	m.open("div", "class", "verdict "+state)
	m.element("span", symbol(state), "class", "mark", "aria-hidden", "true")
	m.open("div")
	m.element("strong", word)
	m.element("span", x.Counts)
	m.close("div")
	m.close("div")
	m.open("dl")
	m.term("Verified at", x.Time.UTC().Format(time.RFC3339))
	m.term("Policy", e.Policy.text())
	m.close("dl")
	m.element("h2", fmt.Sprintf("%d files", len(x.Rows)))
	m.open("table")
	m.header("File", "Result", "Machine, or what stands against it")
	for _, row := range x.Rows {
		m.row(row)
	}
	m.close("tbody")
	m.close("table")
	m.policy(e)
	m.end()
	_, err := io.WriteString(w, m.b.String())
	return err
}

func (m *markup) row(row IndexRow) {
	state, word := "fail", "✗ not verified"
	if row.Verified {
		state, word = "pass", "✓ verified"
	}
	m.open("tr")
	m.open("td", "class", "name")
	if row.Page == "" {
		m.element("code", row.File)
	} else {
		m.link(row.Page, row.File)
	}
	m.close("td")
	m.element("td", word, "class", "state s-"+state)
	m.element("td", row.Say)
	m.close("tr")
}
