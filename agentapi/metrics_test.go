package agentapi_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/agentapi/wire"
)

// counted are metrics that keep what they are told.
type counted struct {
	mu      sync.Mutex
	answers []agentapi.Answer
	calls   []agentapi.Call
	fails   error
}

func (c *counted) CallEnded(call agentapi.Call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, call)
}

func (c *counted) Answered(a agentapi.Answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answers = append(c.answers, a)
}

func (c *counted) Text(now agentapi.Snapshot, names bool) ([]byte, error) {
	return fmt.Appendf(nil, "version %s names %v connections %d turned away %d\n", now.Status.Version, names, now.Connections, now.TurnedAway), c.fails
}

func (c *counted) last() agentapi.Answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.answers[len(c.answers)-1]
}

func TestMetrics(t *testing.T) {
	m := new(counted)
	cfg := config(working, &policy.Policy{})
	cfg.Metrics = m
	a := start(t, cfg)
	got := a.get(t, wire.PathMetrics)
	if got.status != http.StatusOK || got.header.Get("Content-Type") != "text/plain; version=0.0.4; charset=utf-8" {
		t.Fatalf("%d %v", got.status, got.header)
	}
	if text := string(got.body); text != "version 1.2.3 names true connections 1 turned away 0\n" {
		t.Errorf("got %q", text)
	}
	m.fails = errors.New("two of one name")
	if p := a.get(t, wire.PathMetrics).problem(t); p.Code != wire.CodeInternal || !strings.Contains(a.log.String(), "two of one name") {
		t.Errorf("got %+v, log %s", p, a.log)
	}
}

func TestMetricsAreForAdministrators(t *testing.T) {
	a := start(t, config(working, rulesFor(os.Geteuid())))
	if p := a.get(t, wire.PathMetrics+"?x=y").problem(t); p.Code != wire.CodeInvalidParameter {
		t.Errorf("got %+v", p)
	}
	needRoot(t)
	for uid, want := range map[int]int{65534: 403, 0: 200} {
		if status, body := reply(t, process("ask", a.socket, wire.PathMetrics, &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)})); status != want {
			t.Errorf("uid %d: %d %s", uid, status, body)
		}
	}
}

// What answers are counted by comes from the configuration and the agent, whatever a caller sends.
func TestAnswersAreCounted(t *testing.T) {
	m := new(counted)
	given := goodToken(acquire.Request{})
	cfg := config(func(_ context.Context, r acquire.Request) (acquire.Token, error) {
		token := given
		token.Identity, token.Resource = r.Identity, r.Resource
		return token, nil
	}, rulesFor(os.Geteuid()))
	clock := now
	cfg.Now = func() time.Time { clock = clock.Add(time.Millisecond); return clock }
	cfg.Metrics = m
	a := start(t, cfg)
	vm := wire.PathToken + "?identity=vm&resource=" + vault
	for _, tt := range []struct {
		name, target string
		change       func(*acquire.Token)
		want         agentapi.Answer
	}{
		{"from memory", vm, func(*acquire.Token) {}, agentapi.Answer{Decision: "issued", Identity: "vm", Strength: "attested", Source: "cache"}},
		{"from Entra", vm, func(t *acquire.Token) { t.FromCache = false }, agentapi.Answer{Decision: "issued", Identity: "vm", Strength: "attested", Source: "entra"}},
		{"from IMDS", vm, func(t *acquire.Token) { t.FromCache, t.Bound, t.Strength = false, false, acquire.StrengthNone },
			agentapi.Answer{Decision: "issued", Identity: "vm", Strength: "none", Source: "imds"}},
		{"of an application without mutual TLS", nativeTarget, func(t *acquire.Token) { t.FromCache, t.Bound, t.Strength = false, false, acquire.StrengthTPMSigned },
			agentapi.Answer{Decision: "issued", Identity: "shop", Strength: "tpm-signed", Source: "entra"}},
		{"refused by the rules", wire.PathToken + "?identity=vm&resource=" + storage, nil, agentapi.Answer{Decision: "refused", Code: wire.CodeNotAllowed, Identity: "vm"}},
		{"of an identity that nobody has", wire.PathToken + "?identity=chosen-by-the-caller&resource=" + vault, nil, agentapi.Answer{Decision: "refused", Code: wire.CodeNotAllowed}},
		{"of no path", "/chosen-by-the-caller", nil, agentapi.Answer{Decision: "refused", Code: wire.CodeNotFound}},
		{"of something else", wire.PathIdentities, nil, agentapi.Answer{Decision: "answered"}},
		{"of health", wire.PathHealth, nil, agentapi.Answer{Decision: "answered"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			given = goodToken(acquire.Request{})
			if tt.change != nil {
				tt.change(&given)
			}
			a.get(t, tt.target)
			got := m.last()
			if got.Took <= 0 {
				t.Errorf("it took %v", got.Took)
			}
			got.Took = 0
			tt.want.Endpoint = "socket"
			if got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
	if got := agentapi.Sources(); !slices.Equal(got, []string{"cache", "entra", "imds"}) {
		t.Errorf("sources %q", got)
	}
}
