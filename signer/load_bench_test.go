package signer_test

import (
	"bufio"
	"crypto"
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"golang.org/x/sync/errgroup"

	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// BenchmarkSignConcurrently compares 64 callers that sign at once with one that signs alone. They take turns within one run;
// who begins changes each time. Of interest are two things: what the TPM gets done in all, and the longest that any caller
// waited. The TPM serves one at a time, so that a caller's fair share is 64 times what one signature takes alone.
//
// The TPM is a process of its own, as a real one is nobody's goroutine: in this process, Go's scheduler would move the simulated
// one from processor to processor between the callers, and that would be measured.
func BenchmarkSignConcurrently(b *testing.B) {
	const callers, each = 64, 4
	key := open(b, tpmtest.Connect(b, tpmtest.Swtpm(b).Device()), keyPath(b))
	var crowd, alone load
	rounds := []func(){
		func() { crowd.round(b, key, callers, each) },
		func() { alone.round(b, key, 1, callers*each) },
	}
	for i := 0; b.Loop(); i++ {
		rounds[i%2]()
		rounds[1-i%2]()
	}
	share := callers * alone.took.Seconds() / float64(alone.signatures)
	b.ReportMetric(crowd.rate(), "ours-sig/s")
	b.ReportMetric(alone.rate(), "reference-sig/s")
	b.ReportMetric(crowd.rate()/alone.rate(), "ratio")
	b.ReportMetric(crowd.longest.Seconds()*1e9, "ours-wait-ns")
	b.ReportMetric(share*1e9, "reference-wait-ns")
	b.ReportMetric(crowd.longest.Seconds()/share, "wait-ratio")
}

// load is what a number of callers got done.
type load struct {
	signatures int
	took       time.Duration
	longest    time.Duration // of one signature
}

func (l *load) rate() float64 { return float64(l.signatures) / l.took.Seconds() }

// round lets callers sign at once, each so many times.
func (l *load) round(b *testing.B, key *signer.Key, callers, each int) {
	b.Helper()
	longest := make([]time.Duration, callers)
	var signing errgroup.Group
	start := time.Now()
	for i := range callers {
		signing.Go(func() (err error) {
			longest[i], err = signRepeatedly(key, each)
			return err
		})
	}
	if err := signing.Wait(); err != nil {
		b.Fatal(err)
	}
	l.took += time.Since(start)
	l.signatures += callers * each
	for _, d := range longest {
		l.longest = max(l.longest, d)
	}
}

// signRepeatedly returns how long the slowest of n signatures took.
func signRepeatedly(key *signer.Key, n int) (longest time.Duration, err error) {
	digest := digest(crypto.SHA256, "benchmark")
	for range n {
		start := time.Now()
		if _, err := key.Sign(nil, digest, crypto.SHA256); err != nil {
			return 0, err
		}
		longest = max(longest, time.Since(start))
	}
	return longest, nil
}

// BenchmarkSignMemory compares the memory that is resident after 100,000 signatures with that after 10,000: what a signature
// leaves behind, in this process or in the TPM, is found by its sum. The number is fixed, whatever -benchtime says. The
// simulated TPM is in this process, so that a leak of its own would show as well.
func BenchmarkSignMemory(b *testing.B) {
	const warm, all = 10_000, 100_000
	machine := tpmtest.Shared(b)
	before := occupied(b, machine.Device())
	key := open(b, tpmtest.Connect(b, machine.Device()), keyPath(b))

	signMany(b, key, warm)
	reference, early := residentMemory(b), occupied(b, machine.Device())
	signMany(b, key, all-warm)
	ours, late := residentMemory(b), occupied(b, machine.Device())

	if late.exceed(early) {
		b.Fatalf("after %d signatures the TPM holds %+v, after %d it holds %+v", warm, early, all, late)
	}
	if err := key.Close(); err != nil {
		b.Fatal(err)
	}
	if end := occupied(b, machine.Device()); end.objects != before.objects {
		b.Fatalf("with the key closed the TPM holds %+v, before it was opened %+v", end, before)
	}
	b.ReportMetric(ours, "ours-kB")
	b.ReportMetric(reference, "reference-kB")
	b.ReportMetric(ours/reference, "ratio")
}

func signMany(b *testing.B, key *signer.Key, n int) {
	b.Helper()
	if _, err := signRepeatedly(key, n); err != nil {
		b.Fatal(err)
	}
}

// residentMemory returns how much of this process is in memory when nothing is left to be collected, in kB of 1024 bytes.
func residentMemory(b *testing.B) float64 {
	b.Helper()
	runtime.GC() // pools let go of what they hold at the second collection, which is FreeOSMemory's
	debug.FreeOSMemory()
	f, err := os.Open("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var kB float64
		if n, _ := fmt.Sscanf(lines.Text(), "VmRSS: %f kB", &kB); n == 1 {
			return kB
		}
	}
	b.Fatal("/proc/self/status has no VmRSS")
	return 0
}

// slots are a TPM's, which has three of each for all (TPM 2.0 Part 2, 7.2).
type slots struct{ objects, loadedSessions, savedSessions int }

func (s slots) exceed(other slots) bool {
	return s.objects > other.objects || s.loadedSessions > other.loadedSessions || s.savedSessions > other.savedSessions
}

// occupied counts over a connection of its own, because ours might tidy up first.
func occupied(b *testing.B, device string) slots {
	b.Helper()
	conn, err := net.Dial("unix", strings.TrimPrefix(device, "unix:"))
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	on := transport.FromReadWriter(conn)
	return slots{
		objects:        countHandles(b, on, tpm2.TPMHTTransient),
		loadedSessions: countHandles(b, on, tpm2.TPMHTHMACSession),
		savedSessions:  countHandles(b, on, tpm2.TPMHTPolicySession), // in a list of handles: the saved ones
	}
}

func countHandles(b *testing.B, on transport.TPM, kind tpm2.TPMHT) int {
	b.Helper()
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: uint32(kind) << 24, PropertyCount: 254}.Execute(on)
	if err != nil {
		b.Fatal(err)
	}
	list, err := rsp.CapabilityData.Data.Handles()
	if err != nil {
		b.Fatal(err)
	}
	return len(list.Handle)
}
