package rulebook_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/rulebook"
)

// slowDirectory knows "alive" at once, and answers for no other name within five seconds.
type slowDirectory struct{}

func (slowDirectory) User(ctx context.Context, name string) (uint32, error) {
	if name == "alive" {
		return 1000, nil
	}
	select {
	case <-time.After(5 * time.Second):
		return 0, fmt.Errorf("%q: the directory did not answer in time", name)
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func (slowDirectory) Group(context.Context, string) (uint32, error) {
	return 0, errors.New("there are no groups")
}

// Names that a directory does not answer for keep the others out neither at the start nor for ever.
func TestNamesThatHangKeepNobodyOut(t *testing.T) {
	for _, tt := range []struct {
		hanging int // names before the one that is known
		looks   int // until it is found, at most
		longest time.Duration
	}{{0, 1, 0}, {4, 1, 5 * time.Second}, {20, 1, 15 * time.Second}, {100, 4, 20 * time.Second}} {
		t.Run(fmt.Sprint(tt.hanging, " names"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := &config.Config{}
				for i := range tt.hanging {
					cfg.Rules = append(cfg.Rules, config.Rule{Name: fmt.Sprint("dead-", i), Principals: config.Principals{Users: []string{fmt.Sprint("user-", i)}}})
				}
				cfg.Rules = append(cfg.Rules, config.Rule{Name: "web", Principals: config.Principals{Users: []string{"alive"}}})
				book := rulebook.New(cfg, slowDirectory{}, nil, nil)
				for n := 1; ; n++ {
					began := time.Now()
					inForce := book.Look(t.Context()).Rules
					if took := time.Since(began); took > tt.longest {
						t.Errorf("look %d took %v", n, took)
					}
					if slices.ContainsFunc(inForce, func(r policy.Rule) bool { return r.Name == "web" }) {
						return
					}
					if n >= tt.looks {
						t.Fatalf("not found in look %d", n)
					}
					if off := book.NotInForce(); !strings.Contains(off.Error(), `"alive": not asked for yet`) {
						t.Errorf("what is said of it: %v", off)
					}
				}
			})
		})
	}
}
