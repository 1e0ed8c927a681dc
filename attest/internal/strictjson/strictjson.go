// Package strictjson decodes JSON that came from somewhere else, and takes it only one way.
//
// encoding/json is generous: it accepts a member twice (the last wins), matches names without
// regard to case, replaces invalid UTF-8, ignores null and members that it does not know. Two
// components that read one document can so be made to see two different documents, which in
// attestation means: two different keys. This package has encoding/json read the document, goes
// through it once more against the Go type that it is meant for, and refuses all of the above at
// any depth. The value of a document that is refused is empty.
package strictjson

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxDepth bounds nesting, and with it the stack that a document can make us use.
const maxDepth = 16

// Unmarshal decodes data into v and refuses members that v's type does not have.
func Unmarshal(data []byte, v any) error { return unmarshal(data, v, closed) }

// UnmarshalOpen is Unmarshal for documents whose issuer adds members over time: unknown members are
// skipped, but a name that differs from a known one only in case, and a name that occurs twice, are
// refused all the same.
func UnmarshalOpen(data []byte, v any) error { return unmarshal(data, v, open) }

// UnmarshalAnswer is UnmarshalOpen for documents that only this process reads: nothing is required
// of members that v's type does not have, not even that each occurs once. Those that it has are
// held to the same rules.
func UnmarshalAnswer(data []byte, v any) error { return unmarshal(data, v, answer) }

// rules say what becomes of members that a type does not have.
type rules int

const (
	closed rules = iota // they are refused
	open                // they are read, and must have one meaning
	answer              // they are passed over
)

func unmarshal(data []byte, v any, unknown rules) error {
	if !utf8.Valid(data) {
		return errors.New("not valid UTF-8")
	}
	if err := json.Unmarshal(data, v); err != nil {
		if bad := valid(data); bad != nil {
			return bad
		}
		return err
	}
	s := scanner{rest: data, unknown: unknown}
	if err := s.value(reflect.TypeOf(v).Elem(), 0); err != nil {
		reflect.ValueOf(v).Elem().SetZero() // values filled in before the error must not be used
		return err
	}
	return nil
}

// valid refuses bytes that are not exactly one JSON text.
func valid(data []byte) error {
	if json.Valid(data) {
		return nil
	}
	var document json.RawMessage
	dec := json.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&document); err != nil {
		return syntax(err)
	}
	return errors.New("bytes after the document")
}

// scanner reads a text that is known to be valid JSON.
type scanner struct {
	rest    []byte
	unknown rules
	structs map[reflect.Type][]field // that were looked at before
}

// field is a member that a struct has.
type field struct {
	tag string
	of  reflect.Type
}

// value reads one value that is meant for type t; a nil t means that nothing is known about it.
func (s *scanner) value(t reflect.Type, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("nested deeper than %d", maxDepth)
	}
	switch s.next() {
	case '{', '[':
		return s.composite(t, depth)
	case '"':
		return text(s.text())
	case 'n':
		s.literal()
		if t != nil && t.Kind() != reflect.Interface {
			return errors.New("null where a value is expected")
		}
	default:
		s.literal()
	}
	return nil
}

// composite reads an object or an array.
func (s *scanner) composite(t reflect.Type, depth int) error {
	t = shape(t)
	if s.next() == '{' {
		return s.object(t, depth)
	}
	var elem reflect.Type
	if t != nil && (t.Kind() == reflect.Slice || t.Kind() == reflect.Array) {
		elem = t.Elem()
	}
	return s.each(func() error { return s.value(elem, depth+1) })
}

func (s *scanner) object(t reflect.Type, depth int) error {
	var seen names
	return s.each(func() error {
		name := s.text()
		s.next()
		s.skip(1) // the colon
		member, known, err := s.member(t, name)
		if err != nil {
			return err
		}
		if !known && s.unknown == answer {
			s.pass()
			return nil
		}
		if err := text(name); err != nil {
			return err
		}
		if seen.add(name) {
			return fmt.Errorf("member %.40q occurs twice", name)
		}
		if err := s.value(member, depth+1); err != nil {
			return fmt.Errorf("member %.40q: %w", name, err)
		}
		return nil
	})
}

// names are the members of one object. Most objects have a few, for which a list is faster.
type names struct {
	few  [][]byte
	many map[string]bool
}

