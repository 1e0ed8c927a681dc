package client_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/client"
)

// agentDouble numbers its tokens. It is used where hours pass, which a socket does not let happen
// in a test.
type agentDouble struct {
	asked  []time.Time
	claims []string
	lives  time.Duration
	again  int64         // refresh_in
	takes  time.Duration // of an answer
	err    error
}

func (a *agentDouble) Token(ctx context.Context, req client.TokenRequest) (client.Token, error) {
	a.asked, a.claims = append(a.asked, time.Now()), append(a.claims, req.Claims)
	select {
	case <-time.After(a.takes):
	case <-ctx.Done():
		return client.Token{}, fmt.Errorf("asking the agent: %w", ctx.Err())
	}
	if a.err != nil {
		return client.Token{}, a.err
	}
	return client.Token{
		AccessToken: wire.NewSecret(fmt.Sprintf("token-%d", len(a.asked))), TokenType: "Bearer", ExpiresOn: time.Now().Add(a.lives).Unix(), RefreshIn: a.again,
	}, nil
}

func answered(code wire.Code, retryAfter time.Duration) error {
	return &client.Error{Problem: wire.Problem{Code: code}, Status: code.Status(), RetryAfter: retryAfter}
}

// wantToken checks which of the agent's tokens comes; 0: none.
func wantToken(t *testing.T, source *client.TokenSource, number int) {
	t.Helper()
	token, err := source.Token(t.Context())
	want := fmt.Sprintf("token-%d", number)
	if number == 0 {
		want = ""
	}
	if token.AccessToken.Reveal() != want || (err == nil) == (want == "") {
		t.Errorf("got %q, %v, want %q", token.AccessToken.Reveal(), err, want)
	}
}

func TestASourceAsksAgainWhenTheAgentHasAnotherToken(t *testing.T) {
	for name, c := range map[string]struct {
		refreshIn int64
		after     time.Duration
	}{
		"as the agent says":     {3600, time.Hour},
		"it says nothing":       {0, 12 * time.Hour},
		"it says nonsense":      {-1, 12 * time.Hour},
		"after the token's end": {1 << 62, 12 * time.Hour},
		"at once":               {1, 10 * time.Second}, // nobody is asked all the time
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				agent := &agentDouble{lives: 24 * time.Hour, again: c.refreshIn}
				source := client.NewTokenSource(agent.Token, client.TokenRequest{Resource: vault})
				wantToken(t, source, 1)
				elapse(c.after - time.Second)
				wantToken(t, source, 1)
				elapse(time.Second)
				wantToken(t, source, 2)
			})
		})
	}
}

// What an outage of the agent or of Entra looks like to a program with a token in hand.
func TestASourceServesTheOldTokenUntilItExpires(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		takes  time.Duration
		serves bool
	}{
		"the agent is not reachable":         {client.ErrNotReachable, 0, true},
		"the agent accepts and says nothing": {nil, 24 * time.Hour, true},
		"Entra is down":                      {answered(wire.CodeUnavailable, 5*time.Second), 0, true},
		"Entra wants a pause":                {answered(wire.CodeThrottled, time.Minute), 0, true},
		"the agent has a fault":              {answered(wire.CodeInternal, 0), 0, true},
		"the rules have changed":             {answered(wire.CodeNotAllowed, 0), 0, false},
		"the caller is in no rule any more":  {answered(wire.CodeCallerNotAllowed, 0), 0, false},
		"the credential was revoked":         {answered(wire.CodeCredentialRefused, 0), 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				agent := &agentDouble{lives: time.Hour}
				source := client.NewTokenSource(agent.Token, client.TokenRequest{Resource: vault})
				wantToken(t, source, 1)
				elapse(31 * time.Minute)
				agent.err, agent.takes = c.err, c.takes
				if !c.serves {
					wantToken(t, source, 0)
					agent.err = nil
					wantToken(t, source, 3) // and not the one before
					return
				}
				wantToken(t, source, 1)
				before := len(agent.asked)
				wantToken(t, source, 1)
				if len(agent.asked) != before {
					t.Error("there was no pause before the next attempt")
				}
				elapse(28 * time.Minute)
				wantToken(t, source, 1)
				elapse(time.Minute)
				agent.takes, agent.err = 0, client.ErrNotReachable
				wantToken(t, source, 0) // it has expired
				agent.err = nil
				wantToken(t, source, len(agent.asked)+1)
			})
		})
	}
}

func TestASourceWaitsAsLongAsTheAgentAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent := &agentDouble{lives: time.Hour}
		source := client.NewTokenSource(agent.Token, client.TokenRequest{Resource: vault})
		wantToken(t, source, 1)
		elapse(31 * time.Minute)
		agent.err = answered(wire.CodeThrottled, 2*time.Minute)
		wantToken(t, source, 1)
		agent.err = nil
		elapse(2*time.Minute - time.Second)
		wantToken(t, source, 1)
		elapse(time.Second)
		wantToken(t, source, 3)
	})
}

