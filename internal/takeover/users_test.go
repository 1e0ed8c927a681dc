package takeover_test

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/config"
	known "github.com/keyagent/keyagent/internal/accounts"
	"github.com/keyagent/keyagent/internal/takeover"
)

// accounts are the users of a machine.
type accounts map[string]uint32

func (a accounts) User(_ context.Context, name string) (uint32, error) {
	if uid, ok := a[name]; ok {
		return uid, nil
	}
	return 0, fmt.Errorf("user %q: %w", name, known.ErrUnknown)
}

var machine = accounts{"web": 4101, "www": 4101, "batch": 4102, "keyagent": 990, "toor": 0}

func resolve(t *testing.T, users []string, subuid string) (takeover.Plan, error) {
	t.Helper()
	cfg := &config.Takeover{Listen: "127.0.0.1:842", Users: users}
	return takeover.Resolve(t.Context(), cfg, machine, strings.NewReader(subuid), 990)
}

func TestResolve(t *testing.T) {
	tests := []struct {
		name   string
		users  []string
		subuid string
		want   []takeover.Range
		err    string
	}{
		{"names and numbers", []string{"web", "5000"}, "", []takeover.Range{{4101, 4101}, {5000, 5000}}, ""},
		{"one user twice", []string{"web", "4101"}, "", []takeover.Range{{4101, 4101}}, ""},
		{"neighbours", []string{"batch", "web"}, "", []takeover.Range{{4101, 4102}}, ""},
		{"subordinate uids by name", []string{"web"}, "other:1:5\nweb:100000:65536\n", []takeover.Range{{4101, 4101}, {100000, 165535}}, ""},
		{"subordinate uids by number", []string{"web"}, "4101:100000:65536", []takeover.Range{{4101, 4101}, {100000, 165535}}, ""},
		{"by the name of a user who is given by number", []string{"4101"}, "web:200000:1\n", []takeover.Range{{4101, 4101}, {200000, 200000}}, ""},
		{"by another name of the user", []string{"web"}, "www:200000:1\ngone:300000:1\n", []takeover.Range{{4101, 4101}, {200000, 200000}}, ""},
		{"two ranges that overlap", []string{"web", "batch"}, "web:100000:10\nbatch:100005:10\nweb:100015:5", []takeover.Range{{4101, 4102}, {100000, 100019}}, ""},
		{"the last uid", []string{"4294967294"}, "", []takeover.Range{{4294967294, 4294967294}}, ""},

		{"a user who is not known", []string{"web", "nobody-here"}, "", nil, `"nobody-here"`},
		{"root by another name", []string{"toor"}, "", nil, "root"},
		{"the agent", []string{"keyagent"}, "", nil, "the agent itself"},
		{"the agent by number", []string{"990"}, "", nil, "the agent itself"},
		{"no user", []string{"4294967295"}, "", nil, "not the number of a user"},
		{"a range with root", []string{"web"}, "web:0:10", nil, "uid 0"},
		{"a range with the agent", []string{"web"}, "web:900:100", nil, "uid 990"},
		{"a range that cannot be read", []string{"web"}, "web:100000", nil, "/etc/subuid"},
		{"a range without a beginning", []string{"web"}, "web", nil, "/etc/subuid"},
		{"a range beyond all uids", []string{"web"}, "web:4294967000:400", nil, "/etc/subuid"},
		{"an empty range", []string{"web"}, "web:100000:0", nil, "/etc/subuid"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			plan, err := resolve(t, tt.users, tt.subuid)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(takeover.Plan{Port: 842, Users: tt.want}, plan); diff != "" {
				t.Error(diff)
			}
			for _, r := range tt.want {
				if !plan.Takes(r.First) || !plan.Takes(r.Last) {
					t.Errorf("%v is not taken over", r)
				}
			}
			if plan.Takes(0) || plan.Takes(990) || plan.Takes(4100) {
				t.Error("somebody else is taken over")
			}
		})
	}
}

func TestAnEndlessSubuidFileIsRefused(t *testing.T) {
	cfg := &config.Takeover{Listen: "127.0.0.1:842", Users: []string{"web"}}
	for name, line := range map[string]string{"many lines": "x:1:1\n", "one line": "x"} {
		endless := strings.NewReader(strings.Repeat(line, 1<<21/len(line)))
		if _, err := takeover.Resolve(t.Context(), cfg, machine, io.MultiReader(endless)); err == nil {
			t.Errorf("%s: it is read", name)
		}
	}
}

// FuzzSubuid: whatever the file says, what is taken over is in order, and neither root nor the
// agent is in it.
func FuzzSubuid(f *testing.F) {
	f.Add("web:100000:65536\n4101:300000:1\n")
	f.Add("web:4294967295:1")
	f.Add(":::\nweb::\nweb:1:4294967295")
	f.Fuzz(func(t *testing.T, file string) {
		cfg := &config.Takeover{Listen: "127.0.0.1:842", Users: []string{"web"}}
		plan, err := takeover.Resolve(context.Background(), cfg, machine, strings.NewReader(file), 990)
		if err != nil {
			return
		}
		if plan.Takes(0) || plan.Takes(990) || !plan.Takes(4101) {
			t.Errorf("%v", plan.Users)
		}
		if !slices.IsSortedFunc(plan.Users, func(a, b takeover.Range) int {
			if a.Last < b.First && a.First <= a.Last {
				return -1
			}
			return 1
		}) {
			t.Errorf("not in order: %v", plan.Users)
		}
	})
}
