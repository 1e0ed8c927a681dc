package starts_test

import (
	"slices"
	"testing"
	"time"

	"github.com/keyagent/keyagent/bench/series"
)

// What a start may cost.
var (
	mostUntilFirstToken = count{commands: 32, signatures: 4} // of the first start ever
	mostUntilReady      = count{commands: 7, signatures: 1}  // of a warm start
	mostUntilToken      = count{commands: 8, signatures: 2}  // of a warm start
)

// slow is a TPM that is not fast, and not as slow as some: a signature takes one of silicon 200 ms.
var slow = delays{command: 20 * time.Millisecond, signature: 100 * time.Millisecond}

func TestAStartSendsNoMoreCommandsThanItMay(t *testing.T) {
	i := newStage(t).install(t, build(t, repository))
	first, warm := i.start(t, delays{}), i.start(t, delays{})
	for _, c := range []struct {
		what      string
		got, most count
	}{
		{"first start ever, until the first token", first.served, mostUntilFirstToken},
		{"warm start, until the agent is ready", warm.ready, mostUntilReady},
		{"warm start, until the first token", warm.served, mostUntilToken},
	} {
		if c.got.commands > c.most.commands || c.got.signatures > c.most.signatures {
			t.Errorf("%s: got %+v, at most %+v", c.what, c.got, c.most)
		}
	}
}

// A repository without the commit, as a shallow clone is, must be told apart from one where
// building it fails.
func TestAFolderWithoutHistoryHasNoFormerCommit(t *testing.T) {
	dir := t.TempDir()
	if said, err := git(t, dir, "init", "--quiet"); err != nil {
		t.Skipf("git does not work here: %v: %s", err, said)
	}
	if _, err := git(t, dir, "cat-file", "-e", former+"^{commit}"); err == nil {
		t.Errorf("commit %s is in a repository that was just made", former)
	}
}

// BenchmarkStartCommands counts what a start sends to the TPM.
func BenchmarkStartCommands(b *testing.B) {
	i := newStage(b).install(b, build(b, repository))
	var first, warm start
	for b.Loop() {
		i.forget(b)
		first, warm = i.start(b, delays{}), i.start(b, delays{})
	}
	for _, c := range []struct {
		what      string
		got, most count
	}{
		{"first", first.served, mostUntilFirstToken},
		{"ready", warm.ready, mostUntilReady},
		{"warm", warm.served, mostUntilToken},
	} {
		b.ReportMetric(float64(c.got.commands), "ours-"+c.what+"-commands")
		b.ReportMetric(float64(c.most.commands), "reference-"+c.what+"-commands")
		b.ReportMetric(float64(c.got.signatures), "ours-"+c.what+"-signatures")
		b.ReportMetric(float64(c.most.signatures), "reference-"+c.what+"-signatures")
	}
}

// BenchmarkStartBesideFormer compares the time until the first token with that of the former build,
// on a slow TPM.
func BenchmarkStartBesideFormer(b *testing.B) {
	p := newPair(b)
	b.Run("warm", func(b *testing.B) { p.beside(b, slow, (*installation).warm) })
	b.Run("first", func(b *testing.B) { p.beside(b, slow, (*installation).first) })
	alike := slow
	alike.evidence = slow.signature
	b.Run("first-evidence", func(b *testing.B) { p.beside(b, alike, (*installation).first) })
	b.Run("latency", p.byLatency)
}

// A warm start until ready may take 1.3 times what its TPM commands take, and 30 ms besides: the
// time of the process' own start.
const (
	mostBesideCommands = 1.3
	ownStart           = 30 * time.Millisecond
)

// BenchmarkStartBesideCommands compares a warm start until the agent is ready with the time that
// its TPM took for the commands of that same start.
func BenchmarkStartBesideCommands(b *testing.B) {
	i := newStage(b).install(b, build(b, repository))
	i.first(b, delays{})
	for _, c := range []struct {
		name string
		delays
	}{{"fast", delays{}}, {"slow", slow}} {
		b.Run(c.name, func(b *testing.B) {
			var ours, bare, allowed times
			for b.Loop() {
				s := i.start(b, c.delays)
				ours.add(s.waited)
				bare.add(s.ready.took)
				allowed.add(time.Duration(mostBesideCommands*float64(s.ready.took)) + ownStart)
			}
			b.ReportMetric(ours.median(), "ours-ms")
			b.ReportMetric(bare.median(), "commands-ms")
			b.ReportMetric(allowed.median(), "reference-ms")
			b.ReportMetric(ours.median()/allowed.median(), "ratio")
		})
	}
}

// pair is this build and the former, on one platform.
type pair struct{ ours, former *installation }

func newPair(b *testing.B) pair {
	b.Helper()
	theirs := buildFormer(b)
	s := newStage(b)
	p := pair{s.install(b, build(b, repository)), s.install(b, theirs)}
	p.ours.first(b, delays{}) // makes the keys and certificates for warm starts
	p.former.first(b, delays{})
	return p
}

// beside measures both in turn; the order changes each time.
func (p pair) beside(b *testing.B, d delays, start func(*installation, testing.TB, delays) time.Duration) {
	b.Helper()
	var ours, theirs times
	turns := []func(){
		func() { ours.add(start(p.ours, b, d)) },
		func() { theirs.add(start(p.former, b, d)) },
	}
	for i := 0; b.Loop(); i++ {
		turns[i%2]()
		turns[1-i%2]()
	}
	b.ReportMetric(ours.median(), "ours-ms")
	b.ReportMetric(theirs.median(), "reference-ms")
	b.ReportMetric(ours.median()/theirs.median(), "ratio")
}

// byLatency takes warm starts of both builds on TPMs from fast to slow, for the plot. A signature
// takes five times as long as another command, besides.
func (p pair) byLatency(b *testing.B) {
	latencies := []time.Duration{0, 10 * time.Millisecond, 20 * time.Millisecond, 40 * time.Millisecond}
	ours, theirs := make([]times, len(latencies)), make([]times, len(latencies))
	for b.Loop() {
		for n, latency := range latencies {
			d := delays{command: latency, signature: 5 * latency}
			ours[n].add(p.ours.warm(b, d))
			theirs[n].add(p.former.warm(b, d))
		}
	}
	mine := series.Series{Plot: "start", Name: "this build"}
	their := series.Series{Plot: "start", Name: "commit " + former}
	for n, latency := range latencies {
		mine.Add(float64(latency.Milliseconds()), ours[n].median())
		their.Add(float64(latency.Milliseconds()), theirs[n].median())
	}
	series.Log(b, mine)
	series.Log(b, their)
}

// first is how long the first start ever takes until the first token.
func (i *installation) first(tb testing.TB, d delays) time.Duration {
	tb.Helper()
	i.forget(tb)
	return i.start(tb, d).took
}

// warm is how long a start with keys and certificates takes until the first token.
func (i *installation) warm(tb testing.TB, d delays) time.Duration {
	tb.Helper()
	return i.start(tb, d).took
}

type times []time.Duration

func (t *times) add(d time.Duration) { *t = append(*t, d) }

// median is in milliseconds.
func (t times) median() float64 {
	sorted := slices.Sorted(slices.Values(t))
	return float64(sorted[len(sorted)/2]) / float64(time.Millisecond)
}
