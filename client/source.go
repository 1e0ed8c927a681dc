package client

import (
	"context"
	"crypto/subtle"
	"errors"
	"io/fs"
	"net/http"
	"sync"
	"time"

	"github.com/keyagent/keyagent/agentapi/wire"
)

const (
	// refreshPatience is how long a caller waits for a newer token while the one in hand is good.
	refreshPatience = 5 * time.Second
	// refreshPause is between two attempts to get a newer one.
	refreshPause = 10 * time.Second
	// restartPatience is how long a caller without a token waits for an agent that does not answer.
	// An agent that systemd restarts is back in a second or two.
	restartPatience = 5 * time.Second
	firstBackoff    = 50 * time.Millisecond
	longestBackoff  = time.Second
)

// TokenSource keeps one token in memory and asks the agent for the next one ahead of time: at the
// time that the agent said, else after half of the token's remaining life. It is safe for
// concurrent use; however many goroutines want a token, one request is made at a time.
//
// While the agent is not reachable, or cannot get a newer token at the moment, the old token is
// returned until it expires. A refusal by the agent's rules is passed on at once, whatever is left
// of the old token.
type TokenSource struct {
	ask     func(context.Context, TokenRequest) (Token, error)
	request TokenRequest
	turn    chan struct{} // holds a value while somebody asks the agent

	mu      sync.Mutex
	token   Token
	refresh time.Time // when to ask for a newer one; meaningless without a token
}

// TokenSource returns a source of tokens for one request. It does not ask yet. ForceRefresh and
// Claims are meant for single requests: of a source they would pass the agent's cache over each
// time, so they are left out. See [TokenSource.Renew] for claims.
func (c *Client) TokenSource(req TokenRequest) *TokenSource { return newTokenSource(c.Token, req) }

func newTokenSource(ask func(context.Context, TokenRequest) (Token, error), req TokenRequest) *TokenSource {
	req.ForceRefresh, req.Claims = false, ""
	return &TokenSource{ask: ask, request: req, turn: make(chan struct{}, 1)}
}

// Token returns a token that has not expired. Without one in memory it asks the agent, and waits
// for an agent that is being restarted, for some seconds at most. Errors are those of
// [Client.Token].
func (s *TokenSource) Token(ctx context.Context) (Token, error) {
	token, state := s.inMemory()
	switch state {
	case fresh:
		return token, nil
	case due:
		select {
		case s.turn <- struct{}{}:
			defer s.endTurn()
			return s.refreshed(ctx, token)
		default: // somebody else is at it
			return token, nil
		}
	}
	if err := s.takeTurn(ctx); err != nil {
		return Token{}, err
	}
	defer s.endTurn()
	if token, state := s.inMemory(); state != none {
		return token, nil // the caller whose turn came before has fetched it
	}
	return s.obtain(ctx, s.request)
}

// Renew returns a token that meets a claims challenge, in place of the one that the resource has
// rejected, and keeps it for those who ask next. If the rejected token has been replaced meanwhile,
// that is the answer, and nothing is asked. The zero Token stands for whichever is in memory.
func (s *TokenSource) Renew(ctx context.Context, rejected Token, claims string) (Token, error) {
	if err := s.takeTurn(ctx); err != nil {
		return Token{}, err
	}
	defer s.endTurn()
	if token, state := s.inMemory(); state != none && !rejected.AccessToken.IsZero() && !sameToken(token, rejected) {
		return token, nil
	}
	req := s.request
	req.Claims = claims
	token, err := s.obtain(ctx, req)
	if errors.Is(err, ErrRefused) {
		s.drop()
	}
	return token, err
}

// RefreshOn returns when the source will ask for a newer token than the one in memory: the zero
// time if there is none.
func (s *TokenSource) RefreshOn() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.token.AccessToken.IsZero() {
		return time.Time{}
	}
	return s.refresh
}

func sameToken(a, b Token) bool {
	return subtle.ConstantTimeCompare([]byte(a.AccessToken.Reveal()), []byte(b.AccessToken.Reveal())) == 1
}

// takeTurn waits until nobody else asks the agent.
func (s *TokenSource) takeTurn(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *TokenSource) endTurn() { <-s.turn }

// freshness says how the token in memory can be used.
type freshness int

const (
	none  freshness = iota // there is none that is good
	due                    // it is good, and a newer one should be asked for
	fresh                  // it is good
)

func (s *TokenSource) inMemory() (Token, freshness) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	switch {
	case !now.Before(s.token.Expiry()): // also of the zero Token
		return Token{}, none
	case !now.Before(s.refresh):
		return s.token, due
	}
	return s.token, fresh
}

// keep takes a token over. One that is not newer than the token before, as while the agent cannot
// get another, is asked about again after a shorter time, so pauses have a lower bound.
func (s *TokenSource) keep(token Token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.token = token
	s.refresh = later(max(refreshAfter(token), refreshPause))
}

func refreshAfter(token Token) time.Duration {
	left := time.Until(token.Expiry())
	if seconds := int64(left / time.Second); token.RefreshIn > 0 && token.RefreshIn < seconds {
		return time.Duration(token.RefreshIn) * time.Second
	}
	return left / 2
}

// later is a time of the wall clock: the monotonic one stands still while a machine sleeps.
func later(by time.Duration) time.Time { return time.Now().Add(by).Round(0) }

// drop forgets a token that the agent would no longer give.
func (s *TokenSource) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.token = Token{}
}

// pause puts the next attempt off.
func (s *TokenSource) pause(by time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refresh = later(by)
}

// refreshed asks for a newer token than one that is good.
func (s *TokenSource) refreshed(ctx context.Context, old Token) (Token, error) {
	asking, cancel := context.WithTimeout(ctx, refreshPatience)
	defer cancel()
	token, err := s.ask(asking, s.request)
	switch {
	case err == nil:
		s.keep(token)
		return token, nil
	case ctx.Err() != nil:
		return Token{}, err
	case asking.Err() != nil || passes(err):
		s.pause(max(retryAfter(err), refreshPause))
		return old, nil
	}
	s.drop()
	return Token{}, err
}

// obtain asks for a token where there is none that will do, and waits for an agent that is being
// restarted.
func (s *TokenSource) obtain(ctx context.Context, req TokenRequest) (Token, error) {
	giveUp := time.Now().Add(restartPatience)
	for backoff := firstBackoff; ; backoff = min(2*backoff, longestBackoff) {
		token, err := s.ask(ctx, req)
		if err == nil {
			s.keep(token)
			return token, nil
		}
		if !restarting(err) || time.Now().Add(backoff).After(giveUp) {
			return Token{}, err
		}
		select {
		case <-time.After(backoff):
		case <-ctx.Done():
			return Token{}, err
		}
	}
}

// restarting reports whether an agent that is being restarted would explain the error. A socket
// that this user may not open stays closed.
func restarting(err error) bool {
	return errors.Is(err, ErrNotReachable) && !errors.Is(err, fs.ErrPermission)
}

// passes reports whether an error says nothing against the token in hand.
func passes(err error) bool {
	said, ok := errors.AsType[*Error](err)
	if !ok {
		return restarting(err)
	}
	return said.Status == http.StatusTooManyRequests || said.Status >= http.StatusInternalServerError && said.Problem.Code != wire.CodeCredentialRefused
}

func retryAfter(err error) time.Duration {
	if said, ok := errors.AsType[*Error](err); ok {
		return said.RetryAfter
	}
	return 0
}
