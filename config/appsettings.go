package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// settings are the members of a JSON object as .NET takes them: names without regard
// to case (here in lower case), none twice. A value is decoded only where it is asked
// for, so that secrets stay where they are.
type settings map[string]setting

type setting struct {
	name  string // as it was written
	value json.RawMessage
}

// azureAd finds the section AzureAd in an app's settings, or takes all of them for it.
func azureAd(data []byte) (settings, error) {
	plain := plainJSON(data)
	if err := checkSyntax(plain); err != nil {
		return nil, err
	}
	file, err := members(plain)
	if err != nil {
		return nil, err
	}
	section, there := file["azuread"]
	if !there && !file.has("tenantid") {
		return nil, errors.New("no section AzureAd, and no TenantId, here")
	}
	if !there {
		return file, nil
	}
	found, err := members(section.value)
	if err != nil {
		return nil, fmt.Errorf("AzureAd: %w", err)
	}
	return found, nil
}

// checkSyntax does not repeat what encoding/json quotes of the text.
func checkSyntax(data []byte) error {
	var whole json.RawMessage
	err := json.Unmarshal(data, &whole)
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("line %d: not JSON", 1+bytes.Count(data[:syntax.Offset], []byte("\n")))
	}
	if err != nil {
		return errors.New("not JSON")
	}
	return nil
}

func members(data []byte) (settings, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	if start, err := dec.Token(); err != nil || start != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	found := settings{}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, errors.New("not a JSON object")
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, errors.New("not a JSON object")
		}
		written := fmt.Sprint(name)
		folded := strings.ToLower(written)
		if _, twice := found[folded]; twice {
			return nil, fmt.Errorf("setting %q is there twice", written)
		}
		found[folded] = setting{name: written, value: value}
	}
	return found, nil
}

// has reports whether a setting says anything.
func (s settings) has(name string) bool {
	value := string(s[name].value)
	return value != "" && value != "null" && value != `""` && value != "[]"
}

// text returns a string, number or boolean as .NET reads it, without space around it;
// "" for anything else.
func (s settings) text(name string) string {
	var value any
	dec := json.NewDecoder(bytes.NewReader(s[name].value))
	dec.UseNumber()
	if err := dec.Decode(&value); err != nil {
		return "" // it is not there
	}
	switch value.(type) {
	case string, json.Number, bool:
		return strings.TrimSpace(fmt.Sprint(value))
	}
	return ""
}

func (s settings) flag(name string) bool { return strings.EqualFold(s.text(name), "true") }

// list returns the elements of a list; none if the setting is something else.
func (s settings) list(name string) []json.RawMessage {
	var elements []json.RawMessage
	if err := json.Unmarshal(s[name].value, &elements); err != nil {
		return nil
	}
	return elements
}

// plainJSON takes out what appsettings.json files have and JSON does not: a byte order
// mark, comments, and commas after the last element. Lines stay where they are.
func plainJSON(data []byte) []byte {
	plain := bytes.Clone(bytes.TrimPrefix(data, []byte("\ufeff")))
	comma := -1 // of the last comma, if only space has followed
	for i := 0; i < len(plain); i++ {
		switch c := plain[i]; {
		case c == '"':
			i, comma = endOfString(plain, i), -1
		case bytes.HasPrefix(plain[i:], []byte("//")):
			i = blank(plain, i, "\n") - 1
		case bytes.HasPrefix(plain[i:], []byte("/*")):
			i = blank(plain, i, "*/") - 1
		case c == ',':
			comma = i
		case (c == '}' || c == ']') && comma >= 0:
			plain[comma], comma = ' ', -1
		case c > ' ':
			comma = -1
		}
	}
	return plain
}

// endOfString returns where the string that begins at start ends.
func endOfString(text []byte, start int) int {
	for i := start + 1; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '"':
			return i
		}
	}
	return len(text)
}

// blank puts spaces in the place of a comment, and returns where the text goes on.
func blank(text []byte, start int, end string) int {
	stop := len(text)
	if i := bytes.Index(text[start+2:], []byte(end)); i >= 0 {
		stop = start + 2 + i + len(end)
	}
	for i := start; i < stop; i++ {
		if text[i] != '\n' {
			text[i] = ' '
		}
	}
	return stop
}
