package policyfile

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/keyagent/keyagent/internal/nearby"
)

// maxProblems is how many faults are told at once.
const maxProblems = 20

// decoder walks the file. It goes on after a fault, so that an operator sees all of them.
type decoder struct{ problems []Problem }

func (d *decoder) refuse(n *yaml.Node, do, format string, args ...any) {
	if len(d.problems) < maxProblems {
		d.problems = append(d.problems, Problem{Line: n.Line, What: fmt.Sprintf(format, args...), Do: do})
	}
}

// members are the settings of a mapping, each with what reads its value.
type members map[string]func(*yaml.Node)

// mapping reads a mapping called name, whose members are known.
func (d *decoder) mapping(n *yaml.Node, name string, known members) {
	names := slices.Sorted(maps.Keys(known))
	d.entries(n, name, func(key, value *yaml.Node) {
		read, ok := known[key.Value]
		if !ok {
			d.refuse(key, meant(key.Value, names), "unknown member %.60q of %s", key.Value, name)
			return
		}
		if value.Kind == yaml.ScalarNode && value.Tag == "!!null" {
			d.refuse(key, "write one, or leave the member out", "%s has no value", key.Value)
			return
		}
		read(value)
	})
}

// entries reads a mapping whose members have names of the operator's choice.
func (d *decoder) entries(n *yaml.Node, name string, read func(key, value *yaml.Node)) {
	if !d.is(n, yaml.MappingNode, name, "write its members below it, as NAME: VALUE") {
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if !d.is(key, yaml.ScalarNode, "a name in "+name, "write a plain name") {
			continue
		}
		if line, twice := seen[key.Value]; twice {
			d.refuse(key, "take one of them out", "%.60q occurs twice in %s, first in line %d", key.Value, name, line)
			continue
		}
		seen[key.Value] = key.Line
		read(key, value)
	}
}

// meant is the advice about an unknown name.
func meant(given string, names []string) string {
	if like := nearby.Names(given, names); len(like) > 0 {
		return "did you mean " + strings.Join(like, " or ") + "?"
	}
	return "there are " + strings.Join(names, ", ")
}

// is checks the kind of a node. An alias would let a small file be a large one.
func (d *decoder) is(n *yaml.Node, kind yaml.Kind, name, do string) bool {
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		d.refuse(n, "write the value out", "%s uses an anchor or alias (& or *)", name)
		return false
	}
	if n.Kind != kind || kind == yaml.ScalarNode && (n.Tag == "!!null" || n.Tag == "!!merge" || n.Tag == "!!binary") {
		d.refuse(n, do, "%s is not %s", name, map[yaml.Kind]string{yaml.MappingNode: "a mapping", yaml.SequenceNode: "a list", yaml.ScalarNode: "a single value"}[kind])
		return false
	}
	return true
}

// list reads a list, or a single value as a list of one.
func (d *decoder) list(n *yaml.Node, name string, read func(*yaml.Node)) {
	if n.Kind == yaml.ScalarNode {
		read(n)
		return
	}
	if !d.is(n, yaml.SequenceNode, name, "write [A, B], or an entry a line, each after '- '") {
		return
	}
	for _, entry := range n.Content {
		read(entry)
	}
}

// text reads a single value as it is written.
func (d *decoder) text(n *yaml.Node, name, do string) (string, bool) {
	if !d.is(n, yaml.ScalarNode, name, do) {
		return "", false
	}
	if n.Value == "" {
		d.refuse(n, do, "%s is empty", name)
		return "", false
	}
	return n.Value, true
}

// texts reads a list of texts that are not empty.
func (d *decoder) texts(n *yaml.Node, name, do string) []string {
	var all []string
	d.list(n, name, func(entry *yaml.Node) {
		if text, ok := d.text(entry, "an entry of "+name, do); ok {
			all = append(all, text)
		}
	})
	return all
}

func (d *decoder) flag(n *yaml.Node, name string) bool {
	const do = "write true or false"
	text, ok := d.text(n, name, do)
	if ok && (n.Tag != "!!bool" || text != "true" && text != "false") {
		d.refuse(n, do, "%s is %.40q", name, text)
	}
	return text == "true"
}

// number reads a decimal number in the range, ends included.
func (d *decoder) number(n *yaml.Node, name string, low, high uint64) uint64 {
	do := fmt.Sprintf("write a whole number from %d to %d", low, high)
	text, ok := d.text(n, name, do)
	if !ok {
		return 0
	}
	value, err := strconv.ParseUint(text, 10, 64)
	if err != nil || value < low || value > high || strconv.FormatUint(value, 10) != text {
		d.refuse(n, do, "%s is %.40q", name, text)
		return 0
	}
	return value
}

func (d *decoder) duration(n *yaml.Node, name string) time.Duration {
	const do = "write a number with its unit, such as 90s, 10m or 24h"
	text, ok := d.text(n, name, do)
	if !ok {
		return 0
	}
	value, err := time.ParseDuration(text)
	if err != nil || value <= 0 {
		d.refuse(n, do, "%s is %.40q", name, text)
		return 0
	}
	return value
}

// digest reads so many bytes in hexadecimal.
func (d *decoder) digest(n *yaml.Node, name string, size int) []byte {
	do := fmt.Sprintf("write %d hexadecimal digits", 2*size)
	text, ok := d.text(n, name, do)
	if !ok {
		return nil
	}
	b, err := hex.DecodeString(text)
	switch {
	case err != nil:
		d.refuse(n, do, "%s, %.40q, is not hexadecimal", name, text)
		return nil
	case len(b) != size:
		d.refuse(n, do, "%s has %d digits", name, len(text))
		return nil
	}
	return b
}

// identity reads the digest of a party's key or firmware. Hardware reports zeros where there is
// none, so that a list with zeros would name everybody.
func (d *decoder) identity(n *yaml.Node, name string, size int) []byte {
	b := d.digest(n, name, size)
	if b != nil && bytes.Equal(b, make([]byte, size)) {
		d.refuse(n, "take it out: a guest without an ID key or measurement has this value, whoever made it", "%s is zero", name)
		return nil
	}
	return b
}

// digests reads a list of digests. An empty list is refused where it would switch a rule off.
func (d *decoder) digests(n *yaml.Node, name string, size int) [][]byte {
	var all [][]byte
	d.list(n, name, func(entry *yaml.Node) {
		if b := d.digest(entry, "an entry of "+name, size); b != nil {
			all = append(all, b)
		}
	})
	return all
}

// words reads a list of words of a table.
func words[T any](d *decoder, n *yaml.Node, name string, table map[string]T) []T {
	names := slices.Sorted(maps.Keys(table))
	var all []T
	d.list(n, name, func(entry *yaml.Node) {
		text, ok := d.text(entry, "an entry of "+name, "write one of "+strings.Join(names, ", "))
		if !ok {
			return
		}
		value, known := table[text]
		if !known {
			d.refuse(entry, meant(text, names), "unknown entry %.60q of %s", text, name)
			return
		}
		all = append(all, value)
	})
	return all
}
