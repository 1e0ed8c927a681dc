package agentapi_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/wire"
)

const bundleText = `{"format":"keyagent-evidence/1","nonce":"c2VjcmV0IG5vbmNl"}`

// evidenceOfTest is a source of evidence.
type evidenceOfTest struct {
	mu    sync.Mutex
	asked []agentapi.EvidenceRequest
	fails error
	made  []byte
}

func (e *evidenceOfTest) Evidence(_ context.Context, req agentapi.EvidenceRequest) ([]byte, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.asked = append(e.asked, req)
	return e.made, e.fails
}

func (e *evidenceOfTest) last() agentapi.EvidenceRequest {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.asked) == 0 {
		return agentapi.EvidenceRequest{}
	}
	return e.asked[len(e.asked)-1]
}

// attesting is a configuration whose rule gives this process evidence.
func attesting(source *evidenceOfTest) agentapi.Config {
	rules := rulesFor(os.Geteuid())
	rules.Rules[0].Evidence = true
	cfg := config(working, rules)
	if source.made == nil && source.fails == nil {
		source.made = []byte(bundleText)
	}
	cfg.Evidence = agentapi.Evidence{Source: source, Keys: map[string][]string{"vm": {"binding"}, "shop": {"shopkey", "binding"}, "backup": {"backupkey"}}}
	return cfg
}

var testNonce = []byte("a nonce of thirty-two bytes here")

// asking is a request that is right in every way.
func asking() wire.EvidenceRequest {
	return wire.EvidenceRequest{Nonce: base64.RawURLEncoding.EncodeToString(testNonce), Audience: "https://verifier.example", Identity: "vm"}
}

func jsonBody(t *testing.T, v any) *bytes.Reader {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.NewReader(text)
}

func TestEvidenceIsGiven(t *testing.T) {
	for _, tt := range []struct {
		name          string
		change        func(*wire.EvidenceRequest)
		key, identity string
	}{
		{"of an identity", func(*wire.EvidenceRequest) {}, "binding", "vm"},
		{"of an identity with several keys", func(r *wire.EvidenceRequest) { r.Identity = "shop" }, "shopkey", "shop"},
		{"of a key", func(r *wire.EvidenceRequest) { r.Identity, r.Key = "", "shopkey" }, "shopkey", "shop"},
		{"of a key that several identities have", func(r *wire.EvidenceRequest) { r.Identity, r.Key = "", "binding" }, "binding", "vm"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			source := &evidenceOfTest{}
			a := start(t, attesting(source))
			req := asking()
			req.PCRs, req.PCRBank, req.EventLog, req.HardwareFresh = []int{7, 11}, "sha384", true, true
			tt.change(&req)
			got := a.post(t, wire.PathEvidence, req)
			if got.status != http.StatusOK || string(got.body) != bundleText || got.header.Get("Content-Type") != wire.ContentTypeEvidence {
				t.Fatalf("%d %v: %s", got.status, got.header, got.body)
			}
			want := agentapi.EvidenceRequest{Nonce: testNonce, Audience: req.Audience, Key: tt.key, PCRs: []int{7, 11}, PCRBank: "sha384", EventLog: true, HardwareFresh: true}
			if diff := cmp.Diff(want, source.last()); diff != "" {
				t.Error(diff)
			}
			rec := a.audit.lastRecord(t)
			for name, value := range map[string]any{
				"decision": "attested", "identity": tt.identity, "key": tt.key, "audience": req.Audience, "nonce": req.Nonce, "rule": "shop", "status": float64(200),
			} {
				if rec[name] != value {
					t.Errorf("audit: %s is %v, want %v", name, rec[name], value)
				}
			}
			if strings.Contains(a.audit.String()+a.log.String(), "keyagent-evidence/1") {
				t.Error("the bundle is in the audit or in the log")
			}
		})
	}
}

