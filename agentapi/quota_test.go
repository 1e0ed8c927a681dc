package agentapi_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/wire"
)

// many is far more than what is on record of one account.
const many = 20 * agentapi.RecordsOfAccount

const (
	tooMany = "answers without a record: there were too many"
	failed  = "answers without a record: writing it failed"
)

// asks makes a request as some user, past the socket.
func asks(server *agentapi.Server, uid uint32, target string) *httptest.ResponseRecorder {
	reply := httptest.NewRecorder()
	server.HandlerFor(peer.Caller{UID: uid, GID: uid, PID: 1}).ServeHTTP(reply, newRequest(target))
	return reply
}

// withMessage returns the audit records with a message.
func (o *output) withMessage(t testing.TB, message string) []map[string]any {
	t.Helper()
	var found []map[string]any
	for _, record := range o.records(t) {
		if record["msg"] == message {
			found = append(found, record)
		}
	}
	return found
}

// answersOf returns the records of answers to a uid.
func (o *output) answersOf(t testing.TB, uid uint32) []map[string]any {
	t.Helper()
	var found []map[string]any
	for _, record := range o.withMessage(t, "answer") {
		if record["uid"] == float64(uid) {
			found = append(found, record)
		}
	}
	return found
}

// untold returns how many answers, by the audit's own word, have no record.
func (o *output) untold(t testing.TB) (n int) {
	t.Helper()
	for _, record := range o.withMessage(t, tooMany) {
		n += int(record["count"].(float64))
	}
	return n
}

// A stranger connects, is answered and leaves, again and again.
func TestAStrangerCannotFillTheAudit(t *testing.T) {
	needRoot(t)
	a := start(t, config(working, rulesFor(65534)))
	for range many {
		conn := dialAs(t, a.socket, 100000)
		_, _ = io.WriteString(conn, "GET /v1/token?resource="+vault+" HTTP/1.1\r\nHost: agent\r\n\r\n")
		if status, body := readReply(t, conn); status != http.StatusForbidden {
			t.Fatalf("%d %s", status, body)
		}
		_ = conn.Close()
	}
	a.stop(t)
	if written := len(a.audit.answersOf(t, 100000)); written != agentapi.RecordsOfAccount || a.audit.untold(t) != many-written {
		t.Errorf("%d records, and %d answers without, of %d", written, a.audit.untold(t), many)
	}
}

// Nor can who holds all connections that it may, and tries to have more.
func TestCallersTurnedAwayCannotFillTheAudit(t *testing.T) {
	cfg := config(working, rulesFor(os.Geteuid()))
	cfg.MaxConnectionsPerUser = 1
	a := start(t, cfg)
	a.send(t, nativeRequest)
	for range many {
		if status, body := a.refusal(t); status != http.StatusServiceUnavailable {
			t.Fatalf("%d %s", status, body)
		}
	}
	a.stop(t)
	if written := len(a.audit.withMessage(t, "answer")) - 1; written != agentapi.RecordsOfAccount || a.audit.untold(t) != many-written {
		t.Errorf("%d records, and %d answers without, of %d", written, a.audit.untold(t), many)
	}
}

// The records of answers without a token are bounded, and those of tokens are not.
func TestOnlyTokensAreAlwaysOnRecord(t *testing.T) {
	unavailable := failing(&acquire.Error{Kind: acquire.KindUnavailable, Err: errors.New("IMDS is down")})
	tests := []struct {
		name    string
		tokens  tokenFunc
		target  string
		kind    string
		bounded bool
	}{
		{"a token", working, nativeTarget, "", false},
		{"a token in the IMDS protocol", working, imdsTarget, "", false},
		{"a refusal", working, wire.PathToken + "?identity=backup&resource=" + vault, "not_allowed", true},
		{"a mistake", working, wire.PathToken + "?identity=shop", "missing_parameter", true},
		{"a path that does not exist", working, "/%0A/" + strings.Repeat("x", 5000), "not_found", true},
		{"the status", working, wire.PathStatus, "answered", true},
		{"the identities", working, wire.PathIdentities, "answered", true},
		{"the capabilities", working, wire.PathCapabilities, "answered", true},
		{"an identity that is not available", unavailable, nativeTarget, "unavailable", true},
		{"a fault of the agent", failing(errors.New("broken")), nativeTarget, "internal", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server, audit, log := newServer(t, config(tt.tokens, rulesFor(os.Geteuid())))
			for range many {
				r := newRequest(tt.target)
				r.Header.Set("Metadata", "true")
				server.HandlerFor(self()).ServeHTTP(httptest.NewRecorder(), r)
			}
			server.CloseTrail()
			written, told := len(audit.withMessage(t, "answer")), audit.withMessage(t, tooMany)
			if lines := strings.Count(log.String(), "\n"); lines > written {
				t.Errorf("%d lines in the log", lines)
			}
			if !tt.bounded {
				if written != many || len(told) != 0 {
					t.Errorf("%d records of %d tokens, told %v", written, many, told)
				}
				return
			}
			rest := float64(many - agentapi.RecordsOfAccount)
			want := []map[string]any{{
				"time": "2026-11-23T12:00:00Z", "level": "WARN", "msg": tooMany, "uid": float64(os.Geteuid()),
				"count": rest, "since": "2026-11-23T12:00:00Z", "kinds": map[string]any{tt.kind: rest},
			}}
			if diff := cmp.Diff(want, told); diff != "" || written != agentapi.RecordsOfAccount {
				t.Errorf("%d records, and of the rest (-want +got):\n%s", written, diff)
			}
		})
	}
}

