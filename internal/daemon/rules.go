package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/accounts"
	"github.com/keyagent/keyagent/internal/waiting"
)

const (
	// lookTimeout bounds one look at all users and groups together: a directory that does not answer must not keep the agent
	// from starting.
	lookTimeout = 20 * time.Second

	// Pauses between looks for those who are not known yet: short while the machine starts, when a directory's service may come
	// up after the agent.
	firstPause = 5 * time.Second
	lastPause  = 30 * time.Second
)

// Accounts finds users and groups of this machine by name. It must be safe for concurrent use.
type Accounts interface {
	User(ctx context.Context, name string) (uid uint32, err error)
	Group(ctx context.Context, name string) (gid uint32, err error)
}

// RuleOff is a rule that is not in force, with the reason, an error for each of its users and groups who were not found.
type RuleOff struct {
	Name string
	Err  error
}

// RulesOffError says which rules are not in force because of users or groups who were not found. The agent runs without them, and
// puts them in force when everybody whom they name is found. It is never an error of anything else, too.
type RulesOffError struct {
	Rules  []RuleOff
	Admins error // of administrators who are left out; nil: all were found
}

func (e *RulesOffError) Error() string {
	var problems []error
	for _, off := range e.Rules {
		problems = append(problems, fmt.Errorf("rule %q: %w", off.Name, off.Err))
	}
	if e.Admins != nil {
		problems = append(problems, fmt.Errorf("admins: %w", e.Admins))
	}
	return errors.Join(problems...).Error()
}

// ruleBook makes the policy of the configured rules, as far as the users and groups are known whom they name. A rule is in force as a
// whole or not at all, so that nobody has to guess which part of it is; an administrator who is not known is left out alone. Whoever was
// found keeps their number as long as the agent runs.
type ruleBook struct {
	rules     []config.Rule
	admins    config.Principals
	audiences []string // that only a rule gives that names them
	accounts  Accounts
	earlier   map[account]uint32 // as the rules before these knew them

	mu    sync.Mutex // guards what follows; not held while anybody is looked up
	known map[account]uint32
	looks int
	asked map[account]int // in which look somebody was asked for last: who was not for longest comes first
	off   *RulesOffError  // nil: all rules are in force, and all administrators known
}

// account is a user or a group, by the name that the configuration has for it.
type account struct {
	group bool
	name  string
}

func newRuleBook(cfg *config.Config, finder Accounts) *ruleBook {
	if finder == nil {
		finder = accounts.Finder{}
	}
	return &ruleBook{rules: cfg.Rules, admins: cfg.Admins, audiences: cfg.AssertionAudiences(), accounts: finder, known: map[account]uint32{}, asked: map[account]int{}}
}

// check finds what is wrong with what the rules give, whomever they give it to.
func (b *ruleBook) check() error {
	p := &policy.Policy{Audiences: b.audiences}
	for _, r := range b.rules {
		p.Rules = append(p.Rules, policyRule(r, []uint32{0}, nil)) // this policy decides nothing
	}
	return p.Validate()
}

func policyRule(r config.Rule, uids, gids []uint32) policy.Rule {
	return policy.Rule{
		Name: r.Name, UIDs: uids, GIDs: gids,
		Identities: r.Identities, Resources: r.Resources, TokenTypes: r.Types, Fresh: r.Fresh,
	}
}

// look looks for everybody who is not known yet, and returns the policy that is then in force. One look at a time.
func (b *ruleBook) look(ctx context.Context) *policy.Policy {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	l := &look{ctx: ctx, accounts: b.accounts, earlier: b.earlier, known: b.knownNow(), missing: map[account]error{}}
	l.askForAll(b.names())
	p, off := &policy.Policy{Audiences: b.audiences}, &RulesOffError{}
	for _, r := range b.rules {
		uids, gids, err := l.all(r.Principals)
		if err != nil {
			off.Rules = append(off.Rules, RuleOff{r.Name, err})
			continue
		}
		p.Rules = append(p.Rules, policyRule(r, uids, gids))
	}
	p.AdminUIDs, p.AdminGIDs, off.Admins = l.all(b.admins)
	if len(off.Rules) == 0 && off.Admins == nil {
		off = nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.known, b.off = l.known, off
	b.looks++
	for a, err := range l.missing {
		if !errors.Is(err, errNotAsked) {
			b.asked[a] = b.looks
		}
	}
	return p
}

// names lists everybody whom the configuration names, those first who were not asked for for longest.
func (b *ruleBook) names() []account {
	var all []account
	add := func(p config.Principals) {
		for _, name := range p.Users {
			all = append(all, account{false, name})
		}
		for _, name := range p.Groups {
			all = append(all, account{true, name})
		}
	}
	for _, r := range b.rules {
		add(r.Principals)
	}
	add(b.admins)
	b.mu.Lock()
	defer b.mu.Unlock()
	slices.SortStableFunc(all, func(x, y account) int { return cmp.Compare(b.asked[x], b.asked[y]) })
	return all
}

func (b *ruleBook) knownNow() map[account]uint32 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.known)
}

// notInForce returns what the last look did not find; nil if it found everybody.
func (b *ruleBook) notInForce() *RulesOffError {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.off
}

// look is one look at users and groups. It asks for nobody twice.
type look struct {
	ctx      context.Context // of the one call that this lives for
	accounts Accounts
	earlier  map[account]uint32 // what an earlier configuration's look has found

	mu      sync.Mutex // guards what follows
	known   map[account]uint32
	missing map[account]error
}

// asksAtOnce is how many names are looked up at a time: some that a directory does not answer for must not keep the others waiting.
const asksAtOnce = 8

