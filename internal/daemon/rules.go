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
	// lookTimeout bounds each of the two rounds of questions of one look: a directory that does not answer must not keep the agent
	// from starting, for which one round is made.
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
// whole or not at all, so that nobody has to guess which part of it is; an administrator who is not known is left out alone. Whoever a
// rule in force names keeps their number as long as the agent runs. What is known of anybody else saves look-ups and decides nothing: a
// rule comes into force with what one look has found of everybody whom it names.
type ruleBook struct {
	rules     []config.Rule
	admins    config.Principals
	audiences []string // that only a rule gives that names them
	accounts  Accounts
	now       func() time.Time
	before    held // by the configuration before

	mu    sync.Mutex // guards what follows; not held while anybody is looked up
	known map[account]accountNumber
	on    map[unit]bool // in force since the last look; replaced, not changed
	looks int
	asked map[account]int // in which look somebody was asked for last: who was not for longest comes first
	off   *RulesOffError  // nil: all rules are in force, and all administrators known
}

func newRuleBook(cfg *config.Config, finder Accounts, now func() time.Time) *ruleBook {
	if finder == nil {
		finder = accounts.Finder{}
	}
	if now == nil {
		now = time.Now
	}
	return &ruleBook{rules: cfg.Rules, admins: cfg.Admins, audiences: cfg.AssertionAudiences(), accounts: finder, now: now, known: map[account]accountNumber{}, asked: map[account]int{}}
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
	l := b.newLook()
	l.askForAll(ctx, l.unknown(b.names()))
	l.askForAll(ctx, l.stale(b.units())) // none at the first look, which asks for everybody anyway
	p, off := &policy.Policy{Audiences: b.audiences}, &RulesOffError{}
	for _, r := range b.rules {
		uids, gids, err := l.all(unit{rule: r.Name}, r.Principals)
		if err != nil {
			off.Rules = append(off.Rules, RuleOff{r.Name, err})
			continue
		}
		p.Rules = append(p.Rules, policyRule(r, uids, gids))
	}
	off.Admins = l.findAdmins(p, b.admins)
	if len(off.Rules) == 0 && off.Admins == nil {
		off = nil
	}
	b.keep(l, off)
	return p
}

func (b *ruleBook) newLook() *look {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := &look{
		n: b.looks + 1, accounts: b.accounts, now: b.now, on: b.on, stays: map[unit]bool{},
		known: maps.Clone(b.known), missing: map[account]error{},
	}
	if l.n == 1 {
		l.on, l.before = b.before.on, b.before.numbers
	}
	return l
}

// keep remembers what a look has found.
func (b *ruleBook) keep(l *look, off *RulesOffError) {
	b.mu.Lock()
	defer b.mu.Unlock()
	inForce := b.numbersOf(l.stays, l.known)
	maps.DeleteFunc(l.known, func(a account, n accountNumber) bool {
		_, used := inForce[a]
		return !used && !n.confirmed() // nothing goes on with it any more
	})
	b.known, b.on, b.off, b.looks = l.known, l.stays, off, l.n
	for a, err := range l.missing {
		if !errors.Is(err, errNotAsked) {
			b.asked[a] = l.n
		}
	}
}

// names lists everybody whom the configuration names, those first who were not asked for for longest.
func (b *ruleBook) names() []account {
	var all []account
	for _, r := range b.rules {
		all = append(all, accountsOf(r.Principals)...)
	}
	all = append(all, accountsOf(b.admins)...)
	b.mu.Lock()
	defer b.mu.Unlock()
	slices.SortStableFunc(all, func(x, y account) int { return cmp.Compare(b.asked[x], b.asked[y]) })
	return all
}

// notInForce returns what the last look did not find; nil if it found everybody.
func (b *ruleBook) notInForce() *RulesOffError {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.off
}

// look is one look at users and groups.
type look struct {
	n        int // of this look
	accounts Accounts
	now      func() time.Time
	before   map[account]accountNumber // of the first look: what the configuration before has in force
	on       map[unit]bool             // in force since the look before, be it of the configuration before
	stays    map[unit]bool             // in force since this one

	mu      sync.Mutex // guards what follows while somebody is asked for
	known   map[account]accountNumber
	missing map[account]error // for whom this look asked without an answer that it could use
}

// asksAtOnce is how many names are looked up at a time: some that a directory does not answer for must not keep the others waiting.
const asksAtOnce = 8

// errNotAsked is in the place of an answer where there was no time for the question.
var errNotAsked = errors.New("not asked for yet: other names took the time; they are asked for first the next time")

// unknown returns for whom a look asks first.
func (l *look) unknown(all []account) (ask []account) {
	for _, a := range all {
		if !l.known[a].confirmed() {
			ask = append(ask, a)
		}
	}
	return ask
}

