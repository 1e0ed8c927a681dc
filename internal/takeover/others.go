package takeover

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// inTheWay finds rules of other tables that may send traffic for IMDS elsewhere before the table of
// the takeover sees it. A rule that cannot be understood is taken to match.
func (p Plan) inTheWay(l *Listing) []Finding {
	var rules []string
	for _, c := range l.chains {
		if c.ours() || c.Hook != "output" || c.Type == "nat" && c.Priority > dstnatPriority || c.Type != "nat" && c.Priority >= filterPriority {
			continue
		}
		w := walk{plan: p, listing: l, seen: map[string]bool{}}
		w.chain(c.place, c.Name)
		rules = append(rules, w.found...)
	}
	if len(rules) == 0 {
		return []Finding{{"other tables", OK, "no rule of another table is seen to redirect traffic for IMDS", false}}
	}
	const most = 8
	if len(rules) > most {
		rules = append(rules[:most], fmt.Sprintf("and %d more", len(rules)-most))
	}
	return []Finding{{"other tables", Warn, "these rules may send traffic for IMDS elsewhere:\n" + strings.Join(rules, "\n"), false}}
}

// walk follows the chains that a packet to IMDS can come to.
type walk struct {
	plan    Plan
	listing *Listing
	seen    map[string]bool
	found   []string
}

// maxWalked bounds how many chains are followed.
const maxWalked = 4096

func (w *walk) chain(at place, name string) {
	if w.seen[name] || len(w.seen) >= maxWalked {
		return
	}
	w.seen[name] = true
	for _, r := range w.listing.rules[inChain{at, name}] {
		w.rule(r)
	}
}

func (w *walk) rule(r listedRule) {
	for _, text := range r.Statements {
		var statement map[string]json.RawMessage
		if json.Unmarshal(text, &statement) != nil {
			continue
		}
		for kind, body := range statement {
			switch kind {
			case "match":
				if w.plan.excludes(body) {
					return
				}
			case "jump", "goto":
				var to struct{ Target string }
				if json.Unmarshal(body, &to) == nil {
					w.chain(r.place, to.Target)
				}
			case "dnat", "redirect", "tproxy", "notrack", "mangle", "queue", "fwd", "xt":
				w.note(r, kind, body)
			}
		}
	}
}

// note keeps a rule that may be in the way. Of what iptables has loaded, only targets are.
func (w *walk) note(r listedRule, kind string, body json.RawMessage) {
	if kind == "mangle" && !strings.Contains(string(body), `"daddr"`) && !strings.Contains(string(body), `"dport"`) {
		return
	}
	if kind == "xt" {
		var module struct{ Type, Name string }
		if json.Unmarshal(body, &module) != nil || module.Type != "target" || !slices.Contains([]string{"DNAT", "REDIRECT", "TPROXY", "CT", "NOTRACK", "NFQUEUE"}, module.Name) {
			return
		}
		kind = module.Name
	}
	w.found = append(w.found, fmt.Sprintf("table %s %s, chain %s, handle %d: %s", r.Family, r.Table, r.Chain, r.Handle, kind))
}

// excludes reports whether a match certainly holds for no packet of a taken user to port 80 of
// IMDS.
func (p Plan) excludes(body json.RawMessage) bool {
	var m struct {
		Op   string `json:"op"`
		Left struct {
			Payload struct{ Protocol, Field string }
			Meta    struct{ Key string }
			Fib     struct {
				Result string
				Flags  json.RawMessage
			}
		} `json:"left"`
		Right json.RawMessage `json:"right"`
	}
	if json.Unmarshal(body, &m) != nil {
		return false
	}
	var holds, known bool
	switch left := m.Left; {
	case left.Payload.Protocol == "ip6" || left.Payload.Protocol == "udp":
		return true
	case left.Payload.Protocol == "ip" && left.Payload.Field == "daddr":
		holds, known = hasAddress(m.Right)
	case left.Payload.Protocol == "tcp" && left.Payload.Field == "dport":
		holds, known = hasNumber(m.Right, []Range{{80, 80}})
	case left.Meta.Key == "skuid":
		holds, known = hasNumber(m.Right, p.Users)
		known = known && m.Op == "=="
	case left.Meta.Key == "l4proto":
		holds, known = isTCP(m.Right)
	case left.Meta.Key == "oif" || left.Meta.Key == "oifname":
		holds, known = isText(m.Right, "lo")
		holds, known = !holds, known && holds // of other interfaces nothing is known
	case left.Fib.Result == "type" && strings.Contains(string(left.Fib.Flags), "daddr"):
		holds, known = isText(m.Right, "local")
		holds, known = !holds, known && holds
	}
	switch m.Op {
	case "==", "in":
		return known && !holds
	case "!=":
		return known && holds
	}
	return false
}

// isTCP reports whether a protocol is TCP, by its name or its number.
func isTCP(value json.RawMessage) (is, known bool) {
	if is, known = isText(value, "tcp"); known {
		return is, known
	}
	return hasNumber(value, []Range{{tcpNumber, tcpNumber}})
}

// hasAddress reports whether a value has the address of IMDS, if it can be read.
func hasAddress(value json.RawMessage) (has, known bool) {
	imds := netip.MustParseAddr(address)
	var text string
	if json.Unmarshal(value, &text) == nil {
		one, err := netip.ParseAddr(text)
		return err == nil && one == imds, err == nil
	}
	var block struct {
		Prefix *struct {
			Addr string `json:"addr"`
			Len  int    `json:"len"`
		} `json:"prefix"`
	}
	if json.Unmarshal(value, &block) != nil || block.Prefix == nil {
		return false, false
	}
	base, err := netip.ParseAddr(block.Prefix.Addr)
	if err != nil {
		return false, false
	}
	prefix := netip.PrefixFrom(base, block.Prefix.Len)
	return prefix.Contains(imds), prefix.IsValid()
}

// hasNumber reports whether a number is in any of the ranges, if it can be read.
func hasNumber(value json.RawMessage, ranges []Range) (has, known bool) {
	var one uint32
	if json.Unmarshal(value, &one) != nil {
		return false, false
	}
	return Plan{Users: ranges}.Takes(one), true
}

// isText reports whether a value is a word, if it is one.
func isText(value json.RawMessage, word string) (is, known bool) {
	var text string
	if json.Unmarshal(value, &text) != nil {
		return false, false
	}
	return text == word, true
}
