package agentapi_test

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/tlsbridge"
)

// downloadBytes is what is downloaded in one operation.
const downloadBytes = 1 << 30

// BenchmarkBridgeDownload compares a download through the agent, over mutual TLS with the agent's
// settings, with one by a client of Go's that makes the same connection itself. Server, agent and
// client are in this process and take turns on the same processors; rates are medians. The memory
// is the process' resident one, of all three, after the first download through the agent and after
// the last.
func BenchmarkBridgeDownload(b *testing.B) {
	part := make([]byte, 1<<20)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(downloadBytes))
		for range downloadBytes / len(part) {
			if _, err := w.Write(part); err != nil {
				return
			}
		}
	}))
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS12}
	server.StartTLS()
	b.Cleanup(server.Close)
	pair := server.TLS.Certificates[0] // it is a client's as well as any
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	key, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		b.Fatal("the key does not sign")
	}
	to := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, server.Listener.Addr().String())
	}
	over, err := tlsbridge.NewForResource(tlsbridge.Config{RootCAs: roots, Dial: to}, tlsbridge.Pair{
		Chain: pair.Certificate, Signer: func(context.Context) crypto.Signer { return key },
	}, tlsbridge.AsksAtOnce)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(over.Close)
	cfg := config(nil, bridgeRules(os.Geteuid()))
	cfg.Policy.Rules[0].Hosts = []string{"example.com"}
	cfg.Audit = slog.New(slog.NewJSONHandler(io.Discard, nil))
	cfg.Tokens = boundTokens{bound, over.Client().Transport, nil}
	through := start(b, cfg).http
	direct := &http.Client{Transport: &http.Transport{
		DialContext: to,
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12, CurvePreferences: []tls.CurveID{tls.CurveP256},
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }},
	}}
	b.Cleanup(direct.CloseIdleConnections)

	var ours, reference []float64
	bridged := func() float64 {
		return download(b, through, "http://agent"+wire.PathBridge+"vm/example.com/")
	}
	bridged()
	download(b, direct, "https://example.com/")
	before := resident(b)
	b.SetBytes(downloadBytes)
	b.ResetTimer()
	for range b.N {
		ours = append(ours, bridged())
		b.StopTimer()
		reference = append(reference, download(b, direct, "https://example.com/"))
		b.StartTimer()
	}
	b.StopTimer()
	after := resident(b)
	b.ReportMetric(median(ours), "ours-MB/s")
	b.ReportMetric(median(reference), "reference-MB/s")
	b.ReportMetric(median(ours)/median(reference), "ratio")
	b.ReportMetric(max(0, after-before), "ours-growth-kB")
	b.ReportMetric(8<<10, "reference-growth-kB")
}

// download returns the rate of one.
func download(b *testing.B, client *http.Client, url string) float64 {
	b.Helper()
	begun := time.Now()
	resp, err := client.Get(url)
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	n, err := io.CopyBuffer(writerOnly{io.Discard}, resp.Body, make([]byte, 64<<10))
	if err == nil && (n != downloadBytes || resp.StatusCode != http.StatusOK) {
		err = errors.New(resp.Status + ", " + strconv.FormatInt(n, 10) + " bytes")
	}
	if err != nil {
		b.Fatal(err)
	}
	return downloadBytes / 1e6 / time.Since(begun).Seconds()
}

// writerOnly has no way to read from a body but by the buffer that it is given.
type writerOnly struct{ io.Writer }

// resident is the resident memory of this process in kB, without what the collector has not got to.
func resident(b *testing.B) float64 {
	b.Helper()
	runtime.GC()
	debug.FreeOSMemory()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
			if err != nil {
				b.Fatal(err)
			}
			return kb
		}
	}
	b.Fatal("no VmRSS")
	return 0
}
