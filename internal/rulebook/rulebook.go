package rulebook

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/accounts"
)

// lookTimeout bounds each of the two rounds of questions of one look. At the start of the agent
// there is one round: a directory that does not answer must not keep the agent from starting.
const lookTimeout = 20 * time.Second

// Accounts finds users and groups of this machine by name. It must be safe for concurrent use.
type Accounts interface {
	User(ctx context.Context, name string) (uid uint32, err error)
	Group(ctx context.Context, name string) (gid uint32, err error)
}

// Off is a rule that is not in force. Err has an error for each of its users and groups that were
// not found.
type Off struct {
	Name string
	Err  error
}

// OffError says which rules are not in force because of users or groups that were not found. The
// agent runs without these rules, and puts each in force when all its users and groups are found.
// It stands for no other problem.
type OffError struct {
	Rules  []Off
	Admins error // of administrators who are left out; nil: all were found
}

func (e *OffError) Error() string {
	var problems []error
	for _, off := range e.Rules {
		problems = append(problems, fmt.Errorf("rule %q: %w", off.Name, off.Err))
	}
	if e.Admins != nil {
		problems = append(problems, fmt.Errorf("admins: %w", e.Admins))
	}
	return errors.Join(problems...).Error()
}

// Book makes the policy of the configured rules from the users and groups that are known. A rule is
// in force as a whole or not at all, so that no operator has to guess which part of it is; an
// administrator who is not known is left out alone. A user or group that a rule in force names
// keeps its number as long as the book is used. Other known numbers only save look-ups: a rule
// comes into force with the numbers that one look has found for all its users and groups.
type Book struct {
	rules     []config.Rule
	admins    config.Principals
	audiences []string // that only a rule gives that names them
	strict    bool     // caller_identity
	overTCP   bool     // programs come over TCP, too
	accounts  Accounts
	now       func() time.Time
	before    held // by the configuration before

	mu    sync.Mutex // guards what follows; not held during look-ups
	known map[account]accountNumber
	on    map[unit]bool // in force since the last look; replaced, not changed
	looks int
	asked map[account]int // the look in which a name was asked for last; the name that waited longest comes first
	off   *OffError       // nil: all rules are in force, and all administrators known
}

// New returns the book of a configuration's rules. What the book before it, nil if there is none,
// has in force stays in force while its users and groups cannot be looked up. Finder nil means the
// users and groups of this machine, now nil means time.Now.
func New(cfg *config.Config, finder Accounts, now func() time.Time, before *Book) *Book {
	if finder == nil {
		finder = accounts.Finder{}
	}
	if now == nil {
		now = time.Now
	}
	b := &Book{
		rules: cfg.Rules, admins: cfg.Admins, audiences: cfg.AssertionAudiences(), accounts: finder, now: now,
		strict: cfg.CallerIdentity == config.CallerIdentityStrict, overTCP: cfg.Endpoints.OverTCP(),
		known: map[account]accountNumber{}, asked: map[account]int{},
	}
	if before != nil {
		b.before = before.held()
	}
	return b
}

// Check finds the faults of the rules that have nothing to do with users and groups.
func (b *Book) Check() error {
	p := &policy.Policy{Audiences: b.audiences}
	for _, r := range b.rules {
		var uids []uint32
		if len(accountsOf(r.Principals)) > 0 {
			uids = []uint32{0} // this policy decides nothing
		}
		p.Rules = append(p.Rules, policyRule(r, uids, nil))
	}
	return p.Validate()
}

func policyRule(r config.Rule, uids, gids []uint32) policy.Rule {
	return policy.Rule{
		Name: r.Name, UIDs: uids, GIDs: gids, Units: r.Units, Executables: r.Executables,
		Identities: r.Identities, Resources: r.Resources, TokenTypes: r.Types, Fresh: r.Fresh, Hosts: r.Hosts, Sign: r.Sign, SignHostsOnly: r.SignHostsOnly,
		Evidence: r.Evidence,
	}
}

// Look looks up the users and groups that are not known yet, and those by which a rule would come
// into force, and returns the policy of the rules that are then in force. It blocks for at most 40
// seconds, the first time for 20. One call at a time.
func (b *Book) Look(ctx context.Context) *policy.Policy {
	l := b.newLook()
	l.askForAll(ctx, l.unknown(b.names()))
	l.askForAll(ctx, l.stale(b.units())) // none at the first look, which asks for all names anyway
	p, off := &policy.Policy{Audiences: b.audiences, Strict: b.strict}, &OffError{}
	for _, r := range b.rules {
		uids, gids, err := l.all(unit{rule: r.Name}, r.Principals)
		if err != nil {
			off.Rules = append(off.Rules, Off{r.Name, err})
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

func (b *Book) newLook() *look {
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
func (b *Book) keep(l *look, off *OffError) {
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

// names lists the users and groups that the configuration names, the one that was not asked for for
// longest first.
func (b *Book) names() []account {
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

// NotInForce returns the rules that are off since the last look; nil if it found all users and
// groups.
func (b *Book) NotInForce() *OffError {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.off
}
