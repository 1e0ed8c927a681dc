package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"strings"
)

// A benchmark is a benchmark function.
type benchmark struct {
	module string // its module's folder, relative to the main module's; "" is the main module
	pkg    string
	name   string

	time string // -benchtime; "" leaves it to go test
	runs int    // 0: as many as the command line says
}

// A comparison is one pair of metrics of one benchmark, and the bar for their ratio.
type comparison struct {
	name string // for people and for results.json
	of   benchmark
	sub  string // sub-benchmark, "" for the function itself
	pair string // the metrics are ours-PAIR and reference-PAIR

	better direction
	bar    limit // of ours / reference
}

// A limit is the bar of a ratio. 0 is none, and null in results.json: the comparison is shown, and
// nothing can be missed.
type limit float64

func (l limit) MarshalJSON() ([]byte, error) {
	if l == 0 {
		return []byte("null"), nil
	}
	return json.Marshal(float64(l))
}

type direction string

const (
	lower  direction = "lower"
	higher direction = "higher"
)

// suite lists all comparisons.
func suite() []comparison {
	return slices.Concat(signatures(), load(), tokens(), tokenCosts(), starts(), remoteSignatures(), callers(), besidePeers(), bridge(), evidence(), fleets())
}

// atMost is met by a ratio up to the bar.
func atMost(bar limit, name string, of benchmark, sub, pair string) comparison {
	return comparison{name: name, of: of, sub: sub, pair: pair, better: lower, bar: bar}
}

// atLeast is met by a ratio from the bar on.
func atLeast(bar limit, name string, of benchmark, sub, pair string) comparison {
	return comparison{name: name, of: of, sub: sub, pair: pair, better: higher, bar: bar}
}

// ahead is met by a ratio up to 1.
func ahead(name string, of benchmark, sub, pair string) comparison {
	return atMost(1, name, of, sub, pair)
}

// shown is a comparison without a bar: there is a reason why ours cannot be ahead, and the number
// is worth knowing.
func shown(name string, of benchmark, sub, pair string) comparison {
	return atMost(0, name, of, sub, pair)
}

// signatures compares with the bare commands, which nothing can be faster than. A plain session
// protects nothing and so may cost next to nothing: 3 %, and the verification, which the benchmark
// has put into the reference. A protected one has HMACs to compute.
func signatures() []comparison {
	sign := benchmark{pkg: "./signer", name: "BenchmarkSign"}
	return []comparison{
		ahead("signature, plain session, PKCS#1 v1.5, beside a bare TPM2_Sign x 1.03 + one verification", sign, "plain/PKCS1", "ns"),
		ahead("signature, plain session, PSS, beside a bare TPM2_Sign x 1.03 + one verification", sign, "plain/PSS", "ns"),
		atMost(1.15, "signature, protected session, PKCS#1 v1.5, beside a bare TPM2_Sign", sign, "protected/PKCS1", "ns"),
		atMost(1.15, "signature, protected session, PSS, beside a bare TPM2_Sign", sign, "protected/PSS", "ns"),
		ahead("allocations of a plain signature, beside 30", sign, "plain/PKCS1", "allocs"),
	}
}

// remoteSignatures measures how much longer a signature takes a program because the key is the
// agent's.
func remoteSignatures() []comparison {
	remote := benchmark{pkg: "./client", name: "BenchmarkRemoteSignature", time: "40x"}
	return []comparison{
		atMost(1.15, "signature for a program's TLS handshake over the socket, beside one in the agent, TPM behind 20 ms", remote, "", "ns"),
	}
}

// load measures many callers, and many signatures.
func load() []comparison {
	concurrently := benchmark{pkg: "./signer", name: "BenchmarkSignConcurrently", time: "20x"}
	memory := benchmark{pkg: "./signer", name: "BenchmarkSignMemory", runs: 1} // a minute or more
	return []comparison{
		atLeast(0.95, "64 callers sign at once, beside one alone: rate", concurrently, "", "sig/s"),
		atMost(2, "64 callers sign at once: the longest wait, beside the fair share", concurrently, "", "wait-ns"),
		atMost(1.05, "resident memory after 100,000 signatures, beside after 10,000", memory, "", "kB"),
	}
}

