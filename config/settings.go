package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

const (
	maxSettingsDepth  = 64    // as .NET's JSON reader has it
	maxSettings       = 20000 // of one file; far above what an app has
	maxSettingPathLen = 1024  // bytes of a name with all names above it
)

// settings are a node of .NET configuration: one tree of names without regard to case, whatever
// form it was written in. A node has a value, nodes below it, or both. Its methods work on nil,
// which is a node that is not there.
type settings struct {
	name  string               // as it was written
	path  string               // of names, with colons; "" for the root
	value *string              // nil: none, or null
	below map[string]*settings // by name in lower case
}

// at returns the node at a path of names that are separated by colons, nil if there is none.
func (s *settings) at(path string) *settings {
	for name := range strings.SplitSeq(path, ":") {
		if s == nil {
			return nil
		}
		s = s.below[strings.ToLower(name)]
	}
	return s
}

// text returns the value of a setting without space around it, "" if it has none.
func (s *settings) text(name string) string {
	if node := s.at(name); node != nil && node.value != nil {
		return strings.TrimSpace(*node.value)
	}
	return ""
}

// says reports whether this node or any below it has a value that is not empty.
func (s *settings) says() bool {
	if s == nil {
		return false
	}
	if s.value != nil && *s.value != "" {
		return true
	}
	for _, node := range s.below {
		if node.says() {
			return true
		}
	}
	return false
}

func (s *settings) has(name string) bool { return s.at(name).says() }

// hasAny reports whether one of the settings has a value.
func (s *settings) hasAny(names ...string) bool { return slices.ContainsFunc(names, s.has) }

// flag returns a truth value as .NET reads it; any text but true and false is an error there, too.
func (s *settings) flag(name string) (bool, error) {
	switch text := s.text(name); {
	case text == "", strings.EqualFold(text, "false"):
		return false, nil
	case strings.EqualFold(text, "true"):
		return true, nil
	}
	return false, fmt.Errorf("%s: neither true nor false, and .NET does not take anything else either", s.at(name).label())
}

// list returns the nodes below in .NET's order: numbers first, by their value, then names.
func (s *settings) list() []*settings {
	if s == nil {
		return nil
	}
	return slices.SortedFunc(maps.Values(s.below), func(a, b *settings) int {
		x, errX := strconv.Atoi(a.name)
		y, errY := strconv.Atoi(b.name)
		switch {
		case errX == nil && errY == nil:
			return cmp.Or(cmp.Compare(x, y), cmp.Compare(a.name, b.name))
		case errX == nil:
			return -1
		case errY == nil:
			return 1
		}
		return cmp.Compare(strings.ToLower(a.name), strings.ToLower(b.name))
	})
}

// isSection reports whether there is a node with nodes below.
func (s *settings) isSection() bool { return s != nil && len(s.below) > 0 }

// label is the path for messages.
func (s *settings) label() string {
	if s.path == "" {
		return ""
	}
	names := strings.Split(s.path, ":")
	for i := range names {
		names[i] = plainName(names[i])
	}
	return strings.Join(names, ":")
}

// find returns every node that is wanted, from the root down, in the order of list.
func (s *settings) find(wanted func(*settings) bool) []*settings {
	var found []*settings
	if s == nil {
		return nil
	}
	if wanted(s) {
		found = append(found, s)
	}
	for _, node := range s.list() {
		found = append(found, node.find(wanted)...)
	}
	return found
}

// builder makes a tree of paths and their values.
type builder struct {
	root  settings
	count int
}

// add adds a node. A value twice is an error, as it is in .NET; nodes without a value may be added
// again.
func (b *builder) add(path string, value *string) error {
	node, depth := &b.root, 0
	switch {
	case path == "":
		return nil
	case len(path) > maxSettingPathLen:
		return fmt.Errorf("a setting whose name and path have more than %d bytes", maxSettingPathLen)
	}
	for name := range strings.SplitSeq(path, ":") {
		if depth++; depth > maxSettingsDepth {
			return fmt.Errorf("more than %d levels", maxSettingsDepth)
		}
		next := node.below[strings.ToLower(name)]
		if next == nil {
			if b.count++; b.count > maxSettings {
				return fmt.Errorf("more than %d settings", maxSettings)
			}
			next = &settings{name: name, path: join(node.path, name, depth)}
			if node.below == nil {
				node.below = map[string]*settings{}
			}
			node.below[strings.ToLower(name)] = next
		}
		node = next
	}
	if value == nil {
		return nil
	}
	if node.value != nil {
		return fmt.Errorf("setting %s is there twice", node.label())
	}
	node.value = value
	return nil
}

func join(path, name string, depth int) string {
	if depth == 1 {
		return name
	}
	return path + ":" + name
}

// addVariable adds a variable of the environment as .NET does: two underscores stand for a colon,
// which not every environment allows in a name.
func (b *builder) addVariable(name, value string) error {
	if name == "" {
		return errors.New("a variable without a name")
	}
	return b.add(strings.ReplaceAll(name, "__", ":"), &value)
}