func TestEvidenceIsGivenByRuleOnly(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*agentapi.Config)
		req    func(*wire.EvidenceRequest)
		caller peer.Caller
		code   wire.Code
	}{
		{"by default", func(c *agentapi.Config) { c.Policy.Rules[0].Evidence = false }, nil, peer.Caller{UID: 1000}, wire.CodeNotAllowed},
		{"to another user", nil, nil, peer.Caller{UID: 1001}, wire.CodeCallerNotAllowed},
		{"to root", nil, nil, peer.Caller{}, wire.CodeCallerNotAllowed},
		{"of another identity", nil, func(r *wire.EvidenceRequest) { r.Identity = "backup" }, peer.Caller{UID: 1000}, wire.CodeNotAllowed},
		{"of an identity that does not exist", nil, func(r *wire.EvidenceRequest) { r.Identity = "nobody" }, peer.Caller{UID: 1000}, wire.CodeNotAllowed},
		{"of another identity's key", nil, func(r *wire.EvidenceRequest) { r.Identity, r.Key = "", "backupkey" }, peer.Caller{UID: 1000}, wire.CodeNotAllowed},
		{"of a key that does not exist", nil, func(r *wire.EvidenceRequest) { r.Identity, r.Key = "", "nothing" }, peer.Caller{UID: 1000}, wire.CodeNotAllowed},
		{"of one of several keys", nil, func(r *wire.EvidenceRequest) { r.Identity = "" }, peer.Caller{UID: 1000}, wire.CodeAmbiguousIdentity},
	} {
		t.Run(tt.name, func(t *testing.T) {
			source := &evidenceOfTest{}
			cfg := attesting(source)
			cfg.Policy.Rules[0].UIDs = []uint32{1000}
			if tt.change != nil {
				tt.change(&cfg)
			}
			server, audit, _ := newServer(t, cfg)
			req := asking()
			if tt.req != nil {
				tt.req(&req)
			}
			w := httptest.NewRecorder()
			server.HandlerFor(tt.caller).ServeHTTP(w, httptest.NewRequest(http.MethodPost, wire.PathEvidence, jsonBody(t, req)))
			if p := decode[wire.Problem](t, w.Body.Bytes()); p.Code != tt.code {
				t.Errorf("got %+v, want %s", p, tt.code)
			}
			if len(source.asked) > 0 {
				t.Errorf("the TPM was asked: %+v", source.asked)
			}
			if rec := audit.lastRecord(t); rec["decision"] != "refused" {
				t.Errorf("audit %v", rec)
			}
		})
	}
}

func TestTheOnlyKeyNeedNotBeNamed(t *testing.T) {
	source := &evidenceOfTest{}
	cfg := attesting(source)
	cfg.Evidence.Keys["shop"] = []string{"binding", "shopkey"}
	a := start(t, cfg)
	req := asking()
	req.Identity = ""
	if got := a.post(t, wire.PathEvidence, req); got.status != http.StatusOK || source.last().Key != "binding" {
		t.Errorf("%d %s, %+v", got.status, got.body, source.last())
	}
}

func TestEvidenceRequestsThatAreWrong(t *testing.T) {
	source := &evidenceOfTest{}
	a := start(t, attesting(source))
	long := func(n int) string { return base64.RawURLEncoding.EncodeToString(make([]byte, n)) }
	for name, tt := range map[string]struct {
		body, field string
	}{
		"nothing":              {"", "body"},
		"no object":            {`"x"`, "body"},
		"an unknown member":    {`{"nonces":"x"}`, "body"},
		"two objects":          {`{}{}`, "body"},
		"too much":             {`{"audience":"` + strings.Repeat("a", wire.MaxEvidenceRequestBytes) + `"}`, "body"},
		"no nonce":             {`{"audience":"a"}`, "nonce"},
		"a short nonce":        {`{"audience":"a","nonce":"` + long(15) + `"}`, "nonce"},
		"a long nonce":         {`{"audience":"a","nonce":"` + long(65) + `"}`, "nonce"},
		"padding":              {`{"audience":"a","nonce":"` + long(16) + `=="}`, "nonce"},
		"another alphabet":     {`{"audience":"a","nonce":"////////////////////////"}`, "nonce"},
		"a line break":         {`{"audience":"a","nonce":"` + long(16) + `\n"}`, "nonce"},
		"bits after the end":   {`{"audience":"a","nonce":"AAAAAAAAAAAAAAAAAAAAAB"}`, "nonce"},
		"no audience":          {`{"nonce":"` + long(16) + `"}`, "audience"},
		"a long audience":      {`{"nonce":"` + long(16) + `","audience":"` + strings.Repeat("a", 1025) + `"}`, "audience"},
		"a control character":  {`{"nonce":"` + long(16) + `","audience":"a\u0000"}`, "audience"},
		"identity and key":     {`{"nonce":"` + long(16) + `","audience":"a","identity":"vm","key":"binding"}`, "key"},
		"a long identity":      {`{"nonce":"` + long(16) + `","audience":"a","identity":"` + strings.Repeat("a", 129) + `"}`, "identity"},
		"a long key":           {`{"nonce":"` + long(16) + `","audience":"a","key":"` + strings.Repeat("a", 129) + `"}`, "key"},
		"PCR 24":               {`{"nonce":"` + long(16) + `","audience":"a","pcrs":[24]}`, "pcrs"},
		"PCR -1":               {`{"nonce":"` + long(16) + `","audience":"a","pcrs":[-1]}`, "pcrs"},
		"a bank of SHA-1":      {`{"nonce":"` + long(16) + `","audience":"a","pcr_bank":"sha1"}`, "pcr_bank"},
		"a PCR twice":          {`{"nonce":"` + long(16) + `","audience":"a","pcrs":[1,1]}`, "pcrs"},
		"a PCR that is a text": {`{"nonce":"` + long(16) + `","audience":"a","pcrs":["1"]}`, "body"},
	} {
		t.Run(name, func(t *testing.T) {
			p := a.post(t, wire.PathEvidence, []byte(tt.body)).problem(t)
			if p.Status != http.StatusBadRequest || p.Field != tt.field {
				t.Errorf("got %+v", p)
			}
		})
	}
	if got := a.post(t, wire.PathEvidence+"?x=1", asking()); got.status != http.StatusBadRequest {
		t.Errorf("a query: %d", got.status)
	}
	if len(source.asked) > 0 {
		t.Errorf("the TPM was asked: %+v", source.asked)
	}
}