// tokens compares with a server that knows the answer and asks nothing.
func tokens() []comparison {
	get := benchmark{pkg: "./agentapi", name: "BenchmarkTokenOverSocket"}
	loopback := benchmark{pkg: "./agentapi", name: "BenchmarkTokenOverLoopback"}
	many := benchmark{pkg: "./agentapi", name: "BenchmarkConnectionsMemory", time: "1x", runs: 1}
	return []comparison{
		atLeast(0.8, "cached token, 1 connection, beside bare net/http: rate", get, "connections=1", "req/s"),
		atMost(1.25, "cached token, 1 connection, beside bare net/http: p99", get, "connections=1", "p99-ns"),
		atLeast(0.85, "cached token, 16 connections, beside bare net/http: rate", get, "connections=16", "req/s"),
		atMost(1.25, "cached token, 16 connections, beside bare net/http: p99", get, "connections=16", "p99-ns"),
		atLeast(0.8, "cached token, 1 connection, beside bare net/http: requests in the same processor time", get, "connections=1", "req/cpu-s"),
		atLeast(0.85, "cached token, 16 connections, beside bare net/http: requests in the same processor time", get, "connections=16", "req/cpu-s"),
		atLeast(0.8, "App Service token over loopback beside 10,000 other sockets, 1 connection, beside bare net/http: rate", loopback, "connections=1", "req/s"),
		atLeast(0.8, "App Service token over loopback beside 10,000 other sockets, 16 connections, beside bare net/http: rate", loopback, "connections=16", "req/s"),
		atLeast(0.8, "App Service token over loopback beside 10,000 other sockets, each by a new connection whose owner is looked up, beside bare net/http: rate", loopback, "each-new", "req/s"),
		ahead("resident memory with 10,000 idle connections, beside 150 MiB", many, "", "kB"),
		ahead("resident memory with 10,000 idle connections that have got a token, beside 150 MiB", many, "", "asked-kB"),
	}
}

// fleets compares the verification of many machines with the part of it that cannot be left out.
func fleets() []comparison {
	fleet := benchmark{pkg: "./attest/fleet", name: "BenchmarkFleet", time: "1x", runs: 1}
	return []comparison{
		atLeast(0.9, "evidence of 1,000 VMs on few chips, on all processors, beside its bare signatures and hashes: rate", fleet, "", "files/s"),
		atLeast(0.9, "evidence of 1,000 VMs on few chips, beside its bare signatures and hashes: files in the same processor time", fleet, "", "files/cpu-s"),
		ahead("resident memory of 10,000 files of evidence, beside 64 MiB", fleet, "", "kB"),
	}
}

// benchmarks returns what the comparisons need run, each once.
func benchmarks(suite []comparison) []benchmark {
	var all []benchmark
	for _, c := range suite {
		if !slices.Contains(all, c.of) {
			all = append(all, c.of)
		}
	}
	return all
}

// A result is an element of results.json.
type result struct {
	Name      string    `json:"name"`
	Ours      float64   `json:"ours"`
	Reference float64   `json:"reference"`
	Unit      string    `json:"unit"`
	Ratio     float64   `json:"ratio"`
	Bar       limit     `json:"bar"`
	Better    direction `json:"better"`
	Met       bool      `json:"met"`
	Skipped   string    `json:"skipped,omitempty"` // why it could not be measured here; then there are no numbers
}

// evaluate takes the run with the median ratio. Ours and reference of one run were measured
// together; medians taken apart would pair a calm moment with a busy one.
func (c comparison) evaluate(lines []line) (result, error) {
	var runs []result
	for _, l := range lines {
		if r, ok := c.reading(l); ok {
			runs = append(runs, r)
		}
	}
	if len(runs) == 0 {
		return result{}, fmt.Errorf("%s in %s reports no pair ours-%s, reference-%s", c.fullName(), c.of.pkg, c.pair, c.pair)
	}
	sort.Slice(runs, func(i, j int) bool { return runs[i].Ratio < runs[j].Ratio })
	return runs[len(runs)/2], nil
}

func (c comparison) fullName() string {
	if c.sub == "" {
		return c.of.name
	}
	return c.of.name + "/" + c.sub
}

// skippedBy tells whether the comparison's benchmark, or its sub-benchmark, is among those that
// were skipped, and why.
func (c comparison) skippedBy(skipped map[string]string) (reason string, ok bool) {
	if reason, ok = skipped[c.of.name]; !ok {
		reason, ok = skipped[c.fullName()]
	}
	return reason, ok
}

// unit is what the pair's values count: a pair of p99-ns is in ns. A rate is written in one word.
func (c comparison) unit() string {
	if strings.Contains(c.pair, "/") {
		return c.pair
	}
	return c.pair[strings.LastIndex(c.pair, "-")+1:]
}

// reading reads the comparison from one line; ok is false if the line is another's.
func (c comparison) reading(l line) (r result, ok bool) {
	ours, haveOurs := l.metrics["ours-"+c.pair]
	reference, haveReference := l.metrics["reference-"+c.pair]
	if l.name != c.fullName() || !haveOurs || !haveReference || reference <= 0 {
		return result{}, false
	}
	ratio := ours / reference
	return result{
		Name: c.name, Ours: ours, Reference: reference, Unit: c.unit(),
		Ratio: ratio, Bar: c.bar, Better: c.better, Met: c.met(ratio),
	}, true
}

func (c comparison) met(ratio float64) bool {
	switch {
	case c.bar == 0:
		return true
	case c.better == higher:
		return ratio >= float64(c.bar)
	default:
		return ratio <= float64(c.bar)
	}
}
