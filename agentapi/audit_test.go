package agentapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/internal/secret"
)

func TestAuditRecord(t *testing.T) {
	a := start(t, config(working, rulesFor(os.Geteuid())))
	caller := map[string]any{
		"time": "2026-11-23T12:00:00Z", "level": "INFO", "msg": "answer", "method": "GET",
		"uid": float64(os.Geteuid()), "gid": float64(os.Getegid()), "pid": float64(os.Getpid()), "transport": "unix",
	}
	token := map[string]any{
		"decision": "issued", "status": 200.0, "identity": "shop", "resource": vault, "type": "bearer", "rule": "shop",
		"force_refresh": false, "claims": false,
		"credential": "managed_identity", "bound": true, "strength": "attested", "fallback": false, "thumbprint": "dGh1bWI", "from_cache": true,
	}
	tests := []struct {
		name, target string
		want         []map[string]any
	}{
		{"a token", nativeTarget, []map[string]any{caller, token, {"route": wire.PathToken}}},
		{"a token in the IMDS protocol", imdsTarget, []map[string]any{caller, token, {"route": wire.PathIMDSToken}}},
		{"the IMDS path with slashes is the same route", "/" + imdsTarget, []map[string]any{caller, token, {"route": wire.PathIMDSToken}}},
		{"a refusal", wire.PathToken + "?identity=backup&resource=" + vault + "/.default", []map[string]any{caller, {
			"decision": "refused", "status": 403.0, "code": "not_allowed", "reason": "no rule gives the caller this identity",
			"identity": "backup", "resource": vault, "type": "bearer", "force_refresh": false, "claims": false, "route": wire.PathToken,
		}}},
		{"a refusal to skip the cache", nativeTarget + "&force_refresh=true&claims=%7B%22a%22%3A1%7D", []map[string]any{caller, {
			"decision": "refused", "status": 403.0, "code": "not_allowed", "reason": "no rule that gives the caller this token lets it skip the cache",
			"identity": "shop", "resource": vault, "type": "bearer", "force_refresh": true, "claims": true, "route": wire.PathToken,
		}}},
		{"a mistake", wire.PathToken + "?identity=shop", []map[string]any{caller, {
			"decision": "refused", "status": 400.0, "code": "missing_parameter", "identity": "shop", "resource": "", "type": "bearer", "force_refresh": false, "claims": false, "route": wire.PathToken,
		}}},
		{"the status", wire.PathStatus, []map[string]any{caller, {"decision": "answered", "status": 200.0, "route": wire.PathStatus}}},
		{"a path that does not exist", "/v2/token?x=y", []map[string]any{caller, {
			"decision": "refused", "status": 404.0, "code": "not_found", "route": "/v2/token",
		}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := a.get(t, tt.target, "Metadata", "true")
			want := map[string]any{"request_id": got.header.Get("x-ms-request-id")}
			for _, part := range tt.want {
				for k, v := range part {
					if v != "" {
						want[k] = v
					}
				}
			}
			if diff := cmp.Diff(want, a.audit.lastRecord(t)); diff != "" {
				t.Error(diff)
			}
		})
	}
	t.Run("what a caller sends cannot forge a record, nor fill the disk", func(t *testing.T) {
		before := len(a.audit.records(t))
		a.get(t, "/%0A%7B%22decision%22:%22issued%22%7D/"+strings.Repeat("x", 8000))
		records := a.audit.records(t)
		if len(records) != before+1 || records[before]["decision"] != "refused" {
			t.Errorf("records %v", records[before:])
		}
		if encoded, err := json.Marshal(records[before]); err != nil || len(encoded) > 1024 {
			t.Errorf("a record of %d bytes, %v", len(encoded), err)
		}
	})
}

// Whatever text a caller chooses is limited on record, also where the request is right in every
// other way.
func TestAuditClipsWhatCallersChoose(t *testing.T) {
	rules := rulesFor(os.Geteuid())
	rules.Rules[0].Resources = []string{"*"}
	a := start(t, config(working, rules))
	long := strings.Repeat("r", policy.MaxResourceBytes)
	tests := []struct{ name, method, target, attribute string }{
		{"the method", strings.Repeat("A", 15000), wire.PathToken, "method"},
		{"the path", "GET", "/" + strings.Repeat("p", 15000), "route"},
		{"a resource that is issued", "GET", wire.PathToken + "?identity=vm&resource=" + long, "resource"},
		{"a resource that is refused", "GET", wire.PathToken + "?identity=backup&resource=" + long, "resource"},
		{"an identity", "GET", wire.PathToken + "?resource=" + vault + "&identity=" + strings.Repeat("i", 15000), "identity"},
		{"an identity in the IMDS protocol", "GET", wire.PathIMDSToken + "?api-version=2018-02-01&resource=" + vault + "&client_id=" + strings.Repeat("i", 14000), "identity"},
		{"a type", "GET", wire.PathToken + "?resource=" + vault + "&type=" + strings.Repeat("t", 15000), "type"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a.raw(t, tt.method+" "+tt.target+" HTTP/1.1\r\nHost: agent\r\nMetadata: true\r\n\r\n")
			if text, _ := a.audit.lastRecord(t)[tt.attribute].(string); len(text) != 256 || !strings.HasSuffix(text, "…") {
				t.Errorf("%s of %d bytes: %.300s", tt.attribute, len(text), text)
			}
		})
	}
}

