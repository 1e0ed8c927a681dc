package takeover_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/internal/takeover"
)

// loaded is the plan of testdata/loaded.json, which nft 1.0.6 has printed.
var loaded = takeover.Plan{Port: 842, Users: []takeover.Range{{4101, 4101}, {100000, 165535}}, Forward: true}

func listing(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "loaded.json"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// check reads a listing and returns what did not pass.
func check(t testing.TB, p takeover.Plan, listing string) []takeover.Finding {
	t.Helper()
	l, err := takeover.Read(strings.NewReader(listing))
	if err != nil {
		t.Fatal(err)
	}
	var bad []takeover.Finding
	for _, f := range p.Check(l) {
		if f.Verdict != takeover.OK {
			bad = append(bad, f)
		}
	}
	return bad
}

func TestNftListsTheRulesThatWereLoaded(t *testing.T) {
	if bad := check(t, loaded, listing(t)); len(bad) > 0 {
		t.Errorf("%+v", bad)
	}
}

// nft names no protocol where there is no /etc/protocols (netbase is not installed).
func TestNftListsNumbersOfProtocols(t *testing.T) {
	numbers := strings.ReplaceAll(listing(t), `"right": "tcp"`, `"right": 6`)
	if bad := check(t, loaded, numbers); numbers == listing(t) || len(bad) > 0 {
		t.Errorf("%+v", bad)
	}
	if bad := check(t, loaded, strings.ReplaceAll(numbers, `"right": 6}`, `"right": 17}`)); len(bad) == 0 {
		t.Error("another protocol is taken for TCP")
	}
}

func TestDeviationsFromThePlanAreFound(t *testing.T) {
	text := listing(t)
	for name, change := range map[string][2]string{
		"another table":                  {`"keyagent_takeover"`, `"another"`},
		"another family":                 {`"family": "inet"`, `"family": "ip"`},
		"switched off":                   {`{"table": {`, `{"table": {"flags": ["dormant"], `},
		"a user less":                    {`[4101, {"range"`, `[{"range"`},
		"a shorter range":                {`[100000, 165535]`, `[100000, 165534]`},
		"a hole in a range":              {`{"range": [100000, 165535]}`, `{"range": [100000, 120000]}, {"range": [120002, 165535]}`},
		"a user more":                    {`[4101, {"range"`, `[4101, 4200, {"range"`},
		"another port":                   {`{"redirect": {"port": 842}}`, `{"redirect": {"port": 8080}}`},
		"another set":                    {`"right": "@users"`, `"right": "@twins"`},
		"another address":                {`"right": "169.254.169.254"`, `"right": "169.254.169.253"`},
		"accepted in place of refused":   {`{"reject": {"type": "tcp reset"}}`, `{"accept": null}`},
		"another hook":                   {`"hook": "output", "prio": -100`, `"hook": "input", "prio": -100`},
		"another priority":               {`"prio": 0`, `"prio": 10`},
		"another policy":                 {`"policy": "accept"`, `"policy": "drop"`},
		"another IPv6 address":           {`"fd00:ec2::254"`, `"fd00:ec2::253"`},
		"without a chain":                {`"name": "refuse"`, `"name": "accept"`},
		"a map that does not belong":     {`{"metainfo": {`, `{"map": {"family": "inet", "table": "keyagent_takeover", "name": "m"}}, {"metainfo": {`},
		"a rule before":                  {`{"rule": {"family": "inet", "table": "keyagent_takeover", "chain": "refuse", "handle"`, `{"rule": {"family": "inet", "table": "keyagent_takeover", "chain": "refuse", "handle": 1, "expr": [{"accept": null}]}}, {"rule": {"family": "inet", "table": "keyagent_takeover", "chain": "refuse", "handle"`},
		"a statement before the verdict": {`{"reject": {"type": "tcp reset"}}]`, `{"return": null}, {"reject": {"type": "tcp reset"}}]`},
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(text, change[0]) {
				t.Fatalf("the listing has no %s", change[0])
			}
			bad := check(t, loaded, strings.Replace(text, change[0], change[1], 1))
			if len(bad) == 0 || bad[0].Verdict != takeover.Fail || !bad[0].Load {
				t.Errorf("found %+v", bad)
			}
		})
	}
}

