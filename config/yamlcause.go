package config

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// stumble is something that an operator writes and YAML takes otherwise.
type stumble struct {
	says  string         // what the parser says of it, among else
	line  *regexp.Regexp // what the line looks like
	cause string
}

// endOfStream is the library's message for a quotation that does not end, whichever line it began
// in.
const endOfStream = "unexpected end of stream"

// stumbles are the usual ones, the surest first. None repeats text of the file, which may be a
// password.
func stumbles() []stumble {
	const (
		before = `(?:^|[\s\[{,])` // a value
		tabs   = "a tab in the indentation: YAML takes spaces only"
	)
	tab := regexp.MustCompile(`^ *\t`)
	return []stumble{
		{"tab character", tab, tabs},
		{"cannot start any token", tab, tabs},
		{"expected alphabetic or numeric character", regexp.MustCompile(before + `\*`), `* is not in quotes: write "*"; without them it refers to a value that was marked with &`},
		{"unknown anchor", regexp.MustCompile(before + `\*`), `a value that begins with * is not in quotes: write "*…"; without them it refers to a value that was marked with &`},
		{"expected alphabetic or numeric character", regexp.MustCompile(before + `&`), `a value that begins with & is not in quotes: write "&…"`},
		{"cannot start any token", regexp.MustCompile(before + "[@`%]"), "a value that begins with @, ` or % is not in quotes"},
		{"mapping values are not allowed", regexp.MustCompile(`:\s.*:(?:\s|$)`), "a colon and a space within a value that is not in quotes"},
		{"mapping values are not allowed", regexp.MustCompile(`:(?:\s|$)`), "a setting that is indented further than the one above it, which has a value already"},
		{endOfStream, regexp.MustCompile(`^[^"]*"(?:[^"]*"[^"]*")*[^"]*$|^[^']*'(?:[^']*'[^']*')*[^']*$`), "a quotation mark without its counterpart"},
	}
}

// saidLine is where the parser says that it was; of some faults it names no line, of others one
// that is too early.
var saidLine = regexp.MustCompile(`^line ([0-9]+): (.*)$`)

var comment = regexp.MustCompile(`^\s*#`)

// explainSyntax puts the likely cause, with its line, before what the parser says of a file that is
// not YAML.
func explainSyntax(data []byte, text string) string {
	at, says := 1, text
	if parts := saidLine.FindStringSubmatch(text); parts != nil {
		at, _ = strconv.Atoi(parts[1]) // digits, and if they are too many, the search begins at the start
		says = parts[2]
	}
	lines := bytes.Split(data, []byte("\n"))
	for _, s := range stumbles() {
		if !strings.Contains(says, s.says) {
			continue
		}
		from := max(at, 1) - 1
		if s.says == endOfStream {
			from = 0
		}
		for i := from; i < len(lines); i++ {
			if s.line.Match(lines[i]) && !comment.Match(lines[i]) {
				return fmt.Sprintf("line %d: probably %s (YAML: %s)", i+1, s.cause, says)
			}
		}
	}
	return text
}
