package report

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/keyagent/keyagent/attest"
)

// Text says how a report is printed.
type Text struct {
	Colours bool // escape sequences of ECMA-48
}

// Write prints the report for a person.
func (t Text) Write(w io.Writer, r *Report) error {
	p := &printer{Text: t}
	p.headline(r)
	p.line("")
	p.link(r.tree(), "", "")
	p.line("")
	p.claims(r)
	p.line("")
	p.line("Policy: %s", Printable(r.Policy.text()))
	_, err := io.WriteString(w, p.b.String())
	return err
}

func (p Policy) text() string {
	if p.File == "" {
		return "the default policy, built-in anchors"
	}
	text := p.File + " (SHA-256 " + p.SHA256 + ")"
	for _, f := range p.Anchors {
		text += "; " + f.Use + ": " + f.File
	}
	return text
}

// Result is a verdict in a column of its own.
func (t Text) Result(verified bool) string {
	p := &printer{Text: t}
	if verified {
		return p.paint(green, "verified    ")
	}
	return p.paint(red, "NOT VERIFIED")
}

// Why says in a line what stands against the evidence.
func (r *Report) Why() string {
	list := r.Hindrances()
	if len(list) == 0 {
		return ""
	}
	text := list[0].Name + ": " + list[0].why()
	if more := len(list) - 1; more > 0 {
		text += fmt.Sprintf(" (and %d more)", more)
	}
	return text
}

type printer struct {
	Text
	b strings.Builder
}

func (p *printer) line(format string, args ...any) {
	fmt.Fprintf(&p.b, format, args...)
	p.b.WriteByte('\n')
}

// Colours of ECMA-48 (SGR).
const (
	red   = "31"
	green = "32"
	dim   = "2"
	bold  = "1"
)

func (p *printer) paint(colour, text string) string {
	if !p.Colours {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// Headline sums a report up in a line.
func (r *Report) Headline() string {
	at := "at " + r.Time.Format(time.RFC3339)
	switch {
	case r.Verified:
		return "VERIFIED " + at
	case r.Verdict == attest.Incomplete:
		return "NOT VERIFIED " + at + ": nothing is wrong, but not all is there"
	}
	return "NOT VERIFIED " + at
}

func (p *printer) headline(r *Report) {
	colour := green
	if !r.Verified {
		colour = red
	}
	head := r.Headline()
	if r.Evidence.File != "" {
		head = Printable(r.Evidence.File) + ": " + head
	}
	p.line("%s", p.paint(bold+";"+colour, head))
	for _, c := range r.Hindrances() {
		p.line("  %s", p.paint(colour, c.Name+": "+Printable(c.why())))
	}
}

// why says why a check is a hindrance.
func (c Check) why() string {
	if c.Status == attest.NotApplicable && c.Required {
		return "required, but " + c.Reason
	}
	return c.Reason
}

// mark is the state of a check in a column of its own.
func (p *printer) mark(c Check) string {
	switch {
	case c.Status == attest.Pass:
		return p.paint(green, "ok     ")
	case c.Status == attest.Fail:
		return p.paint(red, "FAIL   ")
	case c.Required:
		return p.paint(red, "MISSING")
	}
	return p.paint(dim, "-      ")
}

// link prints a link and what is below it. lead begins its first line, and below those that
// follow.
func (p *printer) link(l *link, lead, below string) {
	title := p.paint(bold, Printable(l.title))
	switch l.state() {
	case "fail":
		title += " " + p.paint(red, "(does not hold)")
	case "absent":
		title += " " + p.paint(dim, l.none())
	}
	if l.how != "" {
		title = p.paint(dim, Printable(l.how)+":") + " " + title
	}
	p.line("%s%s", lead, title)
	bar := "   "
	if len(l.below) > 0 {
		bar = "│  "
	}
	if l.detail != "" {
		p.line("%s%s%s", below, bar, Printable(l.detail))
	}
	for _, c := range l.checks {
		p.check(c, below+bar)
	}
	for i, sub := range l.below {
		p.line("%s│", below)
		if i == len(l.below)-1 {
			p.link(sub, below+"└─ ", below+"   ")
		} else {
			p.link(sub, below+"├─ ", below+"│  ")
		}
	}
}

func (p *printer) check(c Check, indent string) {
	say := c.why()
	if c.Status == attest.Pass {
		say = aboutChecks()[c.Name].proves
	}
	p.line("%s%s %-22s %s", indent, p.mark(c), Printable(c.Name), Printable(say))
}

func (p *printer) claims(r *Report) {
	p.line("%s", p.paint(bold, "Proven"))
	for _, c := range r.Proven {
		p.line("  %s %s", p.paint(green, "+"), Printable(c.Claim+", by: "+c.Anchor))
	}
	if len(r.Proven) == 0 {
		p.line("  nothing")
	}
	p.line("")
	p.line("%s", p.paint(bold, "Not proven"))
	for _, c := range r.NotProven {
		p.line("  %s %s", p.paint(red, "-"), Printable(c.Claim+": "+c.Reason+" did not pass"))
	}
	for _, text := range neverProven() {
		p.line("  %s %s", p.paint(dim, "-"), text+" (no evidence of this kind shows it)")
	}
}

// Printable escapes what would act on a terminal or pretend to be another line.
func Printable(text string) string {
	var b strings.Builder
	for _, r := range text {
		if unicode.IsPrint(r) {
			b.WriteRune(r)
			continue
		}
		escaped := strconv.QuoteRune(r)
		b.WriteString(escaped[1 : len(escaped)-1])
	}
	return b.String()
}
