package main

import "strings"

// roff builds a manual page in the macros of man(7).
type roff struct{ strings.Builder }

func (r *roff) title(name, section, source string) {
	// Without a date: the page is the same whenever it is made.
	r.line(`.TH "`, literal(strings.ToUpper(name)), `" "`, section, `" "" "`, literal(source), `" "keyagent"`)
	r.line(".nh") // no hyphens that a copied command would have in it
	r.line(".ad l")
}

func (r *roff) line(parts ...string) {
	for _, p := range parts {
		r.WriteString(p)
	}
	r.WriteByte('\n')
}

func (r *roff) section(name string) { r.line(`.SH "`, literal(name), `"`) }

// item is a term and what it means.
func (r *roff) item(term, meaning string) {
	r.line(".TP")
	r.line(term)
	r.line(meaning)
}

// text is what --help says at length, or else in short: paragraphs, and blocks that are indented
// because their lines are to stay as they are.
func (r *roff) text(long, short string) {
	if long == "" {
		long = short
	}
	for block := range strings.SplitSeq(strings.Trim(long, "\n"), "\n\n") {
		r.line(".PP")
		if strings.HasPrefix(block, " ") {
			r.verbatim(block)
			continue
		}
		r.line(literal(strings.Join(strings.Fields(block), " ")))
	}
}

// verbatim has its lines as they are, without the indentation of the first.
func (r *roff) verbatim(block string) {
	lines := strings.Split(strings.Trim(block, "\n"), "\n")
	indent := len(lines[0]) - len(strings.TrimLeft(lines[0], " "))
	r.line(".nf")
	r.line(".RS 4")
	for _, l := range lines {
		r.line(literal(strings.TrimPrefix(l, strings.Repeat(" ", indent))))
	}
	r.line(".RE")
	r.line(".fi")
}

func bold(text string) string   { return `\fB` + literal(text) + `\fR` }
func italic(text string) string { return `\fI` + literal(text) + `\fR` }

// literal is text that troff takes for nothing else: no escapes, and no request or macro at the
// beginning of a line. A hyphen is the one that can be typed.
func literal(text string) string {
	text = strings.NewReplacer(`\`, `\e`, `-`, `\-`, `"`, `\(dq`, `'`, `\(aq`, "`", `\(ga`, `^`, `\(ha`, `~`, `\(ti`).Replace(text)
	if strings.HasPrefix(text, ".") {
		return `\&` + text
	}
	return text
}
