package upstream

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"strconv"
)

// Members are the members of a JSON object that a service answered with, by their exact names. They
// are looked at one by one, so that a member that is not asked for cannot make an answer invalid:
// one of another type, null, duplicate or unknown. Each method gives an error that names the
// member, and never shows its value, if it is not there, is null, occurs twice (two readers could
// take two different ones) or is of another type. A caller for which the member is optional ignores
// the error.
type Members map[string]member

type member struct {
	value json.RawMessage
	twice bool
}

// MissingError is the error for a member that is not there, is null, or is the empty string.
type MissingError struct{ Member string }

func (e *MissingError) Error() string { return "no " + e.Member }

// ParseMembers reads an answer that is one JSON object, and nothing after it. The error does not
// show the answer.
func ParseMembers(answer []byte) (Members, error) {
	errNone := errors.New("not the JSON expected")
	dec := json.NewDecoder(bytes.NewReader(answer))
	if opening, err := dec.Token(); err != nil || opening != json.Delim('{') {
		return nil, errNone
	}
	all := Members{}
	for dec.More() {
		token, err := dec.Token()
		name, isName := token.(string)
		if err != nil || !isName {
			return nil, errNone
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, errNone
		}
		_, twice := all[name]
		all[name] = member{value, twice}
	}
	if _, err := dec.Token(); err != nil { // the closing brace
		return nil, errNone
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errNone
	}
	return all, nil
}

// Raw returns a member's JSON, which is not null.
func (m Members) Raw(name string) (json.RawMessage, error) {
	found, ok := m[name]
	switch {
	case !ok || string(found.value) == "null":
		return nil, &MissingError{name}
	case found.twice:
		return nil, fmt.Errorf("%s occurs twice", name)
	}
	return found.value, nil
}

// Text returns a string that is not empty.
func (m Members) Text(name string) (string, error) {
	raw, err := m.Raw(name)
	if err != nil {
		return "", err
	}
	var text string
	if json.Unmarshal(raw, &text) != nil {
		return "", fmt.Errorf("%s is not a string", name)
	}
	if text == "" {
		return "", &MissingError{name}
	}
	return text, nil
}

// Object returns the members of an object.
func (m Members) Object(name string) (Members, error) {
	raw, err := m.Raw(name)
	if err != nil {
		return nil, err
	}
	inner, err := ParseMembers(raw)
	if err != nil {
		return nil, fmt.Errorf("%s is not an object", name)
	}
	return inner, nil
}

// List returns the elements of an array.
func (m Members) List(name string) ([]json.RawMessage, error) {
	raw, err := m.Raw(name)
	if err != nil {
		return nil, err
	}
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) != nil {
		return nil, fmt.Errorf("%s is not a list", name)
	}
	return list, nil
}

// numberForm is a JSON number (RFC 8259, 6) without exponent.
var numberForm = regexp.MustCompile(`^-?[0-9]+(\.[0-9]+)?$`)

const (
	maxNumberBytes = 40
	maxNumber      = 1 << 53 // float64 has all integers up to it
)

// Number returns a number, rounded down: a JSON number, or one in a string, as IMDS writes all its
// numbers. One with an exponent is none.
func (m Members) Number(name string) (int64, error) {
	raw, err := m.Raw(name)
	if err != nil {
		return 0, err
	}
	text := string(raw)
	if raw[0] == '"' && json.Unmarshal(raw, &text) != nil {
		return 0, fmt.Errorf("%s is not a number", name)
	}
	if len(text) > maxNumberBytes || !numberForm.MatchString(text) {
		return 0, fmt.Errorf("%s is not a number", name)
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || math.Abs(n) > maxNumber {
		return 0, fmt.Errorf("%s is too large a number", name)
	}
	return int64(math.Floor(n)), nil
}
