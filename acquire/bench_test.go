package acquire_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/internal/tooltest"
)

// What a token from the cache may cost.
const (
	maxCachedNanoseconds = 1000
	maxCachedAllocations = 2
)

func cachedRequest() acquire.Request {
	return acquire.Request{Identity: "vm", Resource: resource, Type: acquire.TypeBearer}
}

func allocationsOfACachedToken(tb testing.TB) float64 {
	w := newWorld(tb)
	w.mustGet(acquire.Request{})
	req, ctx := cachedRequest(), tb.Context()
	return testing.AllocsPerRun(1000, func() {
		if _, err := w.acquirer.Token(ctx, req); err != nil {
			tb.Fatal(err)
		}
	})
}

func TestACachedTokenAllocatesNextToNothing(t *testing.T) {
	if n := allocationsOfACachedToken(t); n > maxCachedAllocations {
		t.Errorf("a cached token costs %v allocations, want at most %d", n, maxCachedAllocations)
	}
}

// BenchmarkCachedToken compares a token from the cache with what it may cost. The reference is a
// number, not another's code.
func BenchmarkCachedToken(b *testing.B) {
	w := newWorld(b)
	w.mustGet(acquire.Request{})
	req, ctx := cachedRequest(), b.Context()
	for b.Loop() {
		if _, err := w.acquirer.Token(ctx, req); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N), "ours-ns")
	b.ReportMetric(maxCachedNanoseconds, "reference-ns")
	b.ReportMetric(allocationsOfACachedToken(b), "ours-allocs")
	b.ReportMetric(maxCachedAllocations, "reference-allocs")
}

// requestsFor starts many requests for one token that is not in the cache, and holds Entra's answer
// back until all of them have begun.
func requestsFor(tb testing.TB, waiters int) int64 {
	w := newWorld(tb)
	release := make(chan struct{})
	issue := w.token(time.Hour)
	w.answerWith(func(rw http.ResponseWriter, r *http.Request) {
		<-release
		issue(rw, r)
	})
	var begun, waiting sync.WaitGroup
	begun.Add(waiters)
	for range waiters {
		waiting.Go(func() {
			begun.Done()
			if got, err := w.get(acquire.Request{}); err != nil || got.AccessToken.Reveal() != "secret-token-1" {
				tb.Errorf("got %v, %v", got, err)
			}
		})
	}
	begun.Wait()
	<-w.arrived
	close(release)
	waiting.Wait()
	return w.requests.Load()
}

func TestThousandsOfWaitersAreOneRequest(t *testing.T) {
	const waiters = 5000 // the race detector takes 8128 goroutines; BenchmarkManyWaiters has more
	if n := requestsFor(t, waiters); n != 1 {
		t.Errorf("got %d requests for %d callers, want 1", n, waiters)
	}
}

// BenchmarkManyWaiters counts the requests that 10,000 waiters for one token cause.
func BenchmarkManyWaiters(b *testing.B) {
	var most int64
	for b.Loop() {
		most = max(most, requestsFor(b, 10_000))
	}
	b.ReportMetric(float64(most), "ours-requests")
	b.ReportMetric(1, "reference-requests")
}

// tokenBytes is the size of a usual access token.
const tokenBytes = 1900

// What a process may have in memory that holds as many tokens as the cache takes.
const (
	manyTokens      = 10_000
	maxResidentKB   = 64 << 10
	fillConcurrency = 8

	envUpstream = "ACQUIRE_TEST_UPSTREAM" // token endpoint of a process that holds tokens
)

// BenchmarkTokenMemory compares the resident memory of a process that holds 10,000 tokens with what
// it may be: at once, with what obtaining them has left behind, and when that is collected. The
// token endpoint is in this process, the holder is another one.
func BenchmarkTokenMemory(b *testing.B) {
	server := cheapEntra(b)
	program, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	holder := exec.CommandContext(b.Context(), program, "-test.run", "^TestHoldManyTokens$", "-test.v")
	holder.Env = append(os.Environ(), envUpstream+"="+server.URL)
	out, err := holder.CombinedOutput()
	if err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	var full, settled float64
	for line := range strings.Lines(string(out)) {
		if n, _ := fmt.Sscanf(line, "resident: %f kB, %f kB", &full, &settled); n == 2 {
			break
		}
	}
	if settled == 0 {
		b.Fatalf("the holder does not say what it occupies:\n%s", out)
	}
	b.ReportMetric(full, "ours-full-kB")
	b.ReportMetric(maxResidentKB, "reference-full-kB")
	b.ReportMetric(settled, "ours-kB")
	b.ReportMetric(maxResidentKB, "reference-kB")
}

// cheapEntra is a token endpoint that gives tokens of the usual size and issues nothing.
func cheapEntra(b *testing.B) *httptest.Server {
	reply := `{"token_type":"Bearer","expires_in":3599,"access_token":"` + strings.Repeat("x", tokenBytes) + `"}`
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		rw.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(rw, reply)
	}))
	server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	server.EnableHTTP2 = true
	server.StartTLS()
	b.Cleanup(server.Close)
	return server
}

// TestHoldManyTokens is the other process of BenchmarkTokenMemory.
func TestHoldManyTokens(t *testing.T) {
	upstream := tooltest.Entry(t, envUpstream)
	w := newWorld(t)
	w.rotate(upstream, "holder", true)
	numbered := func(n int64) acquire.Token {
		return w.mustGet(acquire.Request{Resource: fmt.Sprintf("https://r%d", n)})
	}
	var next atomic.Int64
	var filling sync.WaitGroup
	for range fillConcurrency {
		filling.Go(func() {
			for n := next.Add(1); n <= manyTokens; n = next.Add(1) {
				numbered(n)
			}
		})
	}
	filling.Wait()
	full := residentMemory(t)
	debug.FreeOSMemory()
	fmt.Printf("resident: %.0f kB, %.0f kB\n", full, residentMemory(t))
	for n := int64(1); n <= manyTokens; n++ {
		if !numbered(n).FromCache {
			t.Fatalf("token %d is not held", n)
		}
	}
}

// residentMemory returns how much of this process is in memory, in kB of 1024 bytes.
func residentMemory(tb testing.TB) float64 {
	tb.Helper()
	f, err := os.Open("/proc/self/status")
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var kB float64
		if n, _ := fmt.Sscanf(lines.Text(), "VmRSS: %f kB", &kB); n == 1 {
			return kB
		}
	}
	tb.Fatal("/proc/self/status has no VmRSS")
	return 0
}
