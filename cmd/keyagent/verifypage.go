package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"github.com/keyagent/keyagent/attest/fleet"
	"github.com/keyagent/keyagent/attest/report"
	"github.com/keyagent/keyagent/internal/statefile"
)

// writePage writes the page about one file of evidence. It names the machine, so it is for this
// user alone, as the evidence is.
func (a *app) writePage(f verifyFlags, q report.Question, found *report.Report) error {
	if f.html == "" {
		return nil
	}
	var page bytes.Buffer
	if err := found.WritePage(&page, report.Explain(q.Rules, q.Policy)); err != nil {
		return err
	}
	if f.html == standardOutput {
		_, err := a.out.Write(page.Bytes())
		return err
	}
	return statefile.ExportPrivate(f.html, page.Bytes())
}

// fleetPages writes a page for each file of a fleet, and an index of them, into a directory.
type fleetPages struct {
	dir   string // empty: there are none to write
	about report.Explanation
	index report.Index
}

// indexFile is the index's name. Pages have a suffix more, so none has this name.
const indexFile = "index.html"

func newFleetPages(f verifyFlags, q report.Question) (*fleetPages, error) {
	p := &fleetPages{dir: f.html, about: report.Explain(q.Rules, q.Policy), index: report.Index{Title: f.evidence, Time: q.At}}
	if p.dir == standardOutput {
		return nil, usagef("--html takes a directory where --evidence is one: it gets a page for each file")
	}
	if p.dir == "" {
		return p, nil
	}
	return p, os.MkdirAll(p.dir, 0o700)
}

// add writes the page about a file.
func (p *fleetPages) add(row fleet.Row) error {
	if p.dir == "" {
		return nil
	}
	entry := report.IndexRow{File: row.Name, Verified: row.Verified(), Say: rowText(row)}
	if row.Report != nil {
		entry.Page = row.Name + ".html"
		var page bytes.Buffer
		if err := row.Report.WritePage(&page, p.about); err != nil {
			return err
		}
		if err := statefile.Write(filepath.Join(p.dir, entry.Page), page.Bytes()); err != nil {
			return fmt.Errorf("writing a page: %w", err)
		}
	}
	p.index.Rows = append(p.index.Rows, entry)
	return nil
}

// end writes the index.
func (p *fleetPages) end(sum fleet.Summary) error {
	if p.dir == "" {
		return nil
	}
	p.index.OK, p.index.Counts = sum.OK, summaryText(sum)
	var page bytes.Buffer
	if err := p.index.WritePage(&page, p.about); err != nil {
		return err
	}
	return statefile.ExportPrivate(filepath.Join(p.dir, indexFile), page.Bytes())
}
