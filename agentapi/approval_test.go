package agentapi_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/agentapi/wire"
)

// What a connection remembers of its last request is no permission: everything that may change
// while the rules stay is looked at again, and other rules make it void.
func TestTheSameRequestAgainIsStillChecked(t *testing.T) {
	for _, target := range []string{nativeTarget, imdsTarget} {
		tests := []struct {
			name, method string
			headers      []string // of the request that comes again
			change       func(*policy.Policy)
			status       int
		}{
			{"nothing has changed", http.MethodGet, []string{"Metadata", "true"}, nil, 200},
			{"another method", http.MethodPost, []string{"Metadata", "true"}, nil, 405},
			{"a header of browsers", http.MethodGet, []string{"Metadata", "true", "Origin", "https://evil.example"}, nil, 400},
			{"no rule names the caller any more", http.MethodGet, []string{"Metadata", "true"}, func(p *policy.Policy) { p.Rules[0].UIDs = []uint32{4711} }, 403},
			{"no rule gives the resource any more", http.MethodGet, []string{"Metadata", "true"}, func(p *policy.Policy) { p.Rules[0].Resources = []string{storage} }, 403},
			{"the same rules anew", http.MethodGet, []string{"Metadata", "true"}, func(*policy.Policy) {}, 200},
		}
		for _, tt := range tests {
			t.Run(target+": "+tt.name, func(t *testing.T) {
				a := start(t, config(working, rulesFor(os.Geteuid())))
				for range 2 {
					if got := a.get(t, target, "Metadata", "true"); got.status != 200 {
						t.Fatalf("before: %d %s", got.status, got.body)
					}
				}
				if tt.change != nil {
					rules := rulesFor(os.Geteuid())
					tt.change(rules)
					if err := a.server.SetPolicy(rules); err != nil {
						t.Fatal(err)
					}
				}
				if got := a.do(t, tt.method, target, tt.headers...); got.status != tt.status {
					t.Errorf("status %d, want %d: %s", got.status, tt.status, got.body)
				}
				if record := a.audit.lastRecord(t); (record["decision"] == "issued") != (tt.status == 200) {
					t.Errorf("audit %v", record)
				}
			})
		}
	}
	t.Run("the IMDS path without its header", func(t *testing.T) {
		a := start(t, config(working, rulesFor(os.Geteuid())))
		a.get(t, imdsTarget, "Metadata", "true")
		if got := a.get(t, imdsTarget); got.status != 400 {
			t.Errorf("%d %s", got.status, got.body)
		}
	})
}

// The record of a token says what is true of that token, also if only that differs from the last.
func TestTheRecordIsOfTheTokenThatIsSent(t *testing.T) {
	var weaker atomic.Bool
	a := start(t, config(func(_ context.Context, r acquire.Request) (acquire.Token, error) {
		token := goodToken(r)
		if weaker.Load() {
			token.Strength, token.Fallback, token.Bound, token.Binding = acquire.StrengthSoftware, true, false, acquire.Binding{}
		}
		return token, nil
	}, rulesFor(os.Geteuid())))
	of := func() map[string]any {
		got := a.get(t, wire.PathToken+"?identity=vm&resource="+vault)
		record := a.audit.lastRecord(t)
		if said := decode[wire.TokenResponse](t, got.body); said.Strength != record["strength"] || said.Fallback != record["fallback"] {
			t.Errorf("answered %+v, on record is %v", said, record)
		}
		delete(record, "request_id") // each has another
		return record
	}
	strong, again := of(), of()
	if diff := cmp.Diff(strong, again); diff != "" {
		t.Errorf("the same answer has another record:\n%s", diff)
	}
	weaker.Store(true)
	if got := of(); got["strength"] != "software" || got["fallback"] != true || got["bound"] != false || got["thumbprint"] != "" {
		t.Errorf("the record of a weaker token: %v", got)
	}
	weaker.Store(false)
	if diff := cmp.Diff(strong, of()); diff != "" {
		t.Errorf("afterwards:\n%s", diff)
	}
}

// An answer says how long the token lives at that time, also if the same was answered before.
func TestTheSameAnswerAgainSaysTheTimeThatIsLeft(t *testing.T) {
	for _, target := range []string{nativeTarget, imdsTarget} {
		var passed atomic.Int64 // milliseconds
		cfg := config(working, rulesFor(os.Geteuid()))
		cfg.Now = func() time.Time { return now.Add(time.Duration(passed.Load()) * time.Millisecond) }
		a := start(t, cfg)
		left := func() int64 {
			var said struct {
				ExpiresIn any `json:"expires_in"`
			}
			if err := json.Unmarshal(a.get(t, target, "Metadata", "true").body, &said); err != nil {
				t.Fatal(err)
			}
			n, err := strconv.ParseFloat(fmt.Sprint(said.ExpiresIn), 64)
			if err != nil {
				t.Fatal(err)
			}
			return int64(n)
		}
		first := left()
		for _, tt := range []struct{ at, want int64 }{{0, first}, {900, first - 1}, {1000, first - 1}, {2000, first - 2}, {61_000, first - 61}} {
			passed.Store(tt.at)
			if got := left(); got != tt.want {
				t.Errorf("%s: %d ms later there are %d s left, want %d", target, tt.at, got, tt.want)
			}
		}
	}
}
