package acquire

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// rejectedRest is how long an entry that was rejected, or cannot be bound, is skipped while
	// another one works.
	rejectedRest = 5 * time.Minute
	// missingRest is the same for an entry whose credential could not be loaded.
	missingRest = 30 * time.Second
)

// step is one form, bound or not, of one entry of an identity's list.
type step struct {
	entry  string // name of the entry
	source Source
	bound  bool
	second bool // the unbound form of an entry with bound: prefer; the step before is its bound form
	credential

	mu        sync.Mutex
	restUntil time.Time // skipped until then
	restErr   error     // why
	lastErr   error     // of the last attempt
	lastAt    time.Time // it ended
	strength  Strength  // of the last success
	tried     bool
}

// rests returns why the step is to be skipped now, or nil.
func (s *step) rests(now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Before(s.restUntil) {
		return s.restErr
	}
	return nil
}

func (s *step) note(g *grant, err error, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tried, s.lastErr, s.lastAt = true, err, at
	if err == nil {
		s.strength = g.strength
	}
}

// rest has the step skipped until a time.
func (s *step) rest(until time.Time, why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.restUntil, s.restErr = until, why
}

// chain is an identity's ordered list of credentials.
type chain struct {
	cfg   *Config
	name  string // of the identity
	floor Strength
	steps []*step

	bound   []*boundIdentity // managed identities; chains of other identities may share them
	holders []*holder        // connections of certificates that only this chain presents
}

// Attempt is one entry that was tried for a token.
type Attempt struct {
	Credential string // name of the entry
	Bound      bool
	Err        error
}

// ChainError says of every entry of an identity's list why it did not obtain a token. It unwraps to
// all of these errors.
type ChainError struct{ Attempts []Attempt }

func (e *ChainError) Error() string {
	parts := make([]string, len(e.Attempts))
	for i, a := range e.Attempts {
		form := "unbound"
		if a.Bound {
			form = "bound"
		}
		parts[i] = fmt.Sprintf("%s (%s): %v", a.Credential, form, a.Err)
	}
	return "no credential obtained a token: " + strings.Join(parts, "; ")
}

// Unwrap returns the errors of all attempts.
func (e *ChainError) Unwrap() []error {
	errs := make([]error, len(e.Attempts))
	for i, a := range e.Attempts {
		errs[i] = a.Err
	}
	return errs
}

// errNoPoP refuses a token of type mtls_pop where no credential is bound.
var errNoPoP = errors.New("no credential of this identity is bound, and so none can obtain a token of type mtls_pop")

// obtain tries the steps in order. Whether a step that failed gives way to the next, and to which,
// is decided by the table in licence.go.
func (c *chain) obtain(ctx context.Context, a *ask) (*grant, *step, error) {
	a.floors = append(slices.Clip(a.floors), c.floor)
	pass := pass{chain: c, now: c.cfg.Now()}
	for _, s := range c.steps {
		if pass.skips(a, s) {
			continue
		}
		g, err := s.obtain(ctx, a)
		err = withVerdict(err)
		s.note(g, err, c.cfg.Now())
		if err == nil {
			g.passed = g.passed || len(pass.attempts) > 0
			pass.restFailed(ctx, s)
			return g, s, nil
		}
		if !pass.continues(a, s, err) || ctx.Err() != nil {
			break
		}
	}
	return nil, nil, pass.err()
}

// pass is one pass over a chain.
type pass struct {
	*chain
	now      time.Time
	attempts []Attempt
	tried    []failedStep
	rejected int
	withheld []string // entries whose unbound form was not tried, since no refusal allowed it
	// boundOnly: a bound form failed without a definite refusal. An attacker who can disturb it
	// must not be able to choose the weaker form.
	boundOnly bool
}

// failedStep is a step that failed in this pass.
type failedStep struct {
	*step
	err error
}

// skips reports whether a step must not be tried.
func (p *pass) skips(a *ask, s *step) bool {
	switch {
	case s.bound:
	case a.tokenType == TypePoP:
		return true
	case p.boundOnly:
		p.withheld = append(p.withheld, s.entry)
		return true
	case s.second && !p.secondServes():
		return true
	}
	// The caller of a forced refresh may know that something was changed.
	if err := s.rests(p.now); err != nil && !a.forceRefresh {
		p.fail(s, err)
		return true
	}
	return false
}

// secondServes reports whether the bound form was refused in a way that allows the unbound form
// after it.
func (p *pass) secondServes() bool {
	last := len(p.attempts) - 1
	return last >= 0 && CannotBeBound(p.attempts[last].Err)
}

func (p *pass) fail(s *step, err error) {
	p.attempts = append(p.attempts, Attempt{Credential: s.entry, Bound: s.bound, Err: err})
	p.boundOnly = p.boundOnly || s.bound && !CannotBeBound(err)
}

// continues notes the failure of a step, and reports whether another one may be tried.
func (p *pass) continues(a *ask, s *step, err error) bool {
	p.fail(s, err)
	p.tried = append(p.tried, failedStep{s, err})
	allowed := verdictOf(err).licence
	switch {
	case a.tokenType != TypePoP && p.preferred(s) && allowed.weaker:
		return true
	case allowed.once:
		p.rejected++
		return p.rejected == 1
	}
	return allowed.next
}

// preferred reports whether s has an unbound form after it.
func (p *pass) preferred(s *step) bool {
	for i, other := range p.steps {
		if other == s {
			return i+1 < len(p.steps) && p.steps[i+1].second
		}
	}
	return false
}

// restFailed has the entries that failed skipped for a while, since another one works, and logs a
// warning for each.
func (p *pass) restFailed(ctx context.Context, working *step) {
	for _, s := range p.tried {
		s.rest(p.now.Add(verdictOf(s.err).rest()), s.err)
		p.cfg.Logger.WarnContext(ctx, "a credential was passed over", "identity", p.name, "credential", s.entry, "bound", s.bound,
			"used", working.entry, "used_bound", working.bound, "cause", s.err)
	}
}

// err is why there is no token.
func (p *pass) err() error {
	var err error
	switch len(p.attempts) {
	case 0:
		return withVerdict(errNoPoP)
	case 1:
		err = p.attempts[0].Err
	default:
		err = withVerdict(&ChainError{Attempts: p.attempts})
	}
	if len(p.withheld) > 0 {
		return fmt.Errorf("%w; not tried, since unbound: %s (only a definite refusal by the other side allows that)", err, strings.Join(p.withheld, ", "))
	}
	return err
}
