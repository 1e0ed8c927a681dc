package verifiers_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/attest"
)

// compare times our verification of the hardware, the library's, and the whole of ours in turn, and
// reports their medians.
func compare(b *testing.B, hardware, theirs, whole func() error) {
	b.Helper()
	var times [3][]time.Duration
	turns := [3]func() error{hardware, theirs, whole}
	for i := 0; b.Loop(); i++ { // the order changes each time
		for n := range turns {
			turn := (i + n) % len(turns)
			began := time.Now()
			err := turns[turn]()
			times[turn] = append(times[turn], time.Since(began))
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	reference := float64(median(times[1]))
	b.ReportMetric(float64(median(times[0])), "ours-ns")
	b.ReportMetric(reference, "reference-ns")
	b.ReportMetric(float64(median(times[2])), "ours-whole-ns")
	b.ReportMetric(reference, "reference-whole-ns")
}

// passed returns an error unless the hardware's checks have passed. No revocation list of AMD's is
// among the evidence.
func passed(r *attest.Result, prefix string) error {
	for _, check := range r.Checks {
		if strings.HasPrefix(check.Name, prefix) && check.Status != attest.Pass && check.Name != attest.CheckSNPRevocation {
			return fmt.Errorf("%+v", check)
		}
	}
	return nil
}

func median(times []time.Duration) time.Duration {
	slices.Sort(times)
	return times[len(times)/2]
}
