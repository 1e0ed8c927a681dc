package metrics

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// maxLabels is how many labels a metric has at most.
const maxLabels = 4

// values are those of a metric's labels, in the order of their names in its description.
type values [maxLabels]string

// vector has a series for each set of label values that was counted. Which values there can be is
// bounded by the configuration, so that series are never dropped.
type vector[T any] struct {
	description
	fresh  func() *T
	mu     sync.RWMutex
	series map[values]*T
}

// with returns the series with these values.
func (v *vector[T]) with(of values) *T {
	v.mu.RLock()
	one := v.series[of]
	v.mu.RUnlock()
	if one != nil {
		return one
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if one = v.series[of]; one == nil {
		one = v.fresh()
		v.series[of] = one
	}
	return one
}

// read makes a reading of all series.
func (v *vector[T]) read(sample func(*T) sample) *reading {
	r := &reading{description: v.description}
	v.mu.RLock()
	defer v.mu.RUnlock()
	for of, one := range v.series {
		s := sample(one)
		for i, name := range v.names {
			s.labels = append(s.labels, label{name, of[i]})
		}
		r.samples = append(r.samples, s)
	}
	return r
}

// counters count what happens.
type counters = vector[atomic.Uint64]

func newCounters(name, help string, names ...string) *counters {
	return &counters{
		description: description{name, help, counter, names},
		fresh:       func() *atomic.Uint64 { return new(atomic.Uint64) }, series: map[values]*atomic.Uint64{},
	}
}

func countOf(c *atomic.Uint64) sample { return sample{value: float64(c.Load())} }

// total is the sum of all series.
func total(c *counters) (sum uint64) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, one := range c.series {
		sum += one.Load()
	}
	return sum
}

// histograms count durations by their length.
type histograms = vector[histogram]

func newHistograms(name, help string, bounds []float64, names ...string) *histograms {
	h := &histograms{
		description: description{name, help, distribution, names},
		fresh:       func() *histogram { return &histogram{bounds: bounds, counts: make([]atomic.Uint64, len(bounds)+1)} },
		series:      map[values]*histogram{},
	}
	if len(names) == 0 {
		h.with(values{}) // the only one is told before anything was observed
	}
	return h
}

// histogram is one series of durations.
type histogram struct {
	bounds []float64       // in seconds, ascending
	counts []atomic.Uint64 // by the lowest bound that is not below the duration; the last has none
	sum    atomic.Int64    // in nanoseconds
}

func (h *histogram) observe(took time.Duration) {
	at, _ := slices.BinarySearch(h.bounds, took.Seconds())
	h.counts[at].Add(1)
	h.sum.Add(int64(took))
}

// distributionOf is a sample whose number of observations is the sum of its counts, also while
// others are observed.
func distributionOf(h *histogram) sample {
	s := sample{bounds: h.bounds, counts: make([]uint64, len(h.counts)), value: time.Duration(h.sum.Load()).Seconds()}
	for i := range h.counts {
		s.counts[i] = h.counts[i].Load()
	}
	return s
}
