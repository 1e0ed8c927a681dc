// Package strictjson decodes JSON that came from somewhere else, and takes it only one way.
//
// encoding/json is generous: it accepts a member twice (the last wins), matches names without
// regard to case, replaces invalid UTF-8, ignores null and members that it does not know. Two
// components that read one document can so be made to see two different documents, which in
// attestation means: two different keys. This package reads the document once as tokens against the
// Go type that it is meant for, refuses all of the above at any depth, and only then lets
// encoding/json fill the value.
package strictjson

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
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
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	s := scanner{dec: dec, unknown: unknown}
	if err := s.value(reflect.TypeOf(v).Elem(), 0); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("bytes after the document")
	}
	return json.Unmarshal(data, v)
}

type scanner struct {
	dec     *json.Decoder
	unknown rules
}

// value reads one value that is meant for type t; a nil t means that nothing is known about it.
func (s *scanner) value(t reflect.Type, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("nested deeper than %d", maxDepth)
	}
	tok, err := s.dec.Token()
	if err != nil {
		return syntax(err)
	}
	switch tok := tok.(type) {
	case json.Delim:
		return s.composite(tok, t, depth)
	case string:
		return text(tok)
	case nil:
		if t != nil && t.Kind() != reflect.Interface {
			return errors.New("null where a value is expected")
		}
	}
	return nil
}

// composite reads what follows an opening brace or bracket.
func (s *scanner) composite(open json.Delim, t reflect.Type, depth int) error {
	t = shape(t)
	if open == '{' {
		return s.object(t, depth)
	}
	var elem reflect.Type
	if t != nil && (t.Kind() == reflect.Slice || t.Kind() == reflect.Array) {
		elem = t.Elem()
	}
	for s.dec.More() {
		if err := s.value(elem, depth+1); err != nil {
			return err
		}
	}
	_, err := s.dec.Token()
	return syntax(err)
}

func (s *scanner) object(t reflect.Type, depth int) error {
	seen := map[string]bool{}
	for s.dec.More() {
		tok, err := s.dec.Token()
		if err != nil {
			return syntax(err)
		}
		name, ok := tok.(string)
		if !ok {
			return errors.New("member name is not a string")
		}
		member, known, err := s.member(t, name)
		if err != nil {
			return err
		}
		if !known && s.unknown == answer {
			var passed json.RawMessage
			if err := s.dec.Decode(&passed); err != nil {
				return syntax(err)
			}
			continue
		}
		if err := text(name); err != nil {
			return err
		}
		if seen[name] {
			return fmt.Errorf("member %.40q occurs twice", name)
		}
		seen[name] = true
		if err := s.value(member, depth+1); err != nil {
			return fmt.Errorf("member %.40q: %w", name, err)
		}
	}
	_, err := s.dec.Token()
	return syntax(err)
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

// text refuses the replacement character: encoding/json puts it where an escape names half a
// surrogate pair.
func text(s string) error {
	if strings.ContainsRune(s, utf8.RuneError) {
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
