package report

import (
	"html"
	"net/url"
	"strings"
)

// markup writes HTML. Names of elements and attributes are constants of this package. Texts and
// values of attributes are escaped, whatever is in them, and cannot be written otherwise.
//
// Package html/template does the same and more, but a program that can execute a template keeps
// every exported method that it has, since a template could call it.
type markup struct{ b strings.Builder }

// open begins an element; attributes are names and values in turn.
func (m *markup) open(name string, attributes ...string) {
	m.b.WriteString("<" + name)
	for i := 0; i+1 < len(attributes); i += 2 {
		m.b.WriteString(" " + attributes[i] + `="` + escaped(attributes[i+1]) + `"`)
	}
	m.b.WriteString(">")
}

// close ends an element. What stands in a line of text is followed by no line break, which would
// show as a space.
func (m *markup) close(name string) {
	m.b.WriteString("</" + name + ">")
	if name != "code" && name != "span" && name != "a" {
		m.b.WriteByte('\n')
	}
}

// text writes a text.
func (m *markup) text(s string) { m.b.WriteString(escaped(s)) }

// element writes an element that has nothing but a text.
func (m *markup) element(name, text string, attributes ...string) {
	m.open(name, attributes...)
	m.text(text)
	m.close(name)
}

// link writes a link to a file beside the page. The name is encoded as one segment of a relative
// address: it can name no other place and no scheme.
func (m *markup) link(file, text string) {
	m.element("a", text, "href", "./"+url.PathEscape(file))
}

// lines writes a text with its line breaks, for elements that show them.
func (m *markup) lines(s string) {
	for line := range strings.Lines(s) {
		m.text(strings.TrimSuffix(line, "\n"))
		m.b.WriteByte('\n')
	}
}

// escaped makes a text harmless as text and as the value of an attribute, and shows what would
// reverse or hide what is around it (control and format characters).
func escaped(s string) string { return html.EscapeString(Printable(s)) }
