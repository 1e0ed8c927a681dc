package agentapi_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/wire"
)

// serveAlso serves another way of a server until the test ends.
func serveAlso(t *testing.T, server *agentapi.Server, way agentapi.Way) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, way) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// adminSocket is an agent whose requests go to its administrators' socket.
func adminSocket(t *testing.T, cfg agentapi.Config) *agent {
	t.Helper()
	a := start(t, cfg)
	path := filepath.Join(filepath.Dir(a.socket), "admin.sock")
	ln, err := agentapi.Listen(path, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	serveAlso(t, a.server, agentapi.Admin(ln))
	at := &agent{socket: path, server: a.server, audit: a.audit, log: a.log}
	at.http = &http.Client{Transport: &http.Transport{DialContext: at.dial}}
	t.Cleanup(at.http.CloseIdleConnections)
	return at
}

// plain is get without a look at what the API documents: it is documented for the agent's socket.
func (a *agent) plain(t *testing.T, target string) (status int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://agent"+target, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Metadata", "true")
	resp, err := a.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestTheAdministratorsSocketGivesNoTokens(t *testing.T) {
	a := adminSocket(t, config(working, rulesFor(os.Geteuid())))
	for path, want := range map[string]int{
		wire.PathStatus: 200, wire.PathMetrics: 200, wire.PathHealth: 200, wire.PathReady: 200,
		nativeTarget: 404, imdsTarget: 404, wire.PathIdentities: 404, wire.PathCapabilities: 404, "/": 404,
		wire.PathHealth + "/": 404, wire.PathHealth + "?x=y": 400, "//metrics": 404, "/debug/vars": 404, "/debug/pprof/": 404,
	} {
		if status, body := a.plain(t, path); status != want || strings.Contains(body, tokenText) {
			t.Errorf("%s: %d %s", path, status, body)
		}
		if record := a.audit.lastRecord(t); record["status"] != float64(want) {
			t.Errorf("%s: the record is %v", path, record)
		}
	}
	for _, header := range []string{"Origin", "Referer", "Sec-Fetch-Site", "X-Forwarded-For", "Forwarded"} {
		if p := a.get(t, wire.PathMetrics, header, "x").problem(t); p.Code != wire.CodeRefusedHeader {
			t.Errorf("with %s: %+v", header, p)
		}
	}
	needRoot(t)
	for uid, want := range map[int]int{65534: 403, 0: 200} {
		for _, path := range []string{wire.PathStatus, wire.PathMetrics, wire.PathHealth, wire.PathReady} {
			if status, body := reply(t, process("ask", a.socket, path, &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)})); status != want {
				t.Errorf("uid %d, %s: %d %s", uid, path, status, body)
			}
		}
	}
}

func TestAdministratorsAreServedOnUnixSocketsOnly(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, _, _ := newServer(t, config(working, rulesFor(1000)))
	if err := server.Serve(t.Context(), agentapi.Admin(ln)); err == nil || !strings.Contains(err.Error(), "tcp") {
		t.Errorf("got %v", err)
	}
}