// stale returns for whom to ask anew, because their number is from a look before, and something would come into force with it.
func (l *look) stale(units map[unit][]account) (ask []account) {
	for u, named := range units {
		if l.on[u] || slices.ContainsFunc(named, l.lacks) {
			continue
		}
		for _, a := range named {
			if l.known[a].look != l.n {
				ask = append(ask, a)
			}
		}
	}
	return ask
}

func (l *look) lacks(a account) bool {
	_, known := l.known[a]
	return !known || l.missing[a] != nil
}

// askForAll looks everybody up, each once.
func (l *look) askForAll(ctx context.Context, all []account) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	asked := map[account]bool{}
	var g errgroup.Group
	g.SetLimit(asksAtOnce)
	for _, a := range all {
		if !asked[a] {
			asked[a] = true
			g.Go(func() error { l.ask(ctx, a); return nil })
		}
	}
	_ = g.Wait() // each error is kept with its name
}

func (l *look) ask(ctx context.Context, a account) {
	var id uint32
	err := fmt.Errorf("%q: %w", a.name, errNotAsked)
	if ctx.Err() == nil {
		id, err = l.find(ctx, a)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.missing[a] = err
		l.goOn(a, err)
		return
	}
	l.known[a] = accountNumber{id: id, look: l.n}
}

// goOn keeps a number of the configuration before that could not be confirmed, for as long as it counts: a directory that is down at a
// reload must not put rules out of force.
func (l *look) goOn(a account, why error) {
	n, known := l.known[a]
	if !known {
		n, known = l.before[a]
	}
	if !known || n.confirmed() {
		return
	}
	now := l.now()
	if n = n.refused(why, now); n.over(now) {
		delete(l.known, a)
		return
	}
	l.known[a] = n
}

// all returns the numbers of those whom a rule or the like names, or an error about those who were not found.
func (l *look) all(of unit, p config.Principals) (uids, gids []uint32, err error) {
	var problems []error
	complete := true
	find := func(group bool, names []string) (ids []uint32) {
		for _, name := range names {
			a := account{group, name}
			id, found := l.one(of, a)
			if !found {
				complete = false
				problems = append(problems, l.missing[a]) // nil if it was not worth asking: somebody else is missing
			}
			ids = append(ids, id)
		}
		return ids
	}
	uids, gids = find(false, p.Users), find(true, p.Groups)
	if complete {
		l.stays[of] = true
		return uids, gids, nil
	}
	return nil, nil, cmp.Or(errors.Join(problems...), errNotAsked)
}

// findAdmins adds each administrator who was found, and returns an error about the others.
func (l *look) findAdmins(p *policy.Policy, admins config.Principals) error {
	var problems []error
	for _, one := range eachOf(admins) {
		uids, gids, err := l.all(adminUnit(one), one)
		problems = append(problems, err)
		p.AdminUIDs, p.AdminGIDs = append(p.AdminUIDs, uids...), append(p.AdminGIDs, gids...)
	}
	return errors.Join(problems...)
}

// one returns the number of somebody. Only what is in force already may go on with one that this look has not found itself.
func (l *look) one(of unit, a account) (id uint32, found bool) {
	n, known := l.known[a]
	if !known || n.look != l.n && !l.on[of] {
		return 0, false
	}
	return n.id, true
}

// find takes a number as it is and looks a name up.
func (l *look) find(ctx context.Context, a account) (uint32, error) {
	if id, err := strconv.ParseUint(a.name, 10, 32); err == nil {
		if id == 1<<32-1 { // (uid_t)-1 is nobody's
			return 0, fmt.Errorf("%q is not the number of a user or group", a.name)
		}
		return uint32(id), nil
	}
	if a.group {
		return l.accounts.Group(ctx, a.name)
	}
	return l.accounts.User(ctx, a.name)
}

// awaitAccounts looks again and again for users and groups who were not found or whose numbers are not confirmed, and puts the rules in
// force whose users and groups then are. Those of a configuration that is not in force any more are not looked for. It returns nil when ctx ends.
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

// awaitAccountsOf returns when all rules of a configuration are in force with numbers that are confirmed, or ctx ends.
func (d *Daemon) awaitAccountsOf(ctx context.Context, of *inForce) {
	wait := d.opts.WaitForAccounts
	if wait == nil {
		wait = waiting.Sleep
	}
	book := of.plan.rules
	for pause := firstPause; !book.settled(); pause = min(2*pause, lastPause) {
		if err := wait(ctx, book.untilNextLook(pause)); err != nil {
			return
		}
		before, numbers := book.notInForce(), book.numbersInForce()
		found := book.look(ctx)
		if err := d.setPolicy(of, found); err != nil {
			d.opts.Logger.Error("the rules stay as they were", "cause", err)
			continue
		}
		if ctx.Err() == nil {
			d.tellRules(before, book.notInForce())
			d.tellNumbers(numbers, book.numbersInForce())
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

// addStatus adds what is not in force, and what is with numbers that are not confirmed.
func (b *ruleBook) addStatus(status *wire.Status) {
	status.Unconfirmed = unconfirmed(b.numbersInForce())
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