func TestRulesThatWereNotLoadedAreMissed(t *testing.T) {
	var file struct {
		Objects []map[string]json.RawMessage `json:"nftables"`
	}
	if err := json.Unmarshal([]byte(listing(t)), &file); err != nil {
		t.Fatal(err)
	}
	for i, object := range file.Objects {
		if _, ok := object["metainfo"]; ok {
			continue
		}
		less := append(append([]map[string]json.RawMessage{}, file.Objects[:i]...), file.Objects[i+1:]...)
		text, err := json.Marshal(map[string]any{"nftables": less})
		if err != nil {
			t.Fatal(err)
		}
		if bad := check(t, loaded, string(text)); len(bad) == 0 || bad[0].Verdict != takeover.Fail {
			t.Errorf("without %s: %+v", text, bad)
		}
	}
	if bad := check(t, loaded, `{"nftables": []}`); len(bad) != 1 || bad[0].Verdict != takeover.Fail {
		t.Errorf("nothing is loaded: %+v", bad)
	}
}

// in is a rule of a table of somebody else, as nft lists it.
func in(chain string, statements ...string) string {
	return fmt.Sprintf(`{"rule": {"family": "ip", "table": "nat", "chain": %q, "handle": 7, "expr": [%s]}}`, chain, strings.Join(statements, ", "))
}

