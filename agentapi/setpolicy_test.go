package agentapi_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"os"
	"testing"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/agentapi"
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

// A request ends by the rules that were in force when it came: policy, identities and the source of
// their tokens.
func TestARequestEndsByTheRulesThatItCameBy(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	old := tokenFunc(func(_ context.Context, r acquire.Request) (acquire.Token, error) {
		close(arrived)
		<-release
		return goodToken(r), nil
	})
	a := start(t, config(old, rulesFor(os.Getuid())))
	answered := make(chan int, 1)
	path := wire.PathToken + "?identity=vm&resource=" + url.QueryEscape(vault)
	go func() { answered <- a.get(t, path).status }()
	<-arrived
	none := tokenFunc(func(context.Context, acquire.Request) (acquire.Token, error) {
		return acquire.Token{}, errors.New("nobody is allowed to ask")
	})
	if err := a.server.SetRules(agentapi.Rules{Policy: &policy.Policy{}, Tokens: none}); err != nil {
		t.Fatal(err)
	}
	a.http.CloseIdleConnections()
	if got := a.get(t, path).status; got != http.StatusForbidden {
		t.Errorf("by the new rules: %d", got)
	}
	close(release)
	if got := <-answered; got != http.StatusOK {
		t.Errorf("by the rules that it came by: %d", got)
	}
}
