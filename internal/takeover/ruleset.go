package takeover

import (
	"fmt"
	"strings"

	"github.com/keyagent/keyagent/internal/cloud"
)

const address = cloud.MetadataAddress

// Table is the name of the table, of the family inet. Nothing else may be in it.
const Table = "keyagent_takeover"

// Names of the table's chains and sets.
const (
	usersSet       = "users"
	twinsSet       = "twins"
	divertChain    = "divert"
	refuseChain    = "refuse"
	forwardedChain = "forwarded"
)

// Priorities of the hooks (<linux/netfilter_ipv4.h>).
const (
	dstnatPriority = -100
	filterPriority = 0
)

// twins are the IPv6 addresses at which metadata services of this and other platforms are known:
// Azure documents none. The last is the address as a translator (RFC 6052) would have it.
func twins() []string {
	return []string{"fd00:ec2::254", "fd20:ce::254", "fe80::a9fe:a9fe", "64:ff9b::a9fe:a9fe"}
}

// chain is a base chain of the table with its rules in their order.
type chain struct {
	name, kind, hook string
	priority         int
	why              string
	rules            []rule
}

// rule is a rule in nft's language, and as nft -j lists it.
type rule struct{ text, listed string }

// Matches as nft -j lists them.
const (
	ofUsers      = `{"match":{"op":"==","left":{"meta":{"key":"skuid"}},"right":"@users"}}`
	ofOthers     = `{"match":{"op":"!=","left":{"meta":{"key":"skuid"}},"right":"@users"}}`
	toIMDS       = `{"match":{"op":"==","left":{"payload":{"protocol":"ip","field":"daddr"}},"right":"` + address + `"}}`
	toTwins      = `{"match":{"op":"==","left":{"payload":{"protocol":"ip6","field":"daddr"}},"right":"@twins"}}`
	byTCP        = `{"match":{"op":"==","left":{"meta":{"key":"l4proto"}},"right":"tcp"}}`
	toPort       = `{"match":{"op":"==","left":{"payload":{"protocol":"tcp","field":"dport"}},"right":%d}}`
	overLoopback = `{"match":{"op":"==","left":{"meta":{"key":"oif"}},"right":"lo"}}`
	meantForIMDS = `{"match":{"op":"==","left":{"ct":{"key":"ip daddr","dir":"original"}},"right":"` + address + `"}}`
	meantForPort = `{"match":{"op":"==","left":{"ct":{"key":"proto-dst","dir":"original"}},"right":80}}`
	redirected   = `{"match":{"op":"in","left":{"ct":{"key":"status"}},"right":"dnat"}}`
	established  = `{"match":{"op":"in","left":{"ct":{"key":"state"}},"right":"established"}}`
	sourceRoute  = `{"match":{"op":"==","left":{"ip option":{"name":"%s"}},"right":true}}`
	accepted     = `{"accept":null}`
	reset        = `{"reject":{"type":"tcp reset"}}`
	unreachable  = `{"reject":{"type":"icmp","expr":"port-unreachable"}}`
	unreachable6 = `{"reject":{"type":"icmpv6","expr":"port-unreachable"}}`
)

func listed(parts ...string) string { return "[" + strings.Join(parts, ",") + "]" }

// chains are those of the table.
func (p Plan) chains() []chain {
	all := []chain{p.divert(), p.refuse()}
	if p.Forward {
		all = append(all, chain{
			forwardedChain, "filter", "forward", filterPriority,
			"Traffic of containers and virtual machines: its user cannot be seen here.",
			[]rule{{"ip daddr " + address + " reject", listed(toIMDS, unreachable)}},
		})
	}
	return all
}

func (p Plan) divert() chain {
	return chain{
		divertChain, "nat", "output", dstnatPriority,
		"The first packet of a connection decides where all of it goes.",
		[]rule{{
			fmt.Sprintf("meta skuid @users ip daddr "+address+" tcp dport 80 redirect to :%d", p.Port),
			listed(ofUsers, toIMDS, fmt.Sprintf(toPort, 80), fmt.Sprintf(`{"redirect":{"port":%d}}`, p.Port)),
		}},
	}
}

// refuse comes after divert: redirected packets have the agent's address by then.
func (p Plan) refuse() chain {
	agent := fmt.Sprintf(toPort, p.Port)
	return chain{
		refuseChain, "filter", "output", filterPriority,
		"Traffic to the agent's port that was not redirected.",
		[]rule{
			{
				fmt.Sprintf("oif lo tcp dport %d ct original ip daddr "+address+" ct original proto-dst 80 ct status dnat accept", p.Port),
				listed(overLoopback, agent, meantForIMDS, meantForPort, redirected, accepted),
			},
			{
				fmt.Sprintf("oif lo tcp dport %d reject with tcp reset", p.Port),
				listed(overLoopback, agent, reset),
			},
			{"meta skuid @users ip option lsrr exists reject", listed(ofUsers, fmt.Sprintf(sourceRoute, "lsrr"), unreachable)},
			{"meta skuid @users ip option ssrr exists reject", listed(ofUsers, fmt.Sprintf(sourceRoute, "ssrr"), unreachable)},
			{"ip daddr " + address + " meta skuid @users meta l4proto tcp reject with tcp reset", listed(toIMDS, ofUsers, byTCP, reset)},
			{"ip daddr " + address + " meta skuid != @users accept", listed(toIMDS, ofOthers, accepted)},
			// What a closed socket of others still sends has no owner any more.
			{"ip daddr " + address + " ct state established accept", listed(toIMDS, established, accepted)},
			{"ip daddr " + address + " reject", listed(toIMDS, unreachable)},
			{"meta skuid @users ip6 daddr @twins meta l4proto tcp reject with tcp reset", listed(ofUsers, toTwins, byTCP, reset)},
			{"meta skuid @users ip6 daddr @twins reject", listed(ofUsers, toTwins, unreachable6)},
		},
	}
}

// Ruleset is the file for nft -f. Loading it puts the table in the place of the one before in one
// transaction: at no moment is there none.
func (p Plan) Ruleset() string {
	var users []string
	for _, r := range p.Users {
		users = append(users, r.String())
	}
	var b strings.Builder
	fmt.Fprintf(&b, `#!/usr/sbin/nft -f
# Takes 169.254.169.254 over for chosen users: their requests go to keyagent at 127.0.0.1:%d, and
# nothing else of theirs reaches that address, also while keyagent does not run.
# Made from endpoints.takeover of keyagent's configuration. Make it anew when that, or /etc/subuid,
# changes; the numbers below are uids.

table inet %[2]s
delete table inet %[2]s

table inet %[2]s {
	set %[3]s {
		type uid
		flags interval
		elements = { %[4]s }
	}

	set %[5]s {
		type ipv6_addr
		elements = { %[6]s }
	}
`, p.Port, Table, usersSet, strings.Join(users, ",\n\t\t\t"), twinsSet, strings.Join(twins(), ", "))
	for _, c := range p.chains() {
		fmt.Fprintf(&b, "\n\t# %s\n\tchain %s {\n\t\ttype %s hook %s priority %d; policy accept;\n", c.why, c.name, c.kind, c.hook, c.priority)
		for _, r := range c.rules {
			fmt.Fprintf(&b, "\t\t%s\n", r.text)
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}
