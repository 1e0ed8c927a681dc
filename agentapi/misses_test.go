package agentapi_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/agentapi/wire"
)

// memory is a source that fetches what it was not asked for before, and charges that to whoever
// asks.
type memory struct {
	mu      sync.Mutex
	kept    map[string]bool
	fetched int
}

func (m *memory) token(_ context.Context, r acquire.Request) (acquire.Token, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := r.Identity + " " + r.Resource
	if !m.kept[key] || r.ForceRefresh || r.Claims != "" {
		if err := r.Account.Charge(); err != nil {
			return acquire.Token{}, err
		}
		m.fetched++
		m.kept[key] = true
	}
	return goodToken(r), nil
}

const (
	webUID, webGroup   = 1000, 50
	otherUID, wideUIDs = 2000, 100_000
)

// desk is a server in front of a memory, whose clock the test has.
type desk struct {
	*testing.T
	memory *memory
	server *agentapi.Server
	audit  *output
	clock  time.Time
}

// newDesk serves two users by uid, and a group, for any resource.
func newDesk(t *testing.T) *desk {
	t.Helper()
	d := &desk{T: t, memory: &memory{kept: map[string]bool{}}, clock: now}
	cfg := config(d.memory.token, &policy.Policy{Rules: []policy.Rule{{
		Name: "any", UIDs: []uint32{webUID, otherUID}, GIDs: []uint32{webGroup}, Identities: []string{"vm"},
		Resources: []string{policy.AnyResource}, TokenTypes: []string{wire.TypeBearer}, Fresh: true,
	}}})
	cfg.Now = func() time.Time { return d.clock }
	d.server, d.audit, _ = newServer(t, cfg)
	return d
}

func (d *desk) ask(caller peer.Caller, target string) *httptest.ResponseRecorder {
	d.Helper()
	got := httptest.NewRecorder()
	req := httptest.NewRequestWithContext(d.Context(), http.MethodGet, target, nil)
	req.Header.Set(wire.HeaderMetadata, "true")
	d.server.HandlerFor(caller).ServeHTTP(got, req)
	return got
}

// fresh asks for a resource that nobody has asked for, n times, and returns how many are given.
func (d *desk) fresh(caller peer.Caller, n int) (given int) {
	d.Helper()
	for range n {
		got := d.ask(caller, fmt.Sprintf("%s?identity=vm&resource=https://new-%d", wire.PathToken, len(d.memory.kept)))
		switch got.Code {
		case http.StatusOK:
			given++
		case http.StatusTooManyRequests:
			if got.Header().Get("Retry-After") == "" {
				d.Error("429 without Retry-After")
			}
		default:
			d.Fatalf("status %d: %s", got.Code, got.Body)
		}
	}
	return given
}

func user(uid uint32) peer.Caller { return peer.Caller{UID: uid, GID: uid} }
func member(uid uint32) peer.Caller {
	return peer.Caller{UID: uid, GID: uid, Groups: []uint32{webGroup}}
}

// A caller that asks for ever new resources is told to wait, before IMDS and Entra are asked and
// say so to the identity.
func TestEverNewResourcesOfOneCallerAreBounded(t *testing.T) {
	d := newDesk(t)
	if given := d.fresh(user(webUID), 1000); given != agentapi.MissBurst || d.memory.fetched != agentapi.MissBurst {
		t.Fatalf("%d tokens were given and %d fetched, want %d", given, d.memory.fetched, agentapi.MissBurst)
	}
	t.Run("what is in memory is given", func(t *testing.T) {
		for n := range agentapi.MissBurst {
			if got := d.ask(user(webUID), fmt.Sprintf("%s?identity=vm&resource=https://new-%d", wire.PathToken, n)); got.Code != http.StatusOK {
				t.Fatalf("status %d", got.Code)
			}
		}
	})
	t.Run("others have what they ask for", func(t *testing.T) {
		if given := d.fresh(user(otherUID), 60); given != 60 {
			t.Errorf("a named user got %d of 60 tokens", given)
		}
		if given := d.fresh(member(wideUIDs), 60); given != 60 {
			t.Errorf("a member of a group got %d of 60 tokens", given)
		}
	})
	t.Run("every way to have something fetched counts", func(t *testing.T) {
		for name, query := range map[string]string{
			"past the cache": "&force_refresh=true",
			"with claims":    "&claims=%7B%22access_token%22%3A%7B%22a%22%3A%7B%22value%22%3A%221%22%7D%7D%7D",
		} {
			if got := d.ask(user(webUID), wire.PathToken+"?identity=vm&resource=https://new-0"+query); got.Code != http.StatusTooManyRequests {
				t.Errorf("%s: status %d", name, got.Code)
			}
		}
		got := d.ask(user(webUID), wire.PathIMDSToken+"?api-version=2018-02-01&resource=https://other")
		if got.Code != http.StatusTooManyRequests || got.Header().Get("Retry-After") != "3" {
			t.Errorf("the platform's protocol: status %d, Retry-After %q", got.Code, got.Header().Get("Retry-After"))
		}
	})
	t.Run("the caller learns why, and the audit has it", func(t *testing.T) {
		d := newDesk(t) // whose audit has no other refusals of the caller
		d.fresh(user(webUID), agentapi.MissBurst)
		got := d.ask(user(webUID), wire.PathToken+"?identity=vm&resource=https://other")
		p := decode[wire.Problem](t, got.Body.Bytes())
		if p.Code != wire.CodeThrottled || p.RetryAfter != 3 || p.Identity != "vm" ||
			!strings.Contains(p.Detail, "uid 1000 asks for too many tokens that are not in memory") || !strings.Contains(p.Hint, "given as before") {
			t.Errorf("got %+v", p)
		}
		record := d.audit.lastRecord(t)
		if record["decision"] != "refused" || record["code"] != "throttled" || record["rule"] != "any" || record["resource"] != "https://other" ||
			record["reason"] != "the caller asks for too many tokens that are not in memory" {
			t.Errorf("audit %v", record)
		}
	})
	t.Run("time makes room", func(t *testing.T) {
		d.clock = d.clock.Add(agentapi.MissEvery)
		if given := d.fresh(user(webUID), 10); given != 1 {
			t.Errorf("%d tokens after %v", given, agentapi.MissEvery)
		}
		d.clock = d.clock.Add(agentapi.MissBurst * agentapi.MissEvery)
		if given := d.fresh(user(webUID), 1000); given != agentapi.MissBurst {
			t.Errorf("%d tokens after a rest", given)
		}
	})
}

