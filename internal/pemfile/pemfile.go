package pemfile

import (
	"bytes"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	begin  = "-----BEGIN "
	end    = "-----END "
	dashes = "-----"

	// maxBlocks is far above what a distribution's list of authorities has, some 150.
	maxBlocks = 1000

	// maxLabel bounds a label; the longest in use have some 30 characters.
	maxLabel = 64
)

// Form is how a block stood in its file.
type Form int

// A file without PEM is one block of another form.
const (
	PEM    Form = iota
	DER         // the file is the bytes themselves
	Base64      // the file is the base64 of PEM without its first and last line
)

// Block is a PEM block, or what a file has instead.
type Block struct {
	Label string // "CERTIFICATE"; empty unless Form is PEM
	Form  Form
	Line  int    // where it begins, from 1; 0 unless Form is PEM
	Bytes []byte // the content, not empty; nil for a software private key, see [Block.SoftwareKey]
	Plain bool   // of Form PEM: other programs read the block where it stands, since nothing is wrapped around it
}

// SoftwareKey says whether the block's label is that of a private key outside of a TPM, in any of
// the formats.
func (b Block) SoftwareKey() bool { return softwareKey(b.Label) }

func softwareKey(label string) bool {
	return strings.Contains(label, "PRIVATE KEY") && label != "TSS2 PRIVATE KEY"
}

// Read returns the blocks of a file of at most maxBytes, at least one and at most 1,000. Labels are
// as they stand there. The error is an [*Error].
func Read(data []byte, maxBytes int) ([]Block, error) {
	if len(data) > maxBytes {
		return nil, &Error{Problem: fmt.Sprintf("it has %d bytes, more than %d KiB", len(data), maxBytes>>10)}
	}
	text := plainText(data)
	if !bytes.Contains(text, []byte(begin)) {
		return withoutPEM(data, text)
	}
	s := scanner{text: text}
	for len(s.blocks) <= maxBlocks {
		found, err := s.next()
		if err != nil {
			return nil, err
		}
		if !found {
			markPlain(s.blocks, data)
			return s.blocks, nil
		}
	}
	return nil, &Error{Problem: fmt.Sprintf("there are more than %d PEM blocks in it", maxBlocks)}
}

// markPlain finds the blocks that are there without anything being taken off the file.
func markPlain(blocks []Block, data []byte) {
	for i := range blocks {
		block, rest := pem.Decode(data)
		if block == nil || block.Type != blocks[i].Label {
			return
		}
		blocks[i].Plain, data = true, rest
	}
}

// scanner goes through a text block by block.
type scanner struct {
	text   []byte
	at     int // behind the last block
	blocks []Block
}

// next takes one block more; false at the end of the text.
func (s *scanner) next() (bool, error) {
	start := bytes.Index(s.text[s.at:], []byte(begin))
	if start < 0 {
		return false, s.checkBetween(len(s.text))
	}
	start += s.at
	if err := s.checkBetween(start); err != nil {
		return false, err
	}
	if err := s.checkInFront(start); err != nil {
		return false, err
	}
	label, body, ok := s.label(start)
	if !ok {
		return false, s.problem(start, "a PEM block begins, but its label is damaged")
	}
	stop, err := s.bodyEnd(label, start, body)
	if err != nil {
		return false, err
	}
	block := Block{Label: label, Line: s.line(start)}
	if !softwareKey(label) {
		if block.Bytes, err = s.decode(label, start, body, stop); err != nil {
			return false, err
		}
	}
	s.blocks = append(s.blocks, block)
	s.at = stop + len(end) + len(label) + len(dashes)
	return true, nil
}

// label reads the label of the block that begins at start, and returns where its body begins.
func (s *scanner) label(start int) (label string, body int, ok bool) {
	rest := s.text[start+len(begin):]
	rest = rest[:min(len(rest), maxLabel+len(dashes))]
	n := bytes.Index(rest, []byte(dashes))
	if n < 1 || bytes.ContainsFunc(rest[:n], func(r rune) bool { return r < ' ' || r > '~' }) {
		return "", 0, false
	}
	return string(rest[:n]), start + len(begin) + n + len(dashes), true
}

// bodyEnd finds the end of a block's body, which is the next thing with five dashes.
func (s *scanner) bodyEnd(label string, start, body int) (int, error) {
	n := bytes.Index(s.text[body:], []byte(dashes))
	if n < 0 {
		return 0, s.problem(start, "a block %q is damaged or cut off: it has no end", label)
	}
	stop := body + n
	if !bytes.HasPrefix(s.text[stop:], []byte(end+label+dashes)) {
		return 0, s.problem(start, "a block %q is damaged: line %d is not its end", label, s.line(stop))
	}
	return stop, nil
}

// decode returns the bytes of a body, which is base64 with white space anywhere.
func (s *scanner) decode(label string, start, body, stop int) ([]byte, error) {
	encoded := make([]byte, 0, stop-body)
	for i := body; i < stop; i++ {
		switch c := s.text[i]; {
		case isSpace(c):
		case isBase64(c) || c == '=':
			encoded = append(encoded, c)
		default:
			return nil, s.notBase64(i, label, body, stop)
		}
	}
	decoded, err := base64.StdEncoding.AppendDecode(nil, encoded)
	if err != nil {
		return nil, s.problem(start, "a block %q is damaged: its base64 has not the right length, or ends before its last line", label)
	}
	if len(decoded) == 0 {
		return nil, s.problem(start, "a block %q is empty", label)
	}
	return decoded, nil
}

