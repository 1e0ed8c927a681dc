package main

import (
	"fmt"
	"io"
	"os"
	"strings"
)

// page prints the demo for a person: numbered steps, aligned facts.
type page struct {
	out   io.Writer
	color bool
	step  int
}

func newPage(out *os.File) *page {
	info, err := out.Stat()
	terminal := err == nil && info.Mode()&os.ModeCharDevice != 0
	return &page{out: out, color: terminal && os.Getenv("NO_COLOR") == ""}
}

func (p *page) paint(code, text string) string {
	if !p.color {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (p *page) title(text string) {
	p.step++
	fmt.Fprintf(p.out, "\n%s\n", p.paint("1;36", fmt.Sprintf("%2d. %s", p.step, text)))
}

// shell shows a command as the user would type it.
func (p *page) shell(line string) { fmt.Fprintf(p.out, "    %s\n", p.paint("1", "$ "+line)) }

// fact shows a name and a value; following lines of the value are aligned.
func (p *page) fact(name, format string, args ...any) {
	lines := strings.Split(fmt.Sprintf(format, args...), "\n")
	for i, line := range lines {
		if i > 0 {
			name = ""
		}
		fmt.Fprintf(p.out, "    %-22s %s\n", name, line)
	}
}

// proven shows something that was checked and holds; refused, something that was
// tried and did not work.
func (p *page) proven(format string, args ...any) {
	fmt.Fprintf(p.out, "    %s %s\n", p.paint("32", "ok"), fmt.Sprintf(format, args...))
}

func (p *page) refused(who, words string) {
	fmt.Fprintf(p.out, "    %s\n", p.paint("33", who+" says:"))
	for line := range strings.SplitSeq(words, "\n") {
		fmt.Fprintf(p.out, "      %s\n", line)
	}
}

func (p *page) say(format string, args ...any) {
	fmt.Fprintf(p.out, "    %s\n", fmt.Sprintf(format, args...))
}

func (p *page) end() {
	fmt.Fprintf(p.out, `
%s
    The key that proves this VM's identity cannot be copied, and nothing that is
    worth stealing lies on its disk. What a thief can still take is a Bearer token out
    of a program that has one: it works until it expires, as Bearer tokens do.
`, p.paint("1;36", "What this means"))
}
