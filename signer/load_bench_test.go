package signer_test

import (
	"bufio"
	"cmp"
	"crypto"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/signer/internal/signertest"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// BenchmarkSignConcurrently compares 64 callers that sign at once with one that signs alone. They
// take turns within one run, and which of the two begins alternates. Of interest are two things:
// what the TPM gets done in all, and the longest that any caller waited. The TPM serves one at a
// time, so that a caller's fair share is 64 times what one signature takes alone.
//
// The TPM is a process of its own, on a processor of its own, as a real one is neither a goroutine
// nor runs on the caller's: else the callers' threads would keep it waiting for a processor, and
// that would be measured.
func BenchmarkSignConcurrently(b *testing.B) {
	const callers, each = 64, 2
	swtpm := tpmtest.Swtpm(b)
	placeApart(b, swtpm.PID())
	key := signertest.Open(b, tpmtest.Connect(b, swtpm.Device()), signertest.KeyPath(b))
	var rounds []round
	for i := 0; b.Loop(); i++ {
		var r round
		turns := []func(){
			func() { r.crowd, r.longest = signTogether(b, key, callers, each) },
			func() { r.alone, _ = signTogether(b, key, 1, callers*each) },
		}
		turns[i%2]()
		turns[1-i%2]()
		r.share = r.alone / each
		rounds = append(rounds, r)
	}
	slices.SortFunc(rounds, func(a, b round) int { return cmp.Compare(a.slowdown(), b.slowdown()) })
	usual := rounds[len(rounds)/2]
	ours, reference := callers*each/usual.crowd.Seconds(), callers*each/usual.alone.Seconds()
	b.ReportMetric(ours, "ours-sig/s")
	b.ReportMetric(reference, "reference-sig/s")
	b.ReportMetric(ours/reference, "ratio")
	worst := slices.MaxFunc(rounds, func(a, b round) int { return cmp.Compare(a.unfairness(), b.unfairness()) })
	b.ReportMetric(float64(worst.longest), "ours-wait-ns")
	b.ReportMetric(float64(worst.share), "reference-wait-ns")
	b.ReportMetric(worst.unfairness(), "wait-ratio")
}

// round is how long the same number of signatures took many callers and one. What else the machine
// does comes and goes, and the two of a round have seen the same; times of different rounds are not
// compared.
type round struct {
	crowd, alone time.Duration
	longest      time.Duration // of one signature in the crowd
	share        time.Duration // of the TPM: as long as one caller alone takes for one signature of each
}

func (r round) slowdown() float64   { return r.crowd.Seconds() / r.alone.Seconds() }
func (r round) unfairness() float64 { return r.longest.Seconds() / r.share.Seconds() }

// placeApart gives a process the last processor, and this one the others, until the benchmark ends.
// A machine of one processor has nothing to share out.
func placeApart(b *testing.B, pid int) {
	b.Helper()
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		b.Fatal(err)
	}
	if all.Count() < 2 {
		return
	}
	last := len(all)*64 - 1
	for !all.IsSet(last) {
		last--
	}
	var its unix.CPUSet
	its.Set(last)
	ours := all
	ours.Clear(last)
	if err := unix.SchedSetaffinity(pid, &its); err != nil {
		b.Fatal(err)
	}
	before := runtime.GOMAXPROCS(ours.Count())
	placeThreads(b, &ours)
	b.Cleanup(func() {
		placeThreads(b, &all)
		runtime.GOMAXPROCS(before)
	})
}

// placeThreads places those that there are, and so those that they will start
// (sched_setaffinity(2)).
func placeThreads(b *testing.B, on *unix.CPUSet) {
	b.Helper()
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		b.Fatal(err)
	}
	for _, thread := range threads {
		tid, err := strconv.Atoi(thread.Name())
		if err == nil {
			err = unix.SchedSetaffinity(tid, on)
		}
		if err != nil && !errors.Is(err, unix.ESRCH) { // it has ended
			b.Fatal(err)
		}
	}
}

// signTogether lets callers sign at once, each so many times, and returns how long all of it took,
// and the slowest signature.
func signTogether(b *testing.B, key *signer.Key, callers, each int) (took, longest time.Duration) {
	b.Helper()
	slowest := make([]time.Duration, callers)
	var signing errgroup.Group
	start := time.Now()
	for i := range callers {
		signing.Go(func() (err error) {
			slowest[i], err = signRepeatedly(key, each)
			return err
		})
	}
	if err := signing.Wait(); err != nil {
		b.Fatal(err)
	}
	return time.Since(start), slices.Max(slowest)
}

// signRepeatedly returns how long the slowest of n signatures took.
func signRepeatedly(key *signer.Key, n int) (longest time.Duration, err error) {
	digest := signertest.Digest(crypto.SHA256, "benchmark")
	for range n {
		start := time.Now()
		if _, err := key.Sign(nil, digest, crypto.SHA256); err != nil {
			return 0, err
		}
		longest = max(longest, time.Since(start))
	}
	return longest, nil
}

// BenchmarkSignMemory compares the memory that is resident after 100,000 signatures with that after
// 10,000: what a signature leaves behind, in this process or in the TPM, is found by its sum. The
// number is fixed, whatever -benchtime says. The simulated TPM is in this process, so that a leak
// of its own would show as well.
func BenchmarkSignMemory(b *testing.B) {
	const warm, all = 10_000, 100_000
	machine := tpmtest.Shared(b)
	before := occupied(b, machine.Device())
	key := signertest.Open(b, tpmtest.Connect(b, machine.Device()), signertest.KeyPath(b))

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

// residentMemory returns how much of this process is in memory when nothing is left to be
// collected, in kB of 1024 bytes.
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