// errNotAsked is in the place of an answer where there was no time for the question.
var errNotAsked = errors.New("not asked for yet: other names took the time; they are asked for first the next time")

// askForAll looks everybody up who is not known.
func (l *look) askForAll(all []account) {
	asked := maps.Clone(l.known)
	var g errgroup.Group
	g.SetLimit(asksAtOnce)
	for _, a := range all {
		if _, before := asked[a]; !before {
			asked[a] = 0
			g.Go(func() error { l.ask(a); return nil })
		}
	}
	_ = g.Wait() // each error is kept with its name
}

func (l *look) ask(a account) {
	var id uint32
	err := fmt.Errorf("%q: %w", a.name, errNotAsked)
	if l.ctx.Err() == nil {
		id, err = l.find(a)
	}
	if had, found := l.earlier[a]; err != nil && found && !errors.Is(err, accounts.ErrUnknown) {
		id, err = had, nil // nobody says that they are gone: a directory that is down must not put rules out of force
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.missing[a] = err
		return
	}
	l.known[a] = id
}

// all returns the numbers of those who were found, and an error about those who were not.
func (l *look) all(p config.Principals) (uids, gids []uint32, err error) {
	var problems []error
	find := func(group bool, names []string) (ids []uint32) {
		for _, name := range names {
			id, err := l.one(account{group, name})
			if err != nil {
				problems = append(problems, err)
				continue
			}
			ids = append(ids, id)
		}
		return ids
	}
	uids, gids = find(false, p.Users), find(true, p.Groups)
	return uids, gids, errors.Join(problems...)
}

// one returns what was found out about somebody.
func (l *look) one(a account) (uint32, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if id, found := l.known[a]; found {
		return id, nil
	}
	return 0, l.missing[a]
}

// find takes a number as it is and looks a name up.
func (l *look) find(a account) (uint32, error) {
	if id, err := strconv.ParseUint(a.name, 10, 32); err == nil {
		if id == 1<<32-1 { // (uid_t)-1 is nobody's
			return 0, fmt.Errorf("%q is not the number of a user or group", a.name)
		}
		return uint32(id), nil
	}
	if a.group {
		return l.accounts.Group(l.ctx, a.name)
	}
	return l.accounts.User(l.ctx, a.name)
}

// awaitAccounts looks again and again for users and groups who were not found, and puts the rules in force whose users and groups then
// are. Those of a configuration that is not in force any more are not looked for. It returns nil when ctx ends.
func (d *Daemon) awaitAccounts(ctx context.Context) error {
	for ctx.Err() == nil {
		now := d.inForce.Load()
		looking, stop := context.WithCancel(ctx)
		release := context.AfterFunc(now.life, stop) //nolint:contextcheck // that of the configuration, beside ours
		d.awaitAccountsOf(looking, now)
		<-looking.Done()
		release()
		stop()
	}
	return nil
}

// awaitAccountsOf returns when all rules of a configuration are in force, or ctx ends.
func (d *Daemon) awaitAccountsOf(ctx context.Context, of *inForce) {
	wait := d.opts.WaitForAccounts
	if wait == nil {
		wait = waiting.Sleep
	}
	book := of.plan.rules
	for pause := firstPause; book.notInForce() != nil; pause = min(2*pause, lastPause) {
		if err := wait(ctx, pause); err != nil {
			return
		}
		before := book.notInForce()
		found := book.look(ctx)
		if err := d.setPolicy(of, found); err != nil {
			d.opts.Logger.Error("the rules stay as they were", "cause", err)
			continue
		}
		if ctx.Err() == nil {
			d.tellRules(before, book.notInForce())
		}
	}
}

// setPolicy puts the policy of a configuration in force, unless another configuration is.
func (d *Daemon) setPolicy(of *inForce, found *policy.Policy) error {
	d.swapping.Lock()
	defer d.swapping.Unlock()
	if d.inForce.Load() != of {
		return nil
	}
	return d.server.SetPolicy(found)
}

// tellRules logs which rules are in force and which are not, as far as that is new; before is nil at the start.
func (d *Daemon) tellRules(before, after *RulesOffError) {
	before, after = cmp.Or(before, &RulesOffError{}), cmp.Or(after, &RulesOffError{})
	for _, off := range before.Rules {
		if reasonOff(after, off.Name) == "" {
			d.opts.Logger.Info("a rule has come into force: everybody whom it names was found", "rule", off.Name)
		}
	}
	for _, off := range after.Rules {
		if reason := off.Err.Error(); reason != reasonOff(before, off.Name) {
			d.opts.Logger.Error("a rule is not in force: it names somebody who was not found, and nobody gets a token by it until then", "rule", off.Name, "cause", reason)
		}
	}
	switch {
	case after.Admins == nil && before.Admins != nil:
		d.opts.Logger.Info("all administrators were found")
	case after.Admins != nil && (before.Admins == nil || before.Admins.Error() != after.Admins.Error()):
		d.opts.Logger.Error("an administrator was not found, and may not ask for the status until then", "cause", after.Admins.Error())
	}
}

// reasonOff returns why a rule is not in force, or nothing if it is.
func reasonOff(e *RulesOffError, rule string) string {
	i := slices.IndexFunc(e.Rules, func(off RuleOff) bool { return off.Name == rule })
	if i < 0 {
		return ""
	}
	return e.Rules[i].Err.Error()
}

// addStatus adds what is not in force.
func (b *ruleBook) addStatus(status *wire.Status) {
	off := b.notInForce()
	if off == nil {
		return
	}
	for _, r := range off.Rules {
		status.RulesOff = append(status.RulesOff, wire.RuleStatus{Name: r.Name, Reason: r.Err.Error()})
	}
	if off.Admins != nil {
		status.AdminsUnknown = off.Admins.Error()
	}
}