func TestEvidenceThatCannotBeMade(t *testing.T) {
	errCause := errors.New("the cause")
	failing := func(kind acquire.Kind) error {
		return &acquire.Error{Kind: kind, RetryAfter: 7 * time.Second, Hint: "do this", Err: errCause}
	}
	for _, tt := range []struct {
		name     string
		source   *evidenceOfTest
		change   func(*agentapi.Config)
		status   int
		code     wire.Code
		told     bool // the cause, to the caller
		decision string
	}{
		{"the host does not answer", &evidenceOfTest{fails: failing(acquire.KindUnavailable)}, nil, 503, wire.CodeUnavailable, true, "failed"},
		{"it is no Confidential VM", &evidenceOfTest{fails: failing(acquire.KindRefused)}, nil, 501, wire.CodeNoEvidence, true, "failed"},
		{"a fault of the agent", &evidenceOfTest{fails: errCause}, nil, 500, wire.CodeInternal, false, "failed"},
		{"nothing was made", &evidenceOfTest{made: []byte{}}, nil, 500, wire.CodeInternal, false, "failed"},
		{"too much was made", &evidenceOfTest{made: bytes.Repeat([]byte("a"), wire.MaxEvidenceBytes+1)}, nil, 500, wire.CodeInternal, false, "failed"},
		{"there is no source", &evidenceOfTest{}, func(c *agentapi.Config) { c.Evidence.Source = nil }, 501, wire.CodeNoEvidence, false, "failed"},
		{"the identity has no key", &evidenceOfTest{}, func(c *agentapi.Config) { c.Evidence.Keys = nil }, 501, wire.CodeNoEvidence, false, "failed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := attesting(tt.source)
			if tt.change != nil {
				tt.change(&cfg)
			}
			a := start(t, cfg)
			got := a.post(t, wire.PathEvidence, asking())
			p := got.problem(t)
			if p.Status != tt.status || p.Code != tt.code || strings.Contains(p.Detail, "the cause") != tt.told {
				t.Errorf("got %+v", p)
			}
			if tt.told && p.Hint != "do this" {
				t.Errorf("hint %q", p.Hint)
			}
			if rec := a.audit.lastRecord(t); rec["decision"] != tt.decision || rec["code"] != string(tt.code) {
				t.Errorf("audit %v", rec)
			}
		})
	}
}

// Evidence occupies the TPM: a caller has few at once, and is charged for them together with its
// signatures.
func TestEvidenceIsBounded(t *testing.T) {
	source := &evidenceOfTest{}
	a := start(t, attesting(source))
	for range agentapi.SignBurst / agentapi.EvidenceWork {
		if got := a.post(t, wire.PathEvidence, asking()); got.status != http.StatusOK {
			t.Fatalf("status %d: %s", got.status, got.body)
		}
	}
	p := a.post(t, wire.PathEvidence, asking()).problem(t)
	if p.Code != wire.CodeThrottled || p.RetryAfter != 1 {
		t.Errorf("got %+v", p)
	}
	if rec := a.audit.lastRecord(t); rec["decision"] != "refused" || rec["reason"] != "too much attestation evidence" {
		t.Errorf("audit %v", rec)
	}
	if n := len(source.asked); n != agentapi.SignBurst/agentapi.EvidenceWork {
		t.Errorf("made %d times", n)
	}
}