// The inside of the process, which libraries open on the default mux, is nowhere to be found.
func TestNoFaceServesTheDefaultMux(t *testing.T) {
	server, _, _ := newServer(t, config(working, rulesFor(os.Geteuid())))
	for _, path := range []string{"/debug/vars", "/debug/pprof/", "/debug/pprof/heap", "/debug/requests"} {
		w := httptest.NewRecorder()
		server.HandlerFor(peer.Caller{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != http.StatusNotFound || strings.Contains(w.Body.String(), "memstats") {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}

func TestReadiness(t *testing.T) {
	status := wire.Status{Ready: true}
	cfg := config(working, rulesFor(os.Geteuid()))
	cfg.Status = func(context.Context) wire.Status { return status }
	a := start(t, cfg)
	if got := decode[wire.Health](t, a.get(t, wire.PathReady).body); got.Status != wire.HealthReady {
		t.Errorf("got %+v", got)
	}
	status = wire.Status{NotReady: []string{"the TPM does not answer: no device", `identity "vm" cannot give tokens`}}
	p := a.get(t, wire.PathReady).problem(t)
	if p.Code != wire.CodeNotReady || p.Status != 503 || p.RetryAfter != 5 || !slices.Equal(p.Reasons, status.NotReady) {
		t.Errorf("got %+v", p)
	}
	if got := decode[wire.Health](t, a.get(t, wire.PathHealth).body); got.Status != wire.HealthOK {
		t.Errorf("an agent that is not ready is alive, and says %+v", got)
	}
}

// metricsPort is an agent whose requests go to its port for metrics.
func metricsPort(t *testing.T, cfg agentapi.Config) (a *agent, host string) {
	t.Helper()
	a = start(t, cfg)
	ln, err := agentapi.ListenLoopback(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveAlso(t, a.server, agentapi.MetricsPort(ln))
	return a, ln.Addr().String()
}

// askPort makes a request at a port, on a connection of its own.
func askPort(t *testing.T, address, path string, change func(*http.Request)) (status int, header http.Header, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(req)
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(text)
}

func TestThePortOfMetricsTellsEverybodyNoNames(t *testing.T) {
	looks := 0
	status := wire.Status{Version: "1.2.3", NotReady: []string{`identity "vm" cannot give tokens`}}
	cfg := config(working, rulesFor(os.Geteuid()))
	cfg.Status = func(context.Context) wire.Status { looks++; return status }
	clock := now
	cfg.Now = func() time.Time { return clock }
	cfg.Metrics = new(counted)
	a, port := metricsPort(t, cfg)
	code, header, text := askPort(t, port, wire.PathMetrics, nil)
	if code != 200 || !strings.Contains(text, "names false") || !requestID.MatchString(header.Get("x-ms-request-id")) {
		t.Errorf("%d %v %s", code, header, text)
	}
	if record := a.audit.lastRecord(t); record["endpoint"] != "metrics" || record["uid"] != nil || record["decision"] != "answered" {
		t.Errorf("the record is %v", record)
	}
	code, header, text = askPort(t, port, wire.PathReady, nil)
	if code != 503 || header.Get("Retry-After") == "" || strings.Contains(text, "vm") || !strings.Contains(text, string(wire.CodeNotReady)) {
		t.Errorf("%d %v %s", code, header, text)
	}
	if strings.Contains(a.log.String(), "token") {
		t.Errorf("who asks whether the agent is ready wants no token: %s", a.log)
	}
	if code, _, text := askPort(t, port, wire.PathHealth, nil); code != 200 {
		t.Errorf("%d %s", code, text)
	}
	if looks != 1 {
		t.Errorf("the status was made %d times within a moment: whoever asks could keep the TPM busy", looks)
	}
	status.Ready, status.NotReady = true, nil
	clock = clock.Add(2 * time.Second)
	if code, _, text := askPort(t, port, wire.PathReady, nil); code != 200 || looks != 2 {
		t.Errorf("%d %s, %d looks", code, text, looks)
	}
}

func TestThePortOfMetricsServesNothingElse(t *testing.T) {
	a, port := metricsPort(t, config(working, rulesFor(os.Geteuid())))
	_, number, _ := net.SplitHostPort(port)
	host := func(name string) func(*http.Request) { return func(r *http.Request) { r.Host = name } }
	header := func(name string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, "http://x.example") }
	}
	for _, tt := range []struct {
		name, path string
		change     func(*http.Request)
		want       int
	}{
		{"a token", nativeTarget, nil, 404},
		{"a token of IMDS", imdsTarget, func(r *http.Request) { r.Header.Set("Metadata", "true") }, 404},
		{"the status", wire.PathStatus, nil, 404},
		{"the inside of the process", "/debug/vars", nil, 404},
		{"a path with more", wire.PathMetrics + "/", nil, 404},
		{"a parameter", wire.PathMetrics + "?names=true", nil, 400},
		{"a name that leads here", wire.PathMetrics, host("attacker.example:" + number), 400},
		{"the machine's name", wire.PathMetrics, host("localhost:" + number), 400},
		{"another port", wire.PathMetrics, host("127.0.0.1:1"), 400},
		{"a page of a browser", wire.PathMetrics, header("Origin"), 400},
		{"a link in a browser", wire.PathMetrics, header("Referer"), 400},
		{"a proxy", wire.PathMetrics, header("X-Forwarded-For"), 400},
		{"another method", wire.PathMetrics, func(r *http.Request) { r.Method = http.MethodPost }, 405},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, _, text := askPort(t, port, tt.path, tt.change)
			if code != tt.want || strings.Contains(text, tokenText) {
				t.Errorf("%d %s, want %d", code, text, tt.want)
			}
			if record := a.audit.lastRecord(t); record["status"] != float64(tt.want) || record["endpoint"] != "metrics" {
				t.Errorf("the record is %v", record)
			}
		})
	}
}

func TestThePortOfMetricsIsOnLoopback(t *testing.T) {
	ln, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if err := agentapi.MetricsPort(ln).Err(); err == nil {
		t.Error("metrics for the network")
	}
}