// add notes a name and reports whether it was there.
func (n *names) add(name []byte) bool {
	const few = 16
	if n.many[string(name)] || slices.ContainsFunc(n.few, func(other []byte) bool { return bytes.Equal(other, name) }) {
		return true
	}
	if len(n.few) < few {
		n.few = append(n.few, name)
		return false
	}
	if n.many == nil {
		n.many = map[string]bool{}
	}
	n.many[string(name)] = true
	return false
}

// each calls f at each element of an object or an array, and itself reads the brackets, commas and
// names.
func (s *scanner) each(f func() error) error {
	for s.skip(1); ; s.skip(1) { // the opening bracket, or a comma
		if c := s.next(); c == '}' || c == ']' { // there is none
			break
		}
		if err := f(); err != nil {
			return err
		}
		if s.next() != ',' {
			break
		}
	}
	s.skip(1)
	return nil
}

// next returns the first byte of what comes next.
func (s *scanner) next() byte {
	s.rest = bytes.TrimLeft(s.rest, " \t\r\n")
	return s.rest[0]
}

func (s *scanner) skip(n int) { s.rest = s.rest[n:] }

// literal reads a number, true, false or null.
func (s *scanner) literal() {
	end := bytes.IndexAny(s.rest, ",]} \t\r\n")
	if end < 0 {
		end = len(s.rest)
	}
	s.skip(end)
}

// text reads a string. If nothing in it is escaped, it is a part of the document.
func (s *scanner) text() []byte {
	end, quote, escaped := 1, 0, false
	for {
		if quote < end { // else it is the one that was found before: each byte is looked at once
			quote = end + bytes.IndexByte(s.rest[end:], '"')
		}
		escape := bytes.IndexByte(s.rest[end:quote], '\\')
		if escape < 0 {
			end = quote
			break
		}
		end, escaped = end+escape+2, true
	}
	quoted := s.rest[:end+1]
	s.skip(len(quoted))
	if !escaped {
		return quoted[1:end]
	}
	var unquoted string
	_ = json.Unmarshal(quoted, &unquoted) // impossible: it is valid
	return []byte(unquoted)
}

// pass reads a value and looks at nothing in it.
func (s *scanner) pass() {
	switch s.next() {
	case '"':
		s.text()
	case '{':
		_ = s.each(func() error { // there is no error
			s.text()
			s.next()
			s.skip(1)
			s.pass()
			return nil
		})
	case '[':
		_ = s.each(func() error {
			s.pass()
			return nil
		})
	default:
		s.literal()
	}
}

// member finds the type of the member called name, exactly. Known says that there is one.
func (s *scanner) member(t reflect.Type, name []byte) (member reflect.Type, known bool, err error) {
	if t == nil || (t.Kind() != reflect.Struct && t.Kind() != reflect.Map) {
		return nil, false, nil
	}
	if t.Kind() == reflect.Map {
		return t.Elem(), true, nil
	}
	fields := s.fields(t)
	for _, f := range fields {
		if f.tag == string(name) {
			return f.of, true, nil
		}
	}
	for _, f := range fields {
		if strings.EqualFold(f.tag, string(name)) { // which encoding/json takes for the same
			return nil, false, fmt.Errorf("member %.40q is spelled otherwise than %q", name, f.tag)
		}
	}
	if s.unknown == closed {
		return nil, false, fmt.Errorf("unknown member %.40q", name)
	}
	return nil, false, nil
}

// fields lists the members of a struct, and those of structs that are embedded in it, as
// encoding/json sees them.
func (s *scanner) fields(t reflect.Type) []field {
	if known, ok := s.structs[t]; ok {
		return known
	}
	var all []field
	for i := range t.NumField() {
		f := t.Field(i)
		tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if tag == "" && f.Anonymous && f.Type.Kind() == reflect.Struct {
			all = append(all, s.fields(f.Type)...)
			continue
		}
		all = append(all, field{tag, f.Type})
	}
	if s.structs == nil {
		s.structs = map[reflect.Type][]field{}
	}
	s.structs[t] = all
	return all
}

// shape resolves pointers, and answers nil for types that decode themselves.
func shape(t reflect.Type) reflect.Type {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil {
		return nil
	}
	p := reflect.PointerTo(t)
	if p.Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) || p.Implements(reflect.TypeFor[json.Unmarshaler]()) {
		return nil
	}
	return t
}

// text refuses the replacement character: encoding/json puts it where an escape names half a
// surrogate pair.
func text(s []byte) error {
	if bytes.Contains(s, []byte(string(utf8.RuneError))) {
		return errors.New("string with a broken character")
	}
	return nil
}

func syntax(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
