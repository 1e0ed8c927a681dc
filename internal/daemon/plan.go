package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/engine"
	"github.com/keyagent/keyagent/internal/rulebook"
)

// plan is a configuration resolved into what the packages take.
type plan struct {
	*engine.Plan
	rules     *rulebook.Book
	policy    *policy.Policy      // of the rules that were in force when it was resolved
	callables []agentapi.Identity // as callers may name them
	keys      map[string][]string // of each identity
	level     slog.Level          // of the log
}

// Check reports whether cfg can be used on this machine, without touching TPM or
// network: users and groups exist, the files it names can be read. If nothing else is
// wrong but that users or groups were not found, the error is a [*rulebook.OffError].
func Check(ctx context.Context, cfg *config.Config) error {
	p, err := resolve(ctx, cfg, nil, nil, nil)
	err = errors.Join(err, p.rules.CheckUnits(peer.Host{}))
	if t := cfg.Endpoints.Takeover; t != nil {
		_, unknown := TakeoverPlan(ctx, t, nil)
		err = errors.Join(err, unknown)
	}
	off := p.rules.NotInForce()
	switch {
	case off == nil:
		return err
	case err == nil:
		return off
	}
	return fmt.Errorf("%w\n%v", err, off) // not wrapped: it is not all that is wrong
}

// resolve reads what a configuration names and looks its users and groups up. Rules that the book
// before, nil if there is none, has in force stay in force while users and groups cannot be looked
// up. Now nil means time.Now. With an error, the plan has what could be resolved.
func resolve(ctx context.Context, cfg *config.Config, finder rulebook.Accounts, now func() time.Time, before *rulebook.Book) (*plan, error) {
	resolved, err := engine.Resolve(cfg)
	rules := rulebook.New(cfg, finder, now, before)
	p := &plan{Plan: resolved, rules: rules, policy: rules.Look(ctx), callables: callables(cfg.Identities), keys: engine.KeysOf(cfg.Identities), level: cfg.Level()}
	return p, errors.Join(err, rules.Check())
}

// callables translates the configuration's identities into those of the API.
func callables(identities []config.Identity) []agentapi.Identity {
	var all []agentapi.Identity
	for _, id := range identities {
		callable := agentapi.Identity{Name: id.Name, Kind: wire.KindManagedIdentity}
		if m := id.ManagedIdentity; m != nil {
			callable.ClientID, callable.ObjectID, callable.ResourceID = m.ClientID, m.ObjectID, m.ResourceID
		}
		if app := id.Application; app != nil {
			callable.Kind, callable.ClientID = wire.KindApplication, app.ClientID
		}
		all = append(all, callable)
	}
	return all
}
