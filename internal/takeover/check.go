package takeover

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Verdicts of a [Finding].
const (
	OK   = "ok"
	Warn = "warn" // it may not work as it should
	Fail = "fail" // programs can go around the agent, or do not reach it
)

// Finding is the result of one look at something.
type Finding struct {
	Check, Verdict, Detail string
	// Load says that the rules must be made and loaded anew.
	Load bool
}

// Check compares the loaded rules with the plan's.
func (p Plan) Check(l *Listing) []Finding {
	if !slices.ContainsFunc(l.tables, func(t listedTable) bool { return t.Family == "inet" && t.Name == Table }) {
		return append([]Finding{{"table", Fail, "the table inet " + Table + " is not loaded: programs reach IMDS itself", true}}, p.inTheWay(l)...)
	}
	found := []Finding{p.checkTable(l), p.checkUsers(l), p.checkRules(l)}
	return append(found, p.inTheWay(l)...)
}

// checkTable looks for rules that do not belong into the table, or switch it off.
func (p Plan) checkTable(l *Listing) Finding {
	for _, t := range l.tables {
		if t.Family == "inet" && t.Name == Table && bytes.Contains(t.Flags, []byte("dormant")) {
			return Finding{"table", Fail, "the table inet " + Table + " is loaded and switched off (dormant)", true}
		}
	}
	if len(l.others) > 0 {
		return Finding{"table", Fail, fmt.Sprintf("the table inet %s has entries that do not belong there: %s", Table, strings.Join(l.others, ", ")), true}
	}
	return Finding{"table", OK, "the table inet " + Table + " is loaded", false}
}

// checkUsers compares the set of uids.
func (p Plan) checkUsers(l *Listing) Finding {
	set, ok := l.set(usersSet)
	if !ok {
		return Finding{"users", Fail, "there is no set of users", true}
	}
	loaded, err := uids(set.Elements)
	if err != nil {
		return Finding{"users", Fail, err.Error(), true}
	}
	missing, extra := without(p.Users, loaded), without(loaded, p.Users)
	switch {
	case len(missing) > 0:
		return Finding{"users", Fail, "not taken over, though configured: uid " + list(missing), true}
	case len(extra) > 0:
		return Finding{"users", Fail, "taken over, though not configured, so that the agent refuses them: uid " + list(extra), true}
	}
	return Finding{"users", OK, "taken over: uid " + list(loaded), false}
}

func (l *Listing) set(name string) (listedSet, bool) {
	i := slices.IndexFunc(l.sets, func(s listedSet) bool { return s.ours() && s.Name == name })
	if i < 0 {
		return listedSet{}, false
	}
	return l.sets[i], true
}

// uids reads the elements of a set of uids.
func uids(elements []json.RawMessage) ([]Range, error) {
	var all []Range
	for _, element := range elements {
		var one uint32
		var ends struct {
			Range []uint32 `json:"range"`
		}
		switch {
		case json.Unmarshal(element, &one) == nil:
			all = append(all, Range{one, one})
		case json.Unmarshal(element, &ends) == nil && len(ends.Range) == 2 && ends.Range[0] <= ends.Range[1]:
			all = append(all, Range{ends.Range[0], ends.Range[1]})
		default:
			return nil, fmt.Errorf("an element of the set of users is neither a uid nor a range: %.60s", element)
		}
	}
	return merged(all), nil
}

// without returns what of a list of ranges is not in another; both are in order and merged.
func without(all, others []Range) []Range {
	var rest []Range
	for _, r := range all {
		first, used := uint64(r.First), false
		for _, o := range others {
			if uint64(o.Last) < first || o.First > r.Last {
				continue
			}
			if uint64(o.First) > first {
				rest = append(rest, Range{uint32(first), o.First - 1}) //nolint:gosec // below o.First
			}
			if first = uint64(o.Last) + 1; first > uint64(r.Last) {
				used = true
				break
			}
		}
		if !used {
			rest = append(rest, Range{uint32(first), r.Last}) //nolint:gosec // at most r.Last
		}
	}
	return rest
}

