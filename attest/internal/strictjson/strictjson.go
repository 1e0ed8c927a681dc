// Package strictjson decodes JSON that came from somewhere else, and takes it only one way.
//
// encoding/json is generous: it accepts a member twice (the last wins), matches names without
// regard to case, replaces invalid UTF-8, ignores null and members that it does not know. Two
// components that read one document can so be made to see two different documents, which in
// attestation means: two different keys. This package goes through the document against the Go type
// that it is meant for, refuses all of the above at any depth, and only then lets encoding/json fill
// the value. Before that, encoding/json says whether the document is JSON at all, so that going
// through it is simple: it meets nothing but valid JSON.
package strictjson

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
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
	if !json.Valid(data) {
		return json.Unmarshal(data, new(json.RawMessage)) // which says where it is not
	}
	s := scanner{data: data, unknown: unknown}
	if err := s.value(reflect.TypeOf(v).Elem(), 0); err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

// scanner goes through a valid document.
type scanner struct {
	data    []byte
	at      int
	unknown rules
}

// peek skips white space and returns the next byte.
func (s *scanner) peek() byte {
	for s.at < len(s.data) {
		switch c := s.data[s.at]; c {
		case ' ', '\t', '\r', '\n':
			s.at++
		default:
			return c
		}
	}
	return 0
}

// value reads one value that is meant for type t; a nil t means that nothing is known about it.
func (s *scanner) value(t reflect.Type, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("nested deeper than %d", maxDepth)
	}
	switch s.peek() {
	case '{':
		return s.object(shape(t), depth)
	case '[':
		return s.array(shape(t), depth)
	case '"':
		literal, escaped := s.literal()
		if !escaped && !bytes.ContainsRune(literal, utf8.RuneError) { // as most are, and some are long
			return nil
		}
		_, err := text(literal, escaped)
		return err
	case 'n':
		if t != nil && t.Kind() != reflect.Interface {
			return errors.New("null where a value is expected")
		}
	}
	s.word()
	return nil
}

// word skips a number, true, false or null.
func (s *scanner) word() {
	for s.at < len(s.data) && !strings.ContainsRune(" \t\r\n,]}", rune(s.data[s.at])) {
		s.at++
	}
}

// literal reads a string as it stands there, without its quotation marks.
func (s *scanner) literal() (literal []byte, escaped bool) {
	s.at++
	start := s.at
	for s.at < len(s.data) {
		switch s.data[s.at] {
		case '"':
			s.at++
			return s.data[start : s.at-1], escaped
		case '\\':
			escaped = true
			s.at++
		}
		s.at++
	}
	return s.data[start:], escaped
}

func (s *scanner) array(t reflect.Type, depth int) error {
	var elem reflect.Type
	if t != nil && (t.Kind() == reflect.Slice || t.Kind() == reflect.Array) {
		elem = t.Elem()
	}
	for s.more(']') {
		if err := s.value(elem, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// more skips an opening bracket or a comma, and reports whether something follows; if not, it skips
// the closing one, too.
func (s *scanner) more(closing byte) bool {
	if s.peek() != closing {
		s.at++
		if s.peek() != closing {
			return s.at < len(s.data)
		}
	}
	s.at++
	return false
}

func (s *scanner) object(t reflect.Type, depth int) error {
	var seen names
	for s.more('}') {
		s.peek()
		literal, escaped := s.literal()
		name, broken := text(literal, escaped)
		s.peek()
		s.at++ // the colon
		member, known, err := s.member(t, name)
		if err != nil {
			return err
		}
		if !known && s.unknown == answer {
			s.skip()
			continue
		}
		if broken != nil {
			return broken
		}
		if seen.add(name) {
			return fmt.Errorf("member %.40q occurs twice", name)
		}
		if err := s.value(member, depth+1); err != nil {
			return fmt.Errorf("member %.40q: %w", name, err)
		}
	}
	return nil
}

// skip passes over a value, whatever is in it.
func (s *scanner) skip() {
	for open := 0; s.at < len(s.data); {
		switch s.peek() {
		case '{', '[':
			open++
			s.at++
		case '}', ']':
			open--
			s.at++
		case ',', ':':
			s.at++
			continue
		case '"':
			s.literal()
		default:
			s.word()
		}
		if open == 0 {
			return
		}
	}
}

// names are the members of one object. Most objects have a few, for which a list is faster.
type names struct {
	few  []string
	many map[string]bool
}

// add notes a name and reports whether it was there.
func (n *names) add(name string) bool {
	const few = 16
	if n.many[name] || slices.Contains(n.few, name) {
		return true
	}
	if len(n.few) < few {
		n.few = append(n.few, name)
		return false
	}
	if n.many == nil {
		n.many = map[string]bool{}
	}
	n.many[name] = true
	return false
}

// member finds the type of the member called name, exactly. Known says that there is one.
func (s *scanner) member(t reflect.Type, name string) (member reflect.Type, known bool, err error) {
	if t == nil || (t.Kind() != reflect.Struct && t.Kind() != reflect.Map) {
		return nil, false, nil
	}
	if t.Kind() == reflect.Map {
		return t.Elem(), true, nil
	}
	if field, tag, ok := find(t, name); ok && tag == name {
		return field, true, nil
	} else if ok {
		return nil, false, fmt.Errorf("member %.40q is spelled otherwise than %q", name, tag)
	}
	if s.unknown == closed {
		return nil, false, fmt.Errorf("unknown member %.40q", name)
	}
	return nil, false, nil
}

// find looks for the field whose tag is the name, letter case aside, in a struct and in those
// embedded in it, as encoding/json does.
func find(t reflect.Type, name string) (field reflect.Type, tag string, ok bool) {
	for i := range t.NumField() {
		f := t.Field(i)
		tag, _, _ = strings.Cut(f.Tag.Get("json"), ",")
		if tag == "" && f.Anonymous && f.Type.Kind() == reflect.Struct {
			if field, tag, ok = find(f.Type, name); ok {
				return field, tag, true
			}
			continue
		}
		if strings.EqualFold(tag, name) {
			return f.Type, tag, true
		}
	}
	return nil, "", false
}

// shape resolves pointers, and answers nil for types that decode themselves from a string.
func shape(t reflect.Type) reflect.Type {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil || reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return nil
	}
	return t
}

// text returns what a string means. It refuses the replacement character: encoding/json puts it
// where an escape names half a surrogate pair.
func text(literal []byte, escaped bool) (string, error) {
	meaning := string(literal)
	if escaped {
		if err := json.Unmarshal(slices.Concat([]byte{'"'}, literal, []byte{'"'}), &meaning); err != nil {
			return "", err
		}
	}
	if strings.ContainsRune(meaning, utf8.RuneError) {
		return meaning, errors.New("string with a broken character")
	}
	return meaning, nil
}