func TestRulesOfOthersInTheWay(t *testing.T) {
	const (
		output   = `{"chain": {"family": "ip", "table": "nat", "name": "OUTPUT", "type": "nat", "hook": "output", "prio": -100, "policy": "accept"}}`
		later    = `{"chain": {"family": "ip", "table": "nat", "name": "OUTPUT", "type": "nat", "hook": "output", "prio": -90, "policy": "accept"}}`
		raw      = `{"chain": {"family": "ip", "table": "nat", "name": "OUTPUT", "type": "filter", "hook": "output", "prio": -300, "policy": "accept"}}`
		incoming = `{"chain": {"family": "ip", "table": "nat", "name": "OUTPUT", "type": "nat", "hook": "prerouting", "prio": -100, "policy": "accept"}}`
		docker   = `{"chain": {"family": "ip", "table": "nat", "name": "DOCKER"}}`
		dnat     = `{"dnat": {"addr": "10.0.0.9", "port": 80}}`
		jump     = `{"jump": {"target": "DOCKER"}}`
		local    = `{"match": {"op": "==", "left": {"fib": {"result": "type", "flags": "daddr"}}, "right": "local"}}`
	)
	to := func(op, value string) string {
		return `{"match": {"op": "` + op + `", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": ` + value + `}}`
	}
	protocol := func(value string) string {
		return `{"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": ` + value + `}}`
	}
	port := func(n int) string {
		return fmt.Sprintf(`{"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": %d}}`, n)
	}
	tests := []struct {
		name    string
		objects []string
		found   bool
	}{
		{"everything redirected", []string{output, in("OUTPUT", dnat)}, true},
		{"the address redirected", []string{output, in("OUTPUT", to("==", `"169.254.169.254"`), port(80), dnat)}, true},
		{"its network redirected", []string{output, in("OUTPUT", to("==", `{"prefix": {"addr": "169.254.0.0", "len": 16}}`), dnat)}, true},
		{"all but another address", []string{output, in("OUTPUT", to("!=", `"10.0.0.1"`), dnat)}, true},
		{"a set that cannot be looked into", []string{output, in("OUTPUT", to("==", `"@some"`), dnat)}, true},
		{"by another chain", []string{output, docker, in("OUTPUT", jump), in("DOCKER", dnat)}, true},
		{"in a circle", []string{output, docker, in("OUTPUT", jump), in("DOCKER", jump, dnat)}, true},
		{"kept from being followed", []string{raw, in("OUTPUT", `{"notrack": null}`)}, true},
		{"its address rewritten", []string{raw, in("OUTPUT", `{"mangle": {"key": {"payload": {"protocol": "ip", "field": "daddr"}}, "value": "10.0.0.9"}}`)}, true},
		{"by iptables", []string{output, in("OUTPUT", `{"xt": {"type": "target", "name": "DNAT"}}`)}, true},
		{"of a user who is taken over", []string{output, in("OUTPUT", `{"match": {"op": "==", "left": {"meta": {"key": "skuid"}}, "right": 4101}}`, dnat)}, true},

		{"TCP by its number", []string{output, in("OUTPUT", protocol("6"), dnat)}, true},

		{"another protocol", []string{output, in("OUTPUT", protocol(`"udp"`), dnat)}, false},
		{"another protocol by its number", []string{output, in("OUTPUT", protocol("17"), dnat)}, false},
		{"another address", []string{output, in("OUTPUT", to("==", `"10.0.0.1"`), dnat)}, false},
		{"another network", []string{output, in("OUTPUT", to("==", `{"prefix": {"addr": "10.0.0.0", "len": 8}}`), dnat)}, false},
		{"all but this address", []string{output, in("OUTPUT", to("!=", `"169.254.169.254"`), dnat)}, false},
		{"another port", []string{output, in("OUTPUT", port(8080), dnat)}, false},
		{"Docker's", []string{output, docker, in("OUTPUT", local, jump), in("DOCKER", dnat)}, false},
		{"IPv6", []string{output, in("OUTPUT", `{"match": {"op": "==", "left": {"payload": {"protocol": "ip6", "field": "daddr"}}, "right": "::1"}}`, dnat)}, false},
		{"another user", []string{output, in("OUTPUT", `{"match": {"op": "==", "left": {"meta": {"key": "skuid"}}, "right": 5000}}`, dnat)}, false},
		{"over loopback", []string{output, in("OUTPUT", `{"match": {"op": "==", "left": {"meta": {"key": "oif"}}, "right": "lo"}}`, dnat)}, false},
		{"a mark", []string{raw, in("OUTPUT", `{"mangle": {"key": {"meta": {"key": "mark"}}, "value": 1}}`)}, false},
		{"a chain that comes later", []string{later, in("OUTPUT", dnat)}, false},
		{"what comes in", []string{incoming, in("OUTPUT", dnat)}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			text := strings.Replace(listing(t), `{"metainfo"`, strings.Join(tt.objects, ", ")+`, {"metainfo"`, 1)
			bad := check(t, loaded, text)
			if found := len(bad) == 1 && bad[0].Check == "other tables" && bad[0].Verdict == takeover.Warn; found != tt.found || !found && len(bad) > 0 {
				t.Errorf("found %+v", bad)
			}
		})
	}
}

func TestTextThatIsNoListingIsRefused(t *testing.T) {
	for _, text := range []string{
		"", "[]", "{}", `{"nftables": {}}`, `{"nftables": [7]}`, `{"nftables": [{"rule": 7}]}`, `{"nftables": [{"set": {"elem": {}}}]}`, `{"nftables": [{"chain": {"prio": "x"}}]}`,
		"Error: Operation not permitted",
	} {
		if _, err := takeover.Read(strings.NewReader(text)); err == nil {
			t.Errorf("%q is read", text)
		}
	}
	if _, err := takeover.Read(endless{}); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("an endless listing: %v", err)
	}
}

// endless is a listing without end.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return copy(p, bytes.Repeat([]byte{' '}, len(p))), nil }

// FuzzListing: whatever is listed, a table that is not as it should be does not pass for one.
func FuzzListing(f *testing.F) {
	f.Add(listing(f))
	f.Add(`{"nftables": [` + in("OUTPUT", `{"jump": {"target": "OUTPUT"}}`) + `]}`)
	f.Fuzz(func(t *testing.T, text string) {
		l, err := takeover.Read(strings.NewReader(text))
		if err != nil {
			return
		}
		failed := false
		for _, finding := range loaded.Check(l) {
			failed = failed || finding.Verdict == takeover.Fail
		}
		if !failed && !strings.Contains(text, "100000") {
			t.Errorf("passes without the users: %s", text)
		}
	})
}
