package acquire

import (
	"fmt"
	"iter"

	"github.com/keyagent/keyagent/acquire/imds"
)

// Roster is the identities of one configuration, each with its list of credentials. It is immutable
// and safe for concurrent use.
//
// Authorization rules are about the identities of one configuration: after a reload, a name may
// stand for another identity. Code that applies rules therefore asks the roster that belongs to
// them, and not the acquirer.
type Roster struct {
	acquirer *Acquirer
	order    []*identityState // as configured
	byName   map[string]*identityState
	bound    map[imds.Selector]*boundIdentity // of all identities
}

// Prepare makes a roster of identities, which [Acquirer.Use] puts in force. It changes nothing, and
// does no I/O.
//
// An identity that is configured as in the roster in force, and depends only on such identities, is
// taken over with its tokens, connections and pauses. Every other one starts with nothing but the
// pauses that Entra asked its client for. Prepare and [Acquirer.Use] must be called by one
// goroutine at a time.
func (a *Acquirer) Prepare(identities []Identity) (*Roster, error) {
	return a.prepare(identities, a.roster.Load())
}

// PrepareAnew is [Acquirer.Prepare] where nothing that was obtained before may be used any more, as
// when a host that it may have come from is not trusted any more: no identity is taken over. The
// pauses that Entra asked its client for stay.
func (a *Acquirer) PrepareAnew(identities []Identity) (*Roster, error) {
	return a.prepare(identities, &Roster{acquirer: a})
}

// prepare makes a roster that takes over identities of the one before.
func (a *Acquirer) prepare(identities []Identity, before *Roster) (*Roster, error) {
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
		cfg: &a.cfg, regions: a.regions, before: before, roster: r, wanted: wanted,
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

// Use puts a roster in force. From then on no flight starts for an identity that is not in it:
// callers that still use the roster before get KindUnavailable. The result of a flight under way
// for such an identity goes to its callers and is not kept. Use returns the names of these
// identities.
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

// holders are the connections of all certificates that identities present.
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
