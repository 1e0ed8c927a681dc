package agentapi_test

import (
	"net/http"
	"net/url"
	"os"
	"testing"

	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/agentapi/wire"
)

// A policy is exchanged while the server runs, as a whole, or not at all.
func TestSetPolicy(t *testing.T) {
	a := start(t, config(working, &policy.Policy{}))
	ask := func() int {
		t.Helper()
		defer a.http.CloseIdleConnections() // a connection keeps the standing that its caller had when it was made
		return a.get(t, wire.PathToken+"?identity=vm&resource="+url.QueryEscape(vault)).status
	}
	if got := ask(); got != http.StatusForbidden {
		t.Errorf("without rules: %d", got)
	}
	if err := a.server.SetPolicy(rulesFor(os.Getuid())); err != nil {
		t.Fatal(err)
	}
	if got := ask(); got != http.StatusOK {
		t.Errorf("by the new rule: %d", got)
	}
	for name, change := range map[string]func(*policy.Rule){
		"a rule that names nobody":        func(r *policy.Rule) { r.UIDs = nil },
		"an identity that does not exist": func(r *policy.Rule) { r.Identities = []string{"other"} },
		"a resource with two slashes":     func(r *policy.Rule) { r.Resources = []string{vault + "//"} },
	} {
		p := rulesFor(1 << 30)
		change(&p.Rules[0])
		if err := a.server.SetPolicy(p); err == nil {
			t.Errorf("%s is taken", name)
		}
		if got := ask(); got != http.StatusOK {
			t.Errorf("after %s was refused: %d", name, got)
		}
	}
	if err := a.server.SetPolicy(&policy.Policy{}); err != nil {
		t.Fatal(err)
	}
	if got := ask(); got != http.StatusForbidden {
		t.Errorf("after the rule was taken away: %d", got)
	}
	// The agent's own user stays an administrator.
	if got := a.get(t, wire.PathStatus).status; got != http.StatusOK {
		t.Errorf("status for the agent's own user: %d", got)
	}
}
