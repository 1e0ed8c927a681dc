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

// lookTimeout bounds one look at all users and groups together: a directory that does not answer
// must not keep the agent from starting.
const lookTimeout = 20 * time.Second

// Accounts finds users and groups of this machine by name. It must be safe for concurrent use.
type Accounts interface {
	User(ctx context.Context, name string) (uid uint32, err error)
	Group(ctx context.Context, name string) (gid uint32, err error)
}

// Off is a rule that is not in force. Err has an error for each of its users and groups who were
// not found.
type Off struct {
	Name string
	Err  error
}

// OffError says which rules are not in force because of users or groups who were not found. The
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
// administrator who is not known is left out alone. A user or group that was found keeps its number
// as long as the book is used.
type Book struct {
	rules     []config.Rule
	admins    config.Principals
	audiences []string // that only a rule gives that names them
	accounts  Accounts
	earlier   map[account]uint32 // as the rules before these knew them

	mu    sync.Mutex // guards what follows; not held during look-ups
	known map[account]uint32
	looks int
	asked map[account]int // the look in which a name was asked for last; the name that waited longest comes first
	off   *OffError       // nil: all rules are in force, and all administrators known
}

// account is a user or a group, by the name that the configuration has for it.
type account struct {
	group bool
	name  string
}

// New returns the book of a configuration's rules. What the book before it, nil if there is none,
// knows of users and groups counts where they cannot be looked up now.
func New(cfg *config.Config, finder Accounts, before *Book) *Book {
	if finder == nil {
		finder = accounts.Finder{}
	}
	b := &Book{rules: cfg.Rules, admins: cfg.Admins, audiences: cfg.AssertionAudiences(), accounts: finder, known: map[account]uint32{}, asked: map[account]int{}}
	if before != nil {
		b.earlier = before.knownNow()
	}
	return b
}

// Check finds what is wrong with the rules apart from their users and groups.
func (b *Book) Check() error {
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

// Look looks up the users and groups that are not known yet, and returns the policy of the rules
// that are then in force. It blocks for at most 20 seconds. One call at a time.
func (b *Book) Look(ctx context.Context) *policy.Policy {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	l := &look{ctx: ctx, accounts: b.accounts, earlier: b.earlier, known: b.knownNow(), missing: map[account]error{}}
	l.askForAll(b.names())
	p, off := &policy.Policy{Audiences: b.audiences}, &OffError{}
	for _, r := range b.rules {
		uids, gids, err := l.all(r.Principals)
		if err != nil {
			off.Rules = append(off.Rules, Off{r.Name, err})
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

// names lists the users and groups that the configuration names, the one that was not asked for for
// longest first.
func (b *Book) names() []account {
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

func (b *Book) knownNow() map[account]uint32 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.known)
}

// NotInForce returns the rules that are off since the last look; nil if it found all users and
// groups.
func (b *Book) NotInForce() *OffError {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.off
}