// Every answer is on record before it is sent.
func TestAuditComesFirst(t *testing.T) {
	var sent atomic.Bool
	cfg := config(working, rulesFor(os.Geteuid()))
	cfg.Audit = slog.New(auditFunc(func(slog.Record) error {
		if sent.Load() {
			t.Error("the answer was sent before its record was written")
		}
		return errors.New("no space left on device")
	}))
	log := new(output)
	cfg.Logger = slog.New(slog.NewTextHandler(log, nil))
	server, err := agentapi.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w := &watchedWriter{sent: &sent}
	server.HandlerFor(self()).ServeHTTP(w, newRequest(nativeTarget))
	if !sent.Load() || !strings.Contains(w.body.String(), tokenText) {
		t.Error("the application did not get its token because of a full disk")
	}
	if !strings.Contains(log.String(), "no space left on device") {
		t.Errorf("that the record was lost is not logged: %s", log)
	}
}

// auditFunc is a slog handler that cannot write.
type auditFunc func(slog.Record) error

func (auditFunc) Enabled(context.Context, slog.Level) bool        { return true }
func (f auditFunc) Handle(_ context.Context, r slog.Record) error { return f(r) }
func (f auditFunc) WithGroup(string) slog.Handler                 { return f }
func (f auditFunc) WithAttrs(attrs []slog.Attr) slog.Handler {
	return auditFunc(func(r slog.Record) error {
		r = r.Clone()
		r.AddAttrs(attrs...)
		return f(r)
	})
}

// No token, in whole or in part, is in anything that a server writes beside the replies that are
// tokens.
func TestNoTokenIsLogged(t *testing.T) {
	var turn atomic.Int32
	sources := []tokenFunc{
		working,
		func(_ context.Context, r acquire.Request) (acquire.Token, error) { // a token of another identity
			token := goodToken(r)
			token.Identity = "backup"
			return token, nil
		},
		func(_ context.Context, r acquire.Request) (acquire.Token, error) { // an expired one
			token := goodToken(r)
			token.ExpiresOn = now.Add(-time.Hour)
			return token, nil
		},
		func(_ context.Context, r acquire.Request) (acquire.Token, error) { // one beside an error, which prints it
			return goodToken(r), &acquire.Error{Kind: acquire.KindRefused, Err: errorAbout(goodToken(r).AccessToken)}
		},
		func(_ context.Context, r acquire.Request) (acquire.Token, error) {
			return acquire.Token{}, errorAbout(goodToken(r).AccessToken)
		},
	}
	a := start(t, config(func(ctx context.Context, r acquire.Request) (acquire.Token, error) {
		return sources[int(turn.Load())%len(sources)](ctx, r)
	}, rulesFor(os.Geteuid())))
	var others strings.Builder
	for range sources {
		for _, target := range []string{
			nativeTarget, imdsTarget, wire.PathStatus, wire.PathToken, "/nowhere",
			wire.PathToken + "?identity=backup&resource=" + vault, nativeTarget + "&access_token=x",
		} {
			got := a.get(t, target, "Metadata", "true")
			if got.status != 200 || target == wire.PathStatus {
				_, _ = others.Write(got.body)
			}
		}
		turn.Add(1)
	}
	a.stop(t)
	for where, text := range map[string]string{"the audit": a.audit.String(), "the log": a.log.String(), "replies without a token": others.String()} {
		if text == "" {
			t.Errorf("%s: empty, the test shows nothing", where)
		}
		for _, part := range append(strings.Split(tokenText, "."), "eyJ") {
			if strings.Contains(text, part) {
				t.Errorf("%s: has %q of the token:\n%s", where, part, text)
			}
		}
	}
}

func errorAbout(token secret.String) error {
	return errors.New("Entra said " + token.String())
}

func TestTheDocsListTheAttributesOfARecord(t *testing.T) {
	page, err := os.ReadFile("../docs/audit.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "## A record of an answer")
	documented := map[string]bool{"time": false}
	for line := range strings.Lines(table) {
		cell, _, _ := strings.Cut(strings.TrimPrefix(line, "| "), " | ")
		for _, name := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(cell, -1) {
			if strings.HasPrefix(line, "| `") {
				documented[name[1]] = true
			}
		}
	}
	// What is there in place of another one, or where the kernel's answers do not agree.
	seldom := []string{"cgroup", "process_unknown", "process_uid"}
	for _, name := range append(agentapi.AuditAttributes(), seldom...) {
		if !documented[name] {
			t.Errorf("docs/audit.md does not list %s", name)
		}
		delete(documented, name)
	}
	if delete(documented, "time"); len(documented) > 0 {
		t.Errorf("docs/audit.md lists %v, which no record has", documented)
	}
}