// One user can have many uids in a group. Each is bounded, and so are all together. A user with
// a rule of their own is not affected.
func TestEverNewResourcesOfAGroupAreBounded(t *testing.T) {
	d := newDesk(t)
	if given := d.fresh(member(wideUIDs), 1000); given != agentapi.MissBurst {
		t.Errorf("one member got %d tokens, want %d", given, agentapi.MissBurst)
	}
	room := agentapi.GroupMissBurst - agentapi.MissBurst
	if given := d.fresh(member(wideUIDs+1), room/2); given != room/2 {
		t.Errorf("the next member got %d tokens, want %d: one member must leave room for others", given, room/2)
	}
	for uid := range uint32(3 * agentapi.MaxMissAccounts) {
		d.fresh(member(wideUIDs+2+uid), 1)
	}
	if d.memory.fetched != agentapi.GroupMissBurst {
		t.Errorf("%d tokens were fetched for the group, want %d", d.memory.fetched, agentapi.GroupMissBurst)
	}
	if n := d.server.MissAccounts(); n > agentapi.MaxMissAccounts {
		t.Errorf("%d accounts are kept", n)
	}
	got := d.ask(member(5), wire.PathToken+"?identity=vm&resource=https://other")
	if p := decode[wire.Problem](t, got.Body.Bytes()); p.Code != wire.CodeThrottled || !strings.Contains(p.Hint, "name this user in a rule") {
		t.Errorf("got %+v", p)
	}
	for _, caller := range []peer.Caller{user(webUID), {UID: otherUID, GID: otherUID, Groups: []uint32{webGroup}}} {
		if given := d.fresh(caller, 100); given != 100 {
			t.Errorf("uid %d, whom a rule names, got %d of 100 tokens", caller.UID, given)
		}
	}
}

// Other callers of the same uid share its bound: it is the user that is counted, not the connection
// or process.
func TestAllProcessesOfAUserShareItsBound(t *testing.T) {
	d := newDesk(t)
	given := 0
	for pid := range int32(4) {
		given += d.fresh(peer.Caller{UID: webUID, GID: uint32(pid), PID: pid}, 100)
	}
	if given != agentapi.MissBurst {
		t.Errorf("%d tokens, want %d", given, agentapi.MissBurst)
	}
}

// The users of a unit share one account: its processes may have any number of uids.
func TestTheUsersOfAUnitShareOneBound(t *testing.T) {
	d := newDesk(t)
	rules := rule(policy.Rule{Units: []string{"web.service", "other.service"}})
	rules.Rules[0].Identities, rules.Rules[0].Resources = []string{"vm"}, []string{policy.AnyResource}
	cfg := config(d.memory.token, rules)
	cfg.Now = func() time.Time { return d.clock }
	cfg.Machine = &fixed{units: map[string]uint64{"web.service": 100, "other.service": 200}}
	d.server, d.audit, _ = newServer(t, cfg)
	in := func(uid uint32, cgroup uint64) peer.Caller { return peer.Caller{UID: uid, GID: uid, CgroupID: cgroup} }
	if given := d.fresh(in(wideUIDs, 100), 1000); given != agentapi.MissBurst {
		t.Fatalf("%d tokens were given, want %d", given, agentapi.MissBurst)
	}
	if given := d.fresh(in(wideUIDs+1, 100), 10); given != 0 {
		t.Errorf("another user of the unit got %d tokens more", given)
	}
	if given := d.fresh(in(wideUIDs, 200), 10); given != 10 {
		t.Errorf("the same user in another unit got %d of 10 tokens", given)
	}
}
