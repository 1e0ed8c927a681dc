package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"
)

// maintainer signs each entry, as nfpm.yaml names them.
const maintainer = "The keyagent authors <keyagent@users.noreply.github.com>"

// A release is one version of CHANGELOG.md, and what it has for its users.
type release struct {
	version string // with the package's revision
	date    time.Time
	changes []string // a paragraph each, without Markdown
}

// changelogWriters write releases in the form of a packager.
var changelogWriters = map[string]func(io.Writer, []release) error{"deb": writeDebian, "rpm": writeYAML}

var (
	// heading is of a release, as in "## 1.2.3 (2026-12-01)", or of unreleased changes.
	heading = regexp.MustCompile(`^## (?:(Unreleased)|(\d+\.\d+\.\d+) \((\d{4}-\d{2}-\d{2})\))$`)
	link    = regexp.MustCompile(`\[([^\]]+)\]\([^)]*\)`)
)

// readChangelog reads CHANGELOG.md. Unreleased changes are in the version that is packaged, so they
// stand under that; a version without such changes has an entry all the same.
func readChangelog(in io.Reader, version string, when time.Time) ([]release, error) {
	packaged := release{version: version + "-1", date: when}
	var all []release
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, "## "):
			next, err := startRelease(line, packaged)
			if err != nil {
				return nil, err
			}
			all = append(all, next)
		case len(all) == 0 || line == "" || strings.HasPrefix(line, "#"):
		default:
			all[len(all)-1].add(line)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(all) == 0 || all[0].version != packaged.version {
		packaged.changes = []string{"No changes that users notice."}
		all = append([]release{packaged}, all...)
	}
	return all, nil
}

func startRelease(line string, packaged release) (release, error) {
	m := heading.FindStringSubmatch(line)
	switch {
	case m == nil:
		return release{}, fmt.Errorf("CHANGELOG.md: %q is no heading of a release", line)
	case m[1] != "":
		return packaged, nil
	}
	date, err := time.Parse(time.DateOnly, m[3])
	if err != nil {
		return release{}, fmt.Errorf("CHANGELOG.md: %q: %w", line, err)
	}
	return release{version: m[2] + "-1", date: date}, nil
}

// add adds a line: a new change, or more of the one before.
func (r *release) add(line string) {
	text := strings.ReplaceAll(link.ReplaceAllString(line, "$1"), "`", "")
	if begun, isNew := strings.CutPrefix(text, "* "); isNew || len(r.changes) == 0 {
		r.changes = append(r.changes, begun)
		return
	}
	r.changes[len(r.changes)-1] += " " + strings.TrimSpace(text)
}

// writeDebian writes what deb-changelog(5) describes.
func writeDebian(out io.Writer, releases []release) error {
	for i, r := range releases {
		if i > 0 {
			fmt.Fprintln(out)
		}
		fmt.Fprintf(out, "keyagent (%s) unstable; urgency=medium\n\n", r.version)
		for _, change := range r.changes {
			fmt.Fprintf(out, "  * %s\n", wrap(change, 76, "\n    "))
		}
		if _, err := fmt.Fprintf(out, "\n -- %s  %s\n", maintainer, r.date.Format(time.RFC1123Z)); err != nil {
			return err
		}
	}
	return nil
}

// writeYAML writes what nfpm reads. JSON is YAML.
func writeYAML(out io.Writer, releases []release) error {
	type change struct {
		Note string `json:"note"`
	}
	type entry struct {
		Version  string    `json:"semver"`
		Date     time.Time `json:"date"`
		Packager string    `json:"packager"`
		Changes  []change  `json:"changes"`
	}
	var entries []entry
	for _, r := range releases {
		e := entry{r.version, r.date, maintainer, nil}
		for _, c := range r.changes {
			e.Changes = append(e.Changes, change{wrap(c, 76, "\n  ")})
		}
		entries = append(entries, e)
	}
	return json.NewEncoder(out).Encode(entries)
}

// wrap breaks a paragraph into lines of at most width characters, where its words allow it.
func wrap(text string, width int, newline string) string {
	var b strings.Builder
	column := 0
	for i, word := range strings.Fields(text) {
		switch {
		case i == 0:
		case column+1+len(word) > width:
			b.WriteString(newline)
			column = 0
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += len(word)
	}
	return b.String()
}