// Tokens that are handed out in the midst of a flood are on record all the same.
func TestAFloodHidesNoToken(t *testing.T) {
	server, audit, _ := newServer(t, config(working, rulesFor(1000)))
	for range many {
		asks(server, 1000, "/nowhere")
		asks(server, 1000, nativeTarget)
	}
	issued := 0
	for _, record := range audit.answersOf(t, 1000) {
		if record["decision"] == "issued" {
			issued++
		}
	}
	if issued != many {
		t.Errorf("%d records of %d tokens", issued, many)
	}
	server.CloseTrail()
}

// Nobody can have the refusals of somebody else go unrecorded.
func TestNobodyHidesTheRefusalsOfOthers(t *testing.T) {
	tests := []struct {
		name        string
		first, uids uint32 // of the attacker
		of          uint32 // whose refusal is looked for
	}{
		{"one user", 1001, 1, 1002},
		{"one user, and one with a rule", 1001, 1, 1000},
		{"one user with subordinate uids", 129000, 5000, 1002},
		{"one user with subordinate uids, and another with some", 129000, 5000, 300000},
		{"many users, and one with a rule", 2000, 3000, 1000},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server, audit, _ := newServer(t, config(working, rulesFor(1000)))
			answers := 0
			for _, turns := range []struct{ uids, each uint32 }{{tt.uids, 1}, {min(tt.uids, 3), many}} {
				for i := range turns.uids * turns.each {
					asks(server, tt.first+i%turns.uids, "/nowhere")
					answers++
				}
			}
			asks(server, tt.of, wire.PathToken+"?identity=backup&resource="+vault)
			if got := audit.answersOf(t, tt.of); len(got) != 1 || got[0]["identity"] != "backup" {
				t.Errorf("on record: %v", got)
			}
			server.CloseTrail()
			written := len(audit.withMessage(t, "answer")) - 1
			if written+audit.untold(t) != answers || written > 8*agentapi.RecordsOfAccount {
				t.Errorf("%d records, and %d answers without, of %d", written, audit.untold(t), answers)
			}
		})
	}
}

// A user with all uids takes no more memory than one with a few thousand.
func TestTheMemoryOfTheBoundsIsBounded(t *testing.T) {
	server, audit, _ := newServer(t, config(working, rulesFor(1000)))
	answers := 0
	for block := range uint32(1 << 12) {
		for i := range uint32(3) {
			asks(server, block<<16|i, "/nowhere")
			answers++
		}
	}
	for i := range uint32(1000) {
		asks(server, 5<<16|i<<3, "/nowhere")
		answers++
	}
	if n := server.AccountsCounted(); n > 5000 {
		t.Errorf("%d accounts", n)
	}
	server.CloseTrail()
	written := len(audit.withMessage(t, "answer"))
	if written+audit.untold(t) != answers {
		t.Errorf("%d records, and %d answers without, of %d", written, audit.untold(t), answers)
	}
	ranges := map[any]bool{}
	for _, record := range audit.withMessage(t, tooMany) {
		ranges[record["uids"]] = true
	}
	for _, want := range []any{"327680-393215", "0-4294967295"} {
		if !ranges[want] {
			t.Errorf("nothing is told of uids %v, but of %v", want, ranges)
		}
	}
}

// The bound lifts again and again, and then it is told what there is no record of.
func TestTheBoundLifts(t *testing.T) {
	lifts := make(chan struct{})
	cfg := config(working, rulesFor(os.Geteuid()))
	cfg.Wait = func(ctx context.Context, d time.Duration) error {
		if d != time.Minute {
			t.Errorf("waits for %v", d)
		}
		select {
		case <-lifts:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	a := start(t, cfg)
	for round := range 3 {
		for range agentapi.RecordsOfAccount + 5 {
			a.get(t, "/nowhere")
		}
		if got := len(a.audit.withMessage(t, "answer")); got != (round+1)*agentapi.RecordsOfAccount {
			t.Errorf("%d records in round %d", got, round)
		}
		lifts <- struct{}{}
		lifts <- struct{}{} // it is waited for again, so it was lifted
	}
	a.stop(t)
	if told := a.audit.withMessage(t, tooMany); len(told) != 3 || a.audit.untold(t) != 3*5 {
		t.Errorf("told: %v", told)
	}
}

// Records that cannot be written now are counted in a later one.
func TestRecordsThatCannotBeWrittenAreCountedLater(t *testing.T) {
	var full atomic.Bool
	var text bytes.Buffer
	handler := slog.NewJSONHandler(&text, nil)
	cfg := config(working, rulesFor(1000))
	cfg.Audit = slog.New(auditFunc(func(r slog.Record) error {
		if full.Load() {
			return errors.New("no space left on device")
		}
		return handler.Handle(context.Background(), r)
	}))
	server, err := agentapi.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, uid := range []uint32{1000, 1001} {
		for range agentapi.RecordsOfAccount + 7 {
			asks(server, uid, "/nowhere")
		}
	}
	full.Store(true)
	server.CloseTrail()
	server.CloseTrail()
	full.Store(false)
	server.CloseTrail()
	for _, uid := range []int{1000, 1001} {
		if want := fmt.Sprintf(`"uid":%d,"count":7,`, uid); strings.Count(text.String(), want) != 1 {
			t.Errorf("not told: %s", want)
		}
	}
}
