package agentapi_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/wire"
)

// trouble is an audit that can be told to fail or to stall.
type trouble struct {
	written output
	fails   atomic.Pointer[error]
	stalls  atomic.Pointer[chan struct{}]
}

func (a *trouble) fail(err error) { a.fails.Store(&err) }

func (a *trouble) stall() (resume func()) {
	blocked := make(chan struct{})
	a.stalls.Store(&blocked)
	return func() {
		a.stalls.Store(nil)
		close(blocked)
	}
}

func (a *trouble) logger() *slog.Logger {
	handler := slog.NewJSONHandler(&a.written, nil)
	return slog.New(auditFunc(func(r slog.Record) error {
		if blocked := a.stalls.Load(); blocked != nil {
			<-*blocked
		}
		if err := a.fails.Load(); err != nil && *err != nil {
			return *err
		}
		return handler.Handle(context.Background(), r)
	}))
}

// troubled returns a server with such an audit.
func troubled(t *testing.T, required bool) (*agentapi.Server, *trouble, *output) {
	t.Helper()
	audit, log := new(trouble), new(output)
	cfg := config(working, rulesFor(os.Geteuid()))
	cfg.Audit, cfg.AuditRequired = audit.logger(), required
	cfg.Logger = slog.New(slog.NewTextHandler(log, nil))
	server, err := agentapi.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return server, audit, log
}

// askSelf makes a request as the user of the test.
func askSelf(server *agentapi.Server, target string) *httptest.ResponseRecorder {
	r := newRequest(target)
	r.Header.Set("Metadata", "true")
	reply := httptest.NewRecorder()
	server.HandlerFor(self()).ServeHTTP(reply, r)
	return reply
}

func statusOf(t *testing.T, server *agentapi.Server) wire.Status {
	t.Helper()
	return decode[wire.Status](t, askSelf(server, wire.PathStatus).Body.Bytes())
}

// issued counts the records of tokens.
func (o *output) issued(t *testing.T) (n int) {
	t.Helper()
	for _, record := range o.records(t) {
		if record["decision"] == "issued" {
			n++
		}
	}
	return n
}

// tokenRequests are the forms of a request for a token.
var tokenRequests = []struct{ name, target, refused string }{
	{"native", nativeTarget, `"code":"audit_unavailable"`},
	{"native, with a scope", wire.PathToken + "?identity=vm&scope=" + vault + "/.default", `"code":"audit_unavailable"`},
	{"native, with claims", nativeTarget + "&claims=%7B%22access_token%22:%7B%22acrs%22:%7B%22essential%22:true,%22value%22:%22c1%22%7D%7D%7D", `"code":"audit_unavailable"`},
	{"IMDS protocol", imdsTarget, `"error":"temporarily_unavailable"`},
	{"IMDS protocol, with slashes", "/" + imdsTarget, `"error":"temporarily_unavailable"`},
}

// While records are required and cannot be written, no request gets a token, and as soon as they
// can be written each does.
func TestNoTokenWithoutARequiredRecord(t *testing.T) {
	for _, tt := range tokenRequests {
		t.Run(tt.name, func(t *testing.T) {
			server, audit, log := troubled(t, true)
			if reply := askSelf(server, tt.target); reply.Code != http.StatusOK {
				t.Fatalf("%d %s", reply.Code, reply.Body)
			}
			audit.fail(errors.New("no space left on device"))
			for range 3 {
				reply := askSelf(server, tt.target)
				if text := reply.Body.String(); reply.Code != http.StatusServiceUnavailable || reply.Header().Get("Retry-After") != "1" ||
					!strings.Contains(text, tt.refused) || strings.Contains(text, tokenText) {
					t.Errorf("%d %v %s", reply.Code, reply.Header(), text)
				}
			}
			status := statusOf(t, server)
			if got := status.Audit; status.Ready || !got.Required || got.Lost != 3 || got.LastError != "no space left on device" {
				t.Errorf("the status has ready %v and audit %+v", status.Ready, got)
			}
			audit.fail(nil)
			if reply := askSelf(server, tt.target); reply.Code != http.StatusOK {
				t.Errorf("afterwards: %d %s", reply.Code, reply.Body)
			}
			server.CloseTrail()
			if status := statusOf(t, server); !status.Ready || status.Audit.LastError != "" {
				t.Errorf("afterwards the status has ready %v and audit %+v", status.Ready, status.Audit)
			}
			if n := audit.written.issued(t); n != 2 {
				t.Errorf("%d records of 2 tokens", n)
			}
			if told := audit.written.withMessage(t, failed); len(told) != 1 || told[0]["count"] != 4.0 {
				t.Errorf("told of lost records: %v", told)
			}
			for _, want := range []string{"writing an audit record", "tokens are refused", "audit records are written again"} {
				if strings.Count(log.String(), want) != 1 {
					t.Errorf("the log does not say %q once: %s", want, log)
				}
			}
			server.CloseTrail()
		})
	}
}

