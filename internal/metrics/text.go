package metrics

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/keyagent/keyagent/agentapi"
)

// Text implements [agentapi.Metrics].
func (m *Metrics) Text(now agentapi.Snapshot, names bool) ([]byte, error) {
	var out []byte
	for _, r := range m.read(now) {
		if !names {
			r = r.withoutNames()
		}
		out = r.sorted().appendText(out)
	}
	return out, nil
}

// read reads all metrics, in the order of their names.
func (m *Metrics) read(now agentapi.Snapshot) []*reading {
	all := []*reading{m.build}
	for _, c := range []*counters{m.issued, m.answers, m.calls, m.fetches, m.commands} {
		all = append(all, c.read(countOf))
	}
	for _, h := range []*histograms{m.took, m.fetching, m.command, m.turns} {
		all = append(all, h.read(distributionOf))
	}
	s := &snapshot{Snapshot: now, now: m.now, readings: map[string]*reading{}}
	s.collect()
	for _, r := range s.readings {
		all = append(all, r)
	}
	all = append(append(all, runtimeReadings()...), processReadings()...)
	all = slices.DeleteFunc(all, func(r *reading) bool { return len(r.samples) == 0 })
	slices.SortFunc(all, func(a, b *reading) int { return cmp.Compare(a.name, b.name) })
	return all
}

// appendText writes a reading in the text format: HELP, TYPE and a line for each sample, of a
// histogram one for each bound, for the sum and for the number of observations.
func (r *reading) appendText(out []byte) []byte {
	out = append(out, "# HELP "+r.name+" "+helpEscapes.Replace(r.help)+"\n# TYPE "+r.name+" "+string(r.kind)+"\n"...)
	for _, s := range r.samples {
		if r.kind != distribution {
			out = appendLine(out, r.name, s.labels, s.value)
			continue
		}
		var below uint64
		for i, count := range s.counts {
			bound := math.Inf(1)
			if i < len(s.bounds) {
				bound = s.bounds[i]
			}
			below += count
			out = appendLine(out, r.name+"_bucket", append(slices.Clone(s.labels), label{"le", number(bound)}), float64(below))
		}
		out = appendLine(out, r.name+"_sum", s.labels, s.value)
		out = appendLine(out, r.name+"_count", s.labels, float64(below))
	}
	return out
}

func appendLine(out []byte, name string, labels []label, value float64) []byte {
	return append(out, name+labelText(labels)+" "+number(value)+"\n"...)
}

// labelText writes labels with their braces; "" if there are none.
func labelText(labels []label) string {
	if len(labels) == 0 {
		return ""
	}
	var b strings.Builder
	between := byte('{')
	for _, l := range labels {
		b.WriteByte(between)
		b.WriteString(l.name + `="` + escapedValue(l.value) + `"`)
		between = ','
	}
	b.WriteByte('}')
	return b.String()
}

// How the format wants a label's value, and a help text. They are safe for concurrent use. Making
// one takes more memory than the rest of a page.
var (
	valueEscapes = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
	helpEscapes  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
)

// escapedValue replaces what is not UTF-8, too: the reader would refuse the whole page.
func escapedValue(s string) string { return valueEscapes.Replace(strings.ToValidUTF8(s, "\uFFFD")) }

// number writes a value as Go does, the shortest that reads back as the same.
func number(v float64) string {
	if math.IsInf(v, 1) {
		return "+Inf"
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}
