package config

import (
	"cmp"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// mismatch matches the decoder's message that a value has another type than its setting.
var mismatch = regexp.MustCompile("(?s)^line ([0-9]+): cannot unmarshal (!!?[^ ]+).* into ([^ ]+)$")

// misshapen rewrites the decoder's message about a value's type without Go's type names. Other
// messages stay as they are. The value is not repeated.
func misshapen(data []byte, text string) string {
	parts := mismatch.FindStringSubmatch(text)
	if parts == nil {
		return text
	}
	line, goType := parts[1], parts[3]
	name := ""
	var file yaml.Node
	if number, err := strconv.Atoi(line); err == nil && yaml.Unmarshal(data, &file) == nil && len(file.Content) > 0 {
		name = culprit{line: number, tag: parts[2], goType: goType}.in(file.Content[0], "the file", reflect.TypeFor[Config]())
	}
	return "line " + line + ": " + cmp.Or(name, "a setting here") + " " + wanted(goType)
}

// wanted says how a value of a type is written.
func wanted(goType string) string {
	switch {
	case strings.HasPrefix(goType, "[]"):
		return "is a list: begin the entry with '- '"
	case strings.HasPrefix(goType, "config."):
		return "has settings of its own: write them below it, as NAME: VALUE"
	case goType == "bool":
		return "is true or false"
	case strings.Contains(goType, "int"):
		return "is a whole number"
	}
	return "is a single value"
}

// culprit is a value as the decoder's message describes it.
type culprit struct {
	line        int
	tag, goType string
}

// in returns the name of the setting that has the value; node is the value of the setting called
// name, and t the type wanted there.
func (c culprit) in(node *yaml.Node, name string, t reflect.Type) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case node.Line == c.line && node.ShortTag() == c.tag && t.String() == c.goType:
		return name
	case node.Kind == yaml.SequenceNode && t.Kind() == reflect.Slice:
		for _, entry := range node.Content {
			if found := c.in(entry, "an entry of "+name, t.Elem()); found != "" {
				return found
			}
		}
	case node.Kind == yaml.MappingNode && t.Kind() == reflect.Struct:
		for i := 0; i+1 < len(node.Content); i += 2 {
			name := node.Content[i].Value
			if below := settingType(t, name); below != nil {
				if found := c.in(node.Content[i+1], name, below); found != "" {
					return found
				}
			}
		}
	}
	return ""
}

// settingType returns the type of a setting of a struct, nil if it has none of this
// name.
func settingType(t reflect.Type, name string) reflect.Type {
	for field := range t.Fields() {
		tag, options, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		if tag == name && name != "" {
			return field.Type
		}
		if options == "inline" {
			if found := settingType(field.Type, name); found != nil {
				return found
			}
		}
	}
	return nil
}