// notBase64 explains the first character that is none of base64.
func (s *scanner) notBase64(at int, label string, body, stop int) error {
	first, _, _ := bytes.Cut(bytes.TrimSpace(s.text[body:stop]), []byte("\n"))
	if bytes.Contains(first, []byte(": ")) {
		return s.problem(at, "a block %q has headers, as encrypted keys have (RFC 1421), which are not read", label)
	}
	character, _ := utf8.DecodeRune(s.text[at:])
	return s.problem(at, "a block %q is damaged: %q is not base64", label, character)
}

// checkInFront refuses text in front of a block, on its line.
func (s *scanner) checkInFront(start int) error {
	from := max(s.at, bytes.LastIndexByte(s.text[:start], '\n')+1)
	if len(bytes.TrimSpace(s.text[from:start])) == 0 {
		return nil
	}
	e := s.problem(start, "a PEM block stands behind other text on its line: delete it if it was commented out")
	e.Command = `sed 's/` + begin + `/\n&/g' FILE > unwrapped.pem`
	return e
}

// checkBetween looks for remains of blocks in the text up to the next one.
func (s *scanner) checkBetween(upTo int) error {
	at := s.at
	for line := range bytes.Lines(s.text[s.at:upTo]) {
		switch {
		case bytes.IndexByte(line, 0) >= 0:
			return s.problem(at, "binary data or UTF-16 stands beside PEM: write a file of one encoding")
		case bytes.Contains(line, []byte(end)):
			return s.problem(at, "a PEM block ends here that did not begin")
		case looksEncoded(bytes.TrimSpace(line)):
			return s.problem(at, "this looks like part of a PEM block, but the line with which it begins or ends is missing or damaged")
		}
		at += len(line)
	}
	return nil
}

// looksEncoded says whether a line is one of base64, as PEM has it: 64 characters or more. One of
// hexadecimal digits is a fingerprint.
func looksEncoded(line []byte) bool {
	const shortest = 64
	if len(line) < shortest || bytes.ContainsFunc(line, func(r rune) bool { return r > '~' || !isBase64(byte(r)) && r != '=' }) { // #nosec G115 -- below 127
		return false
	}
	upper := bytes.ContainsFunc(line, func(r rune) bool { return r >= 'A' && r <= 'Z' })
	lower := bytes.ContainsFunc(line, func(r rune) bool { return r >= 'a' && r <= 'z' })
	return upper && lower
}

func (s *scanner) problem(at int, format string, args ...any) *Error {
	return &Error{Line: s.line(at), Problem: fmt.Sprintf(format, args...)}
}

func (s *scanner) line(at int) int { return bytes.Count(s.text[:at], []byte("\n")) + 1 }

func isSpace(c byte) bool { return strings.IndexByte(" \t\r\n\v\f", c) >= 0 }

func isBase64(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '+' || c == '/'
}

// withoutPEM reads a file that has no PEM block.
func withoutPEM(data, text []byte) ([]Block, error) {
	if isDER(data) {
		return []Block{{Form: DER, Bytes: slices.Clone(data)}}, nil
	}
	if mark := []byte("\ufeff"); bytes.HasPrefix(data, mark) && isDER(data[len(mark):]) {
		return nil, &Error{Problem: "a byte order mark is in front of the DER: an editor has saved the file as text", Command: "tail -c +4 FILE > unwrapped.pem"}
	}
	encoded := bytes.Join(bytes.Fields(text), nil)
	decoded, err := base64.StdEncoding.AppendDecode(nil, encoded)
	switch {
	case len(encoded) == 0:
		return nil, &Error{Problem: "it is empty"}
	case err == nil && isDER(decoded):
		return []Block{{Form: Base64, Bytes: decoded}}, nil
	case err == nil && bytes.Contains(decoded, []byte(begin)):
		return nil, &Error{Problem: "it is the base64 of a PEM file, as in a Kubernetes secret", Command: "base64 -di FILE > unwrapped.pem"}
	}
	if bytes.Contains(text, []byte("-----BEGIN%20")) {
		return nil, &Error{Problem: "it is URL-encoded, as in a header of a proxy",
			Command: `sed 's/%0[Aa]/\n/g; s/%0[Dd]//g; s/%20/ /g; s/%2[Bb]/+/g; s/%2[Ff]/\//g; s/%3[Dd]/=/g' FILE > unwrapped.pem`}
	}
	return nil, &Error{Problem: "there is neither PEM nor DER in it"}
}

// isDER says whether data begins as all that comes in files here does: with a SEQUENCE that is all
// of it, or has a length of several bytes or none. No text begins so.
func isDER(data []byte) bool {
	return len(data) > 2 && data[0] == 0x30 && (data[1] >= 0x80 || int(data[1]) == len(data)-2)
}
