package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf16"
)

// printJSON prints a value as JSON that a person can read.
func (a *app) printJSON(v any) error {
	enc := json.NewEncoder(visible{a.out})
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// printJSONLine prints a value as JSON on a line of its own.
func (a *app) printJSONLine(v any) error { return json.NewEncoder(visible{a.out}).Encode(v) }

// visible writes JSON with every control and format character as \u and its number (RFC 8259,
// section 7), which is the same JSON. Package encoding/json does so with the characters below
// U+0020 only, and others can change what a terminal or an editor shows: C1 controls, marks of
// direction. Each call of Write must have whole characters.
type visible struct{ w io.Writer }

func (v visible) Write(text []byte) (int, error) {
	var b strings.Builder
	for _, r := range string(text) {
		switch {
		case r == '\n' || unicode.IsPrint(r): // a line break in a string is escaped already
			b.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	if _, err := io.WriteString(v.w, b.String()); err != nil {
		return 0, err
	}
	return len(text), nil
}
