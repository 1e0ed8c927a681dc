package metrics

import (
	"cmp"
	"slices"
	"strings"
)

// kind is what a metric is, as the text format calls it.
type kind string

const (
	counter      kind = "counter"
	gauge        kind = "gauge"
	distribution kind = "histogram"
)

// description is what is told of a metric besides its samples.
type description struct {
	name, help string
	kind       kind
	names      []string // of its labels
}

// reading is a metric at the moment when it was read.
type reading struct {
	description
	samples []sample
}

// sample is one series of a metric at that moment.
type sample struct {
	labels []label
	value  float64   // of a histogram: the sum of what was observed
	bounds []float64 // of a histogram
	counts []uint64  // of a histogram, by bound; the last is of what is above them all
}

type label struct{ name, value string }

// isName reports whether the values of a label are names of the configuration.
func isName(l label) bool { return l.name == "identity" || l.name == "credential" }

// withoutNames returns a reading without the labels that hold names. Of samples that are the same
// then, counters are added up, and of gauges the lowest is told.
func (r *reading) withoutNames() *reading {
	public := &reading{description: r.description}
	merged := map[string]int{} // where in samples, by what is left of the labels
	for _, s := range r.samples {
		s.labels = slices.DeleteFunc(slices.Clone(s.labels), isName)
		key := labelText(s.labels)
		at, known := merged[key]
		switch {
		case !known:
			merged[key] = len(public.samples)
			public.samples = append(public.samples, s)
		case r.kind == counter:
			public.samples[at].value += s.value
		case r.kind == gauge:
			public.samples[at].value = min(public.samples[at].value, s.value)
		}
	}
	return public
}

// sorted returns a reading with the labels in the order of their names, and the samples in that of
// their labels, so that two readings of the same numbers are the same text. It changes nothing.
func (r *reading) sorted() *reading {
	in := &reading{r.description, slices.Clone(r.samples)}
	for i := range in.samples {
		in.samples[i].labels = slices.SortedFunc(slices.Values(in.samples[i].labels), func(a, b label) int { return cmp.Compare(a.name, b.name) })
	}
	slices.SortFunc(in.samples, func(a, b sample) int {
		return slices.CompareFunc(a.labels, b.labels, func(a, b label) int {
			return cmp.Or(cmp.Compare(a.name, b.name), strings.Compare(a.value, b.value))
		})
	})
	return in
}
