package daemon_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/daemon"
)

// TestAnUnknownUserOfTheTakeoverIsAConfigurationError: to start the agent again does not help, so
// it must stay, and answer that it cannot serve.
func TestAnUnknownUserOfTheTakeoverIsAConfigurationError(t *testing.T) {
	s := newStage(t)
	s.cfg.Endpoints.Takeover = &config.Takeover{Listen: "127.0.0.1:842", Users: []string{"nobody-has-this-name"}}
	agent, err := daemon.Open(t.Context(), s.cfg, daemon.Options{})
	if err == nil {
		t.Fatal(agent.Close())
	}
	if _, found := errors.AsType[*daemon.ConfigError](err); !found || !strings.Contains(err.Error(), "endpoints.takeover.users") {
		t.Errorf("got %T: %v", err, err)
	}
}
