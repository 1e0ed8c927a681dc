package agentapi_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/internal/secret"
)

// tokenBytes is the size of a usual access token.
const tokenBytes = 1900

// BenchmarkTokenOverSocket compares a cached token over the Unix socket, with everything that the
// agent does for it (caller, rules, token source, JSON, audit record), with a bare net/http handler
// that answers the same bytes over a socket of its own. The two take turns in one run, so that both
// see the same machine; what is reported are medians of the rounds. "ratio" is ours/reference in
// requests per second, "p99-ratio" in the time that 99 of 100 requests of a round stay below.
func BenchmarkTokenOverSocket(b *testing.B) {
	for _, connections := range []int{1, 16} {
		b.Run("connections="+strconv.Itoa(connections), func(b *testing.B) {
			ours := newContender(b, connections, serveAgent(b))
			reply := ours.fetch(b)
			reference := newContender(b, connections, serveBare(b, reply))
			if got := reference.fetch(b); string(got) != string(reply) {
				b.Fatalf("the two answer differently: %d and %d bytes", len(reply), len(got))
			}
			b.ResetTimer()
			compare(b, ours, reference)
		})
	}
}

// compare gives the contenders turns of one round of requests each.
func compare(b *testing.B, ours, reference *contender) {
	const round = 1000
	for left := b.N; left > 0; left -= round {
		n := min(left, round)
		ours.run(b, n)
		b.StopTimer() // the time per operation is ours alone
		reference.run(b, n)
		b.StartTimer()
	}
	b.StopTimer()
	if b.Failed() {
		return
	}
	b.ReportMetric(1e9/median(ours.cpu), "ours-req/cpu-s")
	b.ReportMetric(1e9/median(reference.cpu), "reference-req/cpu-s")
	b.ReportMetric(median(reference.cpu)/median(ours.cpu), "cpu-ratio")
	b.ReportMetric(median(ours.rates), "ours-req/s")
	b.ReportMetric(median(reference.rates), "reference-req/s")
	b.ReportMetric(median(ours.rates)/median(reference.rates), "ratio")
	b.ReportMetric(median(ours.p99s), "ours-p99-ns")
	b.ReportMetric(median(reference.p99s), "reference-p99-ns")
	b.ReportMetric(median(ours.p99s)/median(reference.p99s), "p99-ratio")
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

// contender is a server with clients that keep their connections.
type contender struct {
	clients []*http.Client
	ask     func(*http.Client) ([]byte, error)
	rates   []float64 // requests per second, of each round
	p99s    []float64 // nanoseconds, of each round
	cpu     []float64 // nanoseconds of processor time for a request, of each round
}

func newContender(b *testing.B, connections int, socket string) *contender {
	c := &contender{ask: fetch}
	for range connections {
		transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}}
		b.Cleanup(transport.CloseIdleConnections)
		c.clients = append(c.clients, &http.Client{Transport: transport})
	}
	return c
}

func (c *contender) fetch(b *testing.B) []byte {
	b.Helper()
	body, err := c.ask(c.clients[0])
	if err != nil {
		b.Fatal(err)
	}
	return body
}

func fetch(client *http.Client) ([]byte, error) {
	return bodyOf(client.Get("http://agent" + nativeTarget))
}

// bodyOf reads a successful answer to its end.
func bodyOf(resp *http.Response, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d", resp.StatusCode)
	}
	return io.ReadAll(resp.Body)
}

// run makes n requests, shared among the clients.
func (c *contender) run(b *testing.B, n int) {
	b.Helper()
	times := make([][]time.Duration, len(c.clients))
	var group sync.WaitGroup
	begin, spent := time.Now(), processorTime(b)
	for i, client := range c.clients {
		share := n / len(c.clients)
		if i < n%len(c.clients) {
			share++
		}
		group.Go(func() {
			for range share {
				start := time.Now()
				if _, err := c.ask(client); err != nil {
					b.Error(err)
					return
				}
				times[i] = append(times[i], time.Since(start))
			}
		})
	}
	group.Wait()
	c.rates = append(c.rates, float64(n)/time.Since(begin).Seconds())
	c.cpu = append(c.cpu, float64(processorTime(b)-spent)/float64(n))
	all := slices.Sorted(slices.Values(slices.Concat(times...)))
	if len(all) == n {
		c.p99s = append(c.p99s, float64(all[n*99/100]))
	}
}

// processorTime returns what this process has used of the processors. Other processes of a busy
// machine take no part in it, as they do in the time of a round.
func processorTime(b *testing.B) time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// serveAgent starts the agent's server on a Unix socket and returns its path.
func serveAgent(b *testing.B) string {
	socket := filepath.Join(benchDir(b), "agent.sock")
	ln, err := agentapi.Listen(socket, 0o600)
	if err != nil {
		b.Fatal(err)
	}
	serveWays(b, benchConfig(b, rulesFor(os.Geteuid())), agentapi.Socket(ln))
	return socket
}

// benchConfig is that of a server with a source that has the token, and an audit that encodes each
// record and writes it, though nobody keeps it.
func benchConfig(b *testing.B, rules *policy.Policy) agentapi.Config {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	text := secret.New(strings.Repeat("x", tokenBytes))
	cfg := config(func(_ context.Context, r acquire.Request) (acquire.Token, error) {
		token := goodToken(r)
		token.AccessToken = text
		return token, nil
	}, rules)
	cfg.Audit = slog.New(slog.NewJSONHandler(null, nil))
	b.Cleanup(func() { _ = null.Close() })
	return cfg
}

// serveWays runs a server until the benchmark ends.
func serveWays(b *testing.B, cfg agentapi.Config, ways ...agentapi.Way) {
	server, err := agentapi.New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, ways...) }()
	b.Cleanup(func() {
		cancel()
		<-done
	})
}

// serveBare starts a server that has one answer, with the same header and body as the agent's.
func serveBare(b *testing.B, reply []byte) string {
	socket := filepath.Join(benchDir(b), "bare.sock")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		b.Fatal(err)
	}
	serveBareAt(b, ln, reply)
	return socket
}

// serveBareAt is serveBare on a listener.
func serveBareAt(b *testing.B, ln net.Listener, reply []byte) {
	length := strconv.Itoa(len(reply))
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", wire.ContentTypeJSON)
		w.Header().Set("Content-Length", length)
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set(wire.HeaderRequestID, "8b0c3d0e-0000-4000-8000-00000000c1d1")
		_, _ = w.Write(reply)
	})}
	done := make(chan error, 1)
	go func() { done <- server.Serve(ln) }()
	b.Cleanup(func() {
		_ = server.Close()
		<-done
	})
}

func benchDir(b *testing.B) string {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