// list writes ranges down, a few of them.
func list(ranges []Range) string {
	const most = 16
	var all []string
	for _, r := range ranges[:min(len(ranges), most)] {
		all = append(all, r.String())
	}
	if len(ranges) > most {
		all = append(all, "…")
	}
	return strings.Join(all, ", ")
}

// checkRules compares the chains and their rules, one by one and in their order.
func (p Plan) checkRules(l *Listing) Finding {
	expected := p.chains()
	for _, c := range l.chains {
		if c.ours() && !slices.ContainsFunc(expected, func(e chain) bool { return e.name == c.Name }) {
			return Finding{"rules", Fail, fmt.Sprintf("chain %s does not belong there", c.Name), true}
		}
	}
	count := 0
	for _, e := range expected {
		if wrong := e.differs(l); wrong != "" {
			return Finding{"rules", Fail, fmt.Sprintf("chain %s: %s", e.name, wrong), true}
		}
		count += len(e.rules)
	}
	if twinsDiffer(l) {
		return Finding{"rules", Fail, "the set of IPv6 addresses is another one", true}
	}
	return Finding{"rules", OK, fmt.Sprintf("%d rules, as they should be", count), false}
}

// differs says in what a chain is not as it should be; "" if it is.
func (e chain) differs(l *Listing) string {
	i := slices.IndexFunc(l.chains, func(c listedChain) bool { return c.ours() && c.Name == e.name })
	if i < 0 {
		return "it is not there"
	}
	if c := l.chains[i]; c.Type != e.kind || c.Hook != e.hook || c.Priority != e.priority || c.Policy != "accept" {
		return fmt.Sprintf("it is type %s hook %s priority %d policy %s", c.Type, c.Hook, c.Priority, c.Policy)
	}
	loaded := l.rules[inChain{l.chains[i].place, e.name}]
	for i, want := range e.rules {
		if i >= len(loaded) {
			return "missing: " + want.text
		}
		if !want.is(loaded[i]) {
			return fmt.Sprintf("rule %d is not: %s", i+1, want.text)
		}
	}
	if len(loaded) > len(e.rules) {
		return fmt.Sprintf("%d rules too many", len(loaded)-len(e.rules))
	}
	return ""
}

// is reports whether a loaded rule says the same.
func (r rule) is(loaded listedRule) bool {
	var want []any
	if err := json.Unmarshal([]byte(r.listed), &want); err != nil {
		return false // not reached: it is written in this package, and a test reads it
	}
	var got []any
	for _, statement := range loaded.Statements {
		var one any
		if json.Unmarshal(statement, &one) != nil {
			return false
		}
		got = append(got, withNamedProtocol(one))
	}
	return reflect.DeepEqual(want, got)
}

// withNamedProtocol gives a protocol its name: nft lists a number where the system has no
// /etc/protocols, as a small image may not.
func withNamedProtocol(statement any) any {
	match, _ := member(statement, "match").(map[string]any)
	if member(member(match["left"], "meta"), "key") == "l4proto" && match["right"] == float64(tcpNumber) {
		match["right"] = "tcp"
	}
	return statement
}

// tcpNumber is the number of TCP among the protocols over IP.
const tcpNumber = 6

// member is a member of a JSON object; nil if there is none, or it is no object.
func member(of any, name string) any {
	object, _ := of.(map[string]any)
	return object[name]
}

// twinsDiffer reports whether the set of IPv6 addresses is not the one that it should be.
func twinsDiffer(l *Listing) bool {
	set, ok := l.set(twinsSet)
	if !ok {
		return true
	}
	var loaded []string
	for _, element := range set.Elements {
		var one string
		if json.Unmarshal(element, &one) != nil {
			return true
		}
		loaded = append(loaded, one)
	}
	return !slices.Equal(slices.Sorted(slices.Values(loaded)), slices.Sorted(slices.Values(twins())))
}
