package acquire

import (
	"fmt"
	"iter"

	"github.com/keyagent/keyagent/acquire/imds"
)

// Roster is the identities of one configuration, each with its ways to a token. It is immutable and safe for concurrent use.
//
// Whoever decides by rules on what an identity gives decides about its meaning, so rules and the roster that they are about are one
// value to them: a name may mean something else in the next roster.
type Roster struct {
	acquirer *Acquirer
	order    []*identityState // as configured
	byName   map[string]*identityState
	bound    map[imds.Selector]*boundIdentity // of all identities
}

// Prepare makes a roster of identities, which [Acquirer.Use] puts in force. It changes nothing, and does no I/O.
//
// An identity that means what it does in the roster in force, and leans only on such, is the same one: its tokens, connections and
// pauses stay. Every other one begins with nothing but the pauses that its client at Entra was asked for. To be called by one
// goroutine at a time, [Acquirer.Use] included.
func (a *Acquirer) Prepare(identities []Identity) (*Roster, error) {
	r := &Roster{acquirer: a, byName: map[string]*identityState{}, bound: map[imds.Selector]*boundIdentity{}}
	wanted := map[string]Identity{}
	for _, id := range identities {
		if _, twice := wanted[id.Name]; twice {
			return nil, fmt.Errorf("identity %q is configured twice", id.Name)
		}
		if err := id.check(); err != nil {
			return nil, err
		}
		if a.cfg.Keys == nil && id.needsKeys() {
			return nil, fmt.Errorf("identity %q has a certificate, and this agent keeps no keys of applications", id.Name)
		}
		wanted[id.Name] = id
	}
	if err := checkReferences(identities); err != nil {
		return nil, err
	}
	b := &builder{
		cfg: &a.cfg, regions: a.regions, before: a.roster.Load(), roster: r, wanted: wanted,
		next: func() uint64 { return a.meanings.Add(1) },
	}
	for _, id := range identities {
		state, err := b.state(id.Name)
		if err != nil {
			return nil, err
		}
		r.order = append(r.order, state)
	}
	return r, nil
}

// Use puts a roster in force. From then on no token is begun for an identity that is not in it: who asks the roster before for one is
// told to come again. What is under way for such an identity lands, for those who wait, and is not kept. It returns the names of
// these identities.
func (a *Acquirer) Use(r *Roster) (retired []string) {
	before := a.roster.Load()
	a.mu.Lock()
	for _, id := range before.order {
		if id.retired = r.byName[id.Name] != id; id.retired {
			retired = append(retired, id.Name)
		}
	}
	a.roster.Store(r)
	a.mu.Unlock()
	a.cache.drop(func(key cacheKey) bool {
		id := r.byName[key.identity]
		return id == nil || id.meaning != key.meaning
	})
	kept := map[*holder]bool{}
	for h := range r.holders() {
		kept[h] = true
	}
	for h := range before.holders() {
		if !kept[h] {
			h.close()
		}
	}
	return retired
}

// holders are those of all certificates that identities present.
func (r *Roster) holders() iter.Seq[*holder] {
	return func(yield func(*holder) bool) {
		for _, m := range r.bound {
			if !yield(&m.holder) {
				return
			}
		}
		for _, id := range r.order {
			for _, h := range id.chain.holders {
				if !yield(h) {
					return
				}
			}
		}
	}
}
