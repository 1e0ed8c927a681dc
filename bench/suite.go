package main

import (
	"fmt"
	"slices"
	"sort"
	"strings"
)

// A benchmark is a benchmark function of the main module.
type benchmark struct{ pkg, name string }

// A comparison is one pair of metrics of one benchmark, and what is asked of it.
type comparison struct {
	name  string // what is compared, for people and for results.json
	pkg   string
	bench string // benchmark function
	sub   string // sub-benchmark, "" for the function itself
	pair  string // the metrics are ours-PAIR and reference-PAIR

	better direction
	bar    float64 // limit of ours / reference
}

type direction string

const (
	lower  direction = "lower"
	higher direction = "higher"
)

var suite = []comparison{
	{
		name: "signature, PKCS#1 v1.5, beside a bare TPM2_Sign",
		pkg:  "./signer", bench: "BenchmarkSign", sub: "PKCS1", pair: "ns",
		better: lower, bar: 1.25,
	},
	{
		name: "signature, PSS, beside a bare TPM2_Sign",
		pkg:  "./signer", bench: "BenchmarkSign", sub: "PSS", pair: "ns",
		better: lower, bar: 1.25,
	},
	{
		name: "cached token, 1 connection, beside bare net/http: rate",
		pkg:  "./agentapi", bench: "BenchmarkTokenOverSocket", sub: "connections=1", pair: "req/s",
		better: higher, bar: 0.8,
	},
	{
		name: "cached token, 1 connection, beside bare net/http: p99",
		pkg:  "./agentapi", bench: "BenchmarkTokenOverSocket", sub: "connections=1", pair: "p99-ns",
		better: lower, bar: 1.25,
	},
	{
		name: "cached token, 16 connections, beside bare net/http: rate",
		pkg:  "./agentapi", bench: "BenchmarkTokenOverSocket", sub: "connections=16", pair: "req/s",
		better: higher, bar: 0.8,
	},
	{
		name: "cached token, 16 connections, beside bare net/http: p99",
		pkg:  "./agentapi", bench: "BenchmarkTokenOverSocket", sub: "connections=16", pair: "p99-ns",
		better: lower, bar: 1.25,
	},
}

// benchmarks returns what the comparisons need run, each once.
func benchmarks(suite []comparison) []benchmark {
	var all []benchmark
	for _, c := range suite {
		if b := (benchmark{c.pkg, c.bench}); !slices.Contains(all, b) {
			all = append(all, b)
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
	Bar       float64   `json:"bar"`
	Better    direction `json:"better"`
	Met       bool      `json:"met"`
}

// judge takes the run with the median ratio. Ours and reference of one run were measured
// together; medians taken apart would pair a calm moment with a busy one.
func (c comparison) judge(lines []line) (result, error) {
	var runs []result
	for _, l := range lines {
		if r, ok := c.reading(l); ok {
			runs = append(runs, r)
		}
	}
	if len(runs) == 0 {
		return result{}, fmt.Errorf("%s in %s reports no pair ours-%s, reference-%s", c.fullName(), c.pkg, c.pair, c.pair)
	}
	sort.Slice(runs, func(i, j int) bool { return runs[i].Ratio < runs[j].Ratio })
	return runs[len(runs)/2], nil
}

func (c comparison) fullName() string {
	if c.sub == "" {
		return c.bench
	}
	return c.bench + "/" + c.sub
}

// unit is what the pair's values count: a pair of p99-ns is in ns.
func (c comparison) unit() string { return strings.TrimPrefix(c.pair, "p99-") }

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
	if c.better == higher {
		return ratio >= c.bar
	}
	return ratio <= c.bar
}