// A fresh hardware report keeps all others waiting for seconds: a caller has two at once.
func TestFreshHardwareReportsAreFew(t *testing.T) {
	source := &evidenceOfTest{}
	a := start(t, attesting(source))
	fresh := asking()
	fresh.HardwareFresh = true
	for range 2 {
		if got := a.post(t, wire.PathEvidence, fresh); got.status != http.StatusOK {
			t.Fatalf("status %d: %s", got.status, got.body)
		}
	}
	if p := a.post(t, wire.PathEvidence, fresh).problem(t); p.Code != wire.CodeThrottled {
		t.Errorf("got %+v", p)
	}
	if got := a.post(t, wire.PathEvidence, asking()); got.status != http.StatusOK {
		t.Errorf("evidence without one: %d %s", got.status, got.body)
	}
	if n := len(source.asked); n != 3 {
		t.Errorf("made %d times", n)
	}
}

// evidenceOnRequest is a source that makes evidence when it is let.
type evidenceOnRequest struct {
	asked   chan string // audiences, as they are asked for
	release chan struct{}
}

func (e *evidenceOnRequest) Evidence(ctx context.Context, req agentapi.EvidenceRequest) ([]byte, error) {
	e.asked <- req.Audience
	select {
	case <-e.release:
		return []byte(bundleText), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// However many requests a caller has under way, one of them is before those of another caller.
func TestEvidenceOfOneCallerDoesNotHoldUpOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &evidenceOnRequest{make(chan string, 10), make(chan struct{})}
		cfg := attesting(&evidenceOfTest{})
		cfg.Evidence.Source = source
		cfg.Policy.Rules[0].UIDs = []uint32{1000, 1001}
		server, _, _ := newServer(t, cfg)
		statuses := make(chan int, 10)
		ask := func(ctx context.Context, uid uint32, audience string) {
			req := asking()
			req.Audience = audience
			body := jsonBody(t, req)
			go func() {
				w := httptest.NewRecorder()
				server.HandlerFor(peer.Caller{UID: uid}).ServeHTTP(w, httptest.NewRequest(http.MethodPost, wire.PathEvidence, body).WithContext(ctx))
				statuses <- w.Code
			}()
			synctest.Wait()
		}
		gone, leave := context.WithCancel(t.Context())
		ask(t.Context(), 1000, "first")
		ask(gone, 1000, "second")
		ask(t.Context(), 1000, "third")
		ask(t.Context(), 1001, "of another")
		if got := []string{<-source.asked, <-source.asked}; len(source.asked) != 0 || !slices.Equal(got, []string{"first", "of another"}) {
			t.Errorf("%q are under way, and %d more", got, len(source.asked))
		}
		leave() // the second gives up, and leaves its place to the third
		if status := <-statuses; status != http.StatusServiceUnavailable {
			t.Errorf("a caller that has gone: status %d", status)
		}
		for range 3 {
			source.release <- struct{}{}
			if status := <-statuses; status != http.StatusOK {
				t.Errorf("status %d", status)
			}
		}
		if got := <-source.asked; got != "third" {
			t.Errorf("then came %q", got)
		}
		<-time.After(time.Minute) // of virtual time, in which the audit's goroutine ends
	})
}

// Where records are required, evidence without one is not given.
func TestEvidenceNeedsItsRecord(t *testing.T) {
	cfg := attesting(&evidenceOfTest{})
	cfg.AuditRequired = true
	cfg.Audit = slog.New(auditFunc(func(slog.Record) error { return errors.New("the disk is full") }))
	a := start(t, cfg)
	if got := a.post(t, wire.PathEvidence, asking()); got.problem(t).Code != wire.CodeAuditUnavailable || bytes.Contains(got.body, []byte("keyagent-evidence")) {
		t.Errorf("%d %s", got.status, got.body)
	}
}

func TestIdentitiesSayOfWhichThereIsEvidence(t *testing.T) {
	a := start(t, attesting(&evidenceOfTest{}))
	for _, id := range decode[[]wire.Identity](t, a.get(t, wire.PathIdentities).body) {
		if !id.Evidence {
			t.Errorf("got %+v", id)
		}
	}
}