func TestASourceWithoutATokenTriesAgainForSecondsAtMost(t *testing.T) {
	for name, c := range map[string]struct {
		err      error
		attempts func(int) bool
	}{
		"an agent that is restarted":    {client.ErrNotReachable, func(n int) bool { return n > 5 && n < 20 }},
		"a socket that is closed to us": {errors.Join(client.ErrNotReachable, os.ErrPermission), func(n int) bool { return n == 1 }},
		"a refusal":                     {answered(wire.CodeNotAllowed, 0), func(n int) bool { return n == 1 }},
		"an outage of Entra":            {answered(wire.CodeUnavailable, time.Second), func(n int) bool { return n == 1 }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				agent, start := &agentDouble{err: c.err}, time.Now()
				source := client.NewTokenSource(agent.Token, client.TokenRequest{Resource: vault})
				if _, err := source.Token(t.Context()); !errors.Is(err, c.err) {
					t.Errorf("got %v", err)
				}
				if took := time.Since(start); !c.attempts(len(agent.asked)) || took > 5*time.Second {
					t.Errorf("%d attempts in %v", len(agent.asked), took)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				start = time.Now()
				if _, err := source.Token(ctx); err == nil || time.Since(start) > time.Second {
					t.Errorf("with a context: %v after %v", err, time.Since(start))
				}
			})
		})
	}
}

func TestASourceMakesOneRequestAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent := &agentDouble{lives: time.Hour, takes: time.Second}
		source := client.NewTokenSource(agent.Token, client.TokenRequest{Resource: vault})
		together := func(number int) {
			var group sync.WaitGroup
			for range 100 {
				group.Go(func() { wantToken(t, source, number) })
			}
			group.Wait()
		}
		together(1)
		elapse(40 * time.Minute)
		var olds atomic.Int32
		var group sync.WaitGroup
		for range 100 {
			group.Go(func() {
				start := time.Now()
				token, err := source.Token(t.Context())
				if err != nil {
					t.Error(err)
				}
				if token.AccessToken.Reveal() == "token-1" && time.Since(start) == 0 {
					olds.Add(1) // nobody waits for a refresh but the one who makes it
				}
			})
		}
		group.Wait()
		if olds.Load() != 99 || len(agent.asked) != 2 {
			t.Errorf("%d did not wait, %d requests", olds.Load(), len(agent.asked))
		}
		// Whoever gives up leaves the turn to the next.
		elapse(time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		group.Go(func() {
			if _, err := source.Token(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
		})
		synctest.Wait()
		wantToken(t, source, 4)
		group.Wait()
	})
}

func TestOneOfManyChallengedRequestsRenewsTheToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const claims = `{"access_token":{"nbf":{"essential":true,"value":"1790000000"}}}`
		agent := &agentDouble{lives: time.Hour, takes: time.Second}
		source := client.NewTokenSource(agent.Token, client.TokenRequest{Resource: vault, ForceRefresh: true, Claims: "x"})
		rejected, err := source.Token(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var group sync.WaitGroup
		for range 20 {
			group.Go(func() {
				token, err := source.Renew(t.Context(), rejected, claims)
				if err != nil || token.AccessToken.Reveal() != "token-2" {
					t.Errorf("got %q, %v", token.AccessToken.Reveal(), err)
				}
			})
		}
		group.Wait()
		wantToken(t, source, 2)
		if want := []string{"", claims}; !slices.Equal(agent.claims, want) {
			t.Errorf("the agent was asked with claims %q, want %q", agent.claims, want)
		}
	})
}

// The agent's own server goes away and comes back at the same path.
func TestASourceOutlivesARestartOfTheAgent(t *testing.T) {
	socket := filepath.Join(tempDir(t), "agent.sock")
	stop := serveAt(t, socket, working)
	source := newClient(t, socket).TokenSource(client.TokenRequest{Resource: vault})
	if _, err := source.Token(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop()
	if _, err := source.Token(t.Context()); err != nil {
		t.Errorf("with a token in memory: %v", err)
	}
	// A source without a token begins while there is no agent.
	other := newClient(t, socket).TokenSource(client.TokenRequest{Resource: vault})
	got := make(chan error, 1)
	go func() {
		_, err := other.Token(t.Context())
		got <- err
	}()
	serveAt(t, socket, working)
	if err := <-got; err != nil {
		t.Errorf("when the agent is back: %v", err)
	}
}

// serveAt runs an agent until the test ends or it is stopped.
func serveAt(t *testing.T, socket string, source tokens) (stop func()) {
	t.Helper()
	ln, err := agentapi.Listen(socket, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	return run(t, newServer(t, source, uint32(os.Geteuid())), ln)
}

// elapse lets the bubble's time pass.
func elapse(d time.Duration) { <-time.After(d) }
