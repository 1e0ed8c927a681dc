package daemon

import (
	"context"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/secret"
)

// ExpiryTick is how often the certificates of applications are looked at.
const ExpiryTick = expiryTick

// Fixed and Reloaded name the settings that stay as they are while the agent runs, and those that a reload changes.
func Fixed() (names []string) {
	for _, setting := range fixedSettings() {
		names = append(names, setting.name)
	}
	return names
}

var Reloaded = reloadedSettings

// Read returns the value that a command would use.
func (a AuthSource) Read() (secret.String, error) { return a.read() }

// RuleBook returns what looks at everybody whom the configuration names: it says which rules are in force then.
func RuleBook(cfg *config.Config, finder Accounts) func(context.Context) (map[string]bool, error) {
	book := newRuleBook(cfg, finder, nil)
	return func(ctx context.Context) (map[string]bool, error) {
		inForce := map[string]bool{}
		for _, r := range book.look(ctx).Rules {
			inForce[r.Name] = true
		}
		if off := book.notInForce(); off != nil {
			return inForce, off
		}
		return inForce, nil
	}
}