// Without that, tokens are handed out, and it shows that records were lost.
func TestTokensWithoutRecordsAreCounted(t *testing.T) {
	for _, tt := range tokenRequests {
		t.Run(tt.name, func(t *testing.T) {
			server, audit, log := troubled(t, false)
			audit.fail(errors.New("broken pipe"))
			for range 3 {
				if reply := askSelf(server, tt.target); reply.Code != http.StatusOK || !strings.Contains(reply.Body.String(), tokenText) {
					t.Errorf("%d %s", reply.Code, reply.Body)
				}
			}
			if status := statusOf(t, server); !status.Ready || status.Audit != (wire.AuditStatus{Lost: 3, LastError: "broken pipe"}) {
				t.Errorf("the status has ready %v and audit %+v", status.Ready, status.Audit)
			}
			audit.fail(nil)
			askSelf(server, tt.target)
			server.CloseTrail()
			if told := audit.written.withMessage(t, failed); len(told) != 1 || told[0]["count"] != 4.0 || told[0]["level"] != "ERROR" {
				t.Errorf("told of lost records: %v", told)
			}
			if text := log.String(); strings.Count(text, "broken pipe") != 1 || !strings.Contains(text, "handed out without a record") {
				t.Errorf("the log: %s", text)
			}
		})
	}
}

// Requests other than for tokens are answered whether or not they are on record: the status has to
// say why there are no tokens.
func TestARequiredAuditRefusesNothingButTokens(t *testing.T) {
	server, audit, _ := troubled(t, true)
	audit.fail(errors.New("no space left on device"))
	for target, want := range map[string]int{
		wire.PathStatus: 200, wire.PathIdentities: 200, wire.PathCapabilities: 200, "/nowhere": 404,
		wire.PathToken + "?identity=backup&resource=" + vault: 403, wire.PathToken: 400,
	} {
		if reply := askSelf(server, target); reply.Code != want {
			t.Errorf("%s: %d %s", target, reply.Code, reply.Body)
		}
	}
	server.CloseTrail()
}

func TestARequiredAuditMustBeThere(t *testing.T) {
	cfg := config(working, rulesFor(1000))
	cfg.Audit, cfg.AuditRequired = slog.New(slog.DiscardHandler), true
	if _, err := agentapi.New(cfg); err == nil || !strings.Contains(err.Error(), "takes no records") {
		t.Errorf("got %v", err)
	}
	cfg.AuditRequired = false
	if _, err := agentapi.New(cfg); err != nil {
		t.Error(err)
	}
}

// Nothing of an answer leaves while its record is being written.
func TestATokenWaitsForItsRecord(t *testing.T) {
	for _, required := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			server, audit, _ := troubled(t, required)
			resume := audit.stall()
			var sent atomic.Bool
			w, done := &watchedWriter{sent: &sent}, make(chan struct{})
			go func() {
				defer close(done)
				server.HandlerFor(self()).ServeHTTP(w, newRequest(nativeTarget))
			}()
			synctest.Wait()
			if sent.Load() {
				t.Error("the answer left before its record")
			}
			resume()
			<-done
			if !strings.Contains(w.body.String(), tokenText) || audit.written.issued(t) != 1 {
				t.Errorf("%s", w.body.String())
			}
			server.CloseTrail()
		})
	}
}

// With an audit that nobody reads, no caller waits longer than half a second, and once that was so
// nobody waits at all.
func TestAnAuditThatStallsHoldsUpNobody(t *testing.T) {
	const callers, each = 50, 20
	tests := []struct {
		name     string
		required bool
		target   string
		status   int
	}{
		{"tokens", false, nativeTarget, 200},
		{"tokens in the IMDS protocol", false, imdsTarget, 200},
		{"tokens with required records", true, nativeTarget, 503},
		{"tokens in the IMDS protocol with required records", true, imdsTarget, 503},
		{"refusals", true, wire.PathToken + "?identity=backup&resource=" + vault, 403},
		{"what is answered without a token", true, wire.PathStatus, 200},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server, audit, _ := troubled(t, tt.required)
				resume := audit.stall()
				begin := time.Now()
				var group sync.WaitGroup
				for range callers {
					group.Go(func() {
						for range each {
							if reply := askSelf(server, tt.target); reply.Code != tt.status {
								t.Errorf("%d %s", reply.Code, reply.Body)
							}
						}
					})
				}
				group.Wait()
				if took := time.Since(begin); took > 500*time.Millisecond {
					t.Errorf("%d requests took %v", callers*each, took)
				}
				status := statusOf(t, server)
				if got := status.Audit.LastError; !strings.Contains(got, "stopped reading") || status.Ready == tt.required {
					t.Errorf("the status has ready %v and audit %+v", status.Ready, status.Audit)
				}
				resume()
				server.CloseTrail()
				if status := statusOf(t, server); !status.Ready || status.Audit.LastError != "" {
					t.Errorf("afterwards the status has ready %v and audit %+v", status.Ready, status.Audit)
				}
				server.CloseTrail()
				tokens := 0
				if tt.status == http.StatusOK && tt.target != wire.PathStatus {
					tokens = callers * each
				}
				// One record may be at the pipe when its caller stops waiting.
				if n := audit.written.issued(t); n != tokens && !(tt.required && n <= 1) {
					t.Errorf("%d records of %d tokens", n, tokens)
				}
			})
		})
	}
}

// A reader that stalls does not hold up the end of the server.
func TestAnAuditThatStallsDoesNotHoldUpTheEnd(t *testing.T) {
	audit := new(trouble)
	resume := audit.stall()
	defer resume()
	cfg := config(working, rulesFor(os.Geteuid()))
	cfg.Audit, cfg.ShutdownGrace = audit.logger(), time.Hour
	a := start(t, cfg)
	for range 3 {
		if got := a.get(t, nativeTarget); got.status != http.StatusOK {
			t.Errorf("%d %s", got.status, got.body)
		}
	}
	a.stop(t)
}
