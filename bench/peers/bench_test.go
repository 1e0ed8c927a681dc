package peers_test

import (
	"crypto"
	"slices"
	"testing"
	"time"

	"github.com/keyagent/keyagent/bench/peers"
)

func BenchmarkGoTPMTools(b *testing.B)           { beside(b, goTPMTools) }
func BenchmarkGoAttestation(b *testing.B)        { beside(b, goAttestation) }
func BenchmarkStep(b *testing.B)                 { beside(b, step) }
func BenchmarkKeyfilesKeySigner(b *testing.B)    { beside(b, keyfilesKeySigner) }
func BenchmarkKeyfilesHandleSigner(b *testing.B) { beside(b, keyfilesHandleSigner) }

// beside compares us, in each form, with a peer.
func beside(b *testing.B, open peer) {
	on := start(b)
	for _, f := range peers.Forms() {
		for _, s := range schemes() {
			b.Run(f.Name+"/"+s.name, func(b *testing.B) {
				reference := open(b, on, s)
				pair(b, openOurs(b, on, f, s), reference, s)
			})
		}
	}
	for _, s := range schemes() {
		b.Run("least/"+s.name, func(b *testing.B) {
			reference := open(b, on, s)
			least(b, openBare(b, on, s), reference, s)
		})
	}
}

// pair measures both in turn; the order changes each time. What it reports are medians: the two
// share a garbage collector, which may interrupt either.
//
// We verify each signature before we return it, and our time includes that. "verified" is the
// reference with one verification by its caller, which gives the same promise.
func pair(b *testing.B, ours, reference crypto.Signer, s scheme) {
	b.Helper()
	check(b, ours, s)
	check(b, reference, s)
	var mine, theirs, verified times
	turns := []func(){
		func() { mine.add(timed(b, func() error { return sign(ours, s) })) },
		func() { theirs.add(timed(b, func() error { return sign(reference, s) })) },
	}
	signature, err := reference.Sign(nil, digest(), s.opts)
	if err != nil {
		b.Fatal(err)
	}
	for i := 0; b.Loop(); i++ {
		turns[i%2]()
		turns[1-i%2]()
		verified.add(timed(b, func() error { return s.verify(reference.Public(), signature) }))
	}
	report(b, "", mine.median(), theirs.median())
	report(b, "verified-", mine.median(), theirs.median()+verified.median())
}

// least measures a peer beside the least that a signer which verifies can take: the bare exchange
// and one verification. Where the peer takes less, no signer that verifies can be faster.
func least(b *testing.B, by *bare, reference crypto.Signer, s scheme) {
	b.Helper()
	signature, err := reference.Sign(nil, digest(), s.opts)
	if err != nil {
		b.Fatal(err)
	}
	var exchanges, verifications, theirs times
	turns := []func(){
		func() { exchanges.add(timed(b, by.exchange)) },
		func() { theirs.add(timed(b, func() error { return sign(reference, s) })) },
	}
	for i := 0; b.Loop(); i++ {
		turns[i%2]()
		turns[1-i%2]()
		verifications.add(timed(b, func() error { return s.verify(reference.Public(), signature) }))
	}
	report(b, "", exchanges.median()+verifications.median(), theirs.median())
}

func report(b *testing.B, what string, ours, reference float64) {
	b.ReportMetric(ours, "ours-"+what+"ns")
	b.ReportMetric(reference, "reference-"+what+"ns")
	b.ReportMetric(ours/reference, what+"ratio")
}

func sign(by crypto.Signer, s scheme) error {
	_, err := by.Sign(nil, digest(), s.opts)
	return err
}

func timed(b *testing.B, f func() error) time.Duration {
	start := time.Now()
	err := f()
	took := time.Since(start)
	if err != nil {
		b.Fatal(err)
	}
	return took
}

// times are what the rounds took.
type times []time.Duration

func (t *times) add(d time.Duration) { *t = append(*t, d) }

// median is in nanoseconds.
func (t times) median() float64 {
	sorted := slices.Sorted(slices.Values(t))
	return float64(sorted[len(sorted)/2])
}
