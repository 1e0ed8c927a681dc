package acquire

import (
	"cmp"
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/keyagent/keyagent/acquire/imds"
)

// newChain builds the steps of an identity.
func (b *builder) newChain(id Identity) (*chain, error) {
	c := &chain{cfg: b.cfg, name: id.Name, floor: id.MinStrength}
	b.chain = c
	if m := id.ManagedIdentity; m != nil {
		err := c.add(credentialManagedIdentity, SourceManagedIdentity, m.Bound,
			func(bound bool) (credential, error) { return b.managedIdentity(m.Selector, bound), nil })
		return c, err
	}
	app := b.application(id.Application)
	for _, entry := range id.Application.Credentials {
		err := c.add(entry.Name, entry.Source, entry.Bound, func(bound bool) (credential, error) { return b.credential(app, entry, bound) })
		if err != nil {
			return nil, fmt.Errorf("identity %q: credential %q: %w", id.Name, entry.Name, err)
		}
	}
	return c, nil
}

// add appends the forms of an entry.
func (c *chain) add(entry string, source Source, bound Bound, form func(bound bool) (credential, error)) error {
	if bound != BoundNever {
		made, err := form(true)
		if err != nil {
			return err
		}
		c.steps = append(c.steps, &step{entry: entry, source: source, bound: true, credential: made})
	}
	if bound != BoundRequire {
		made, err := form(false)
		if err != nil {
			return err
		}
		c.steps = append(c.steps, &step{entry: entry, source: source, second: bound == BoundPrefer, credential: made})
	}
	return nil
}

// builder makes the chains of a roster. Identities that are the same in the roster before are taken
// over.
type builder struct {
	cfg     *Config
	regions *regions
	before  *Roster
	roster  *Roster
	wanted  map[string]Identity
	next    func() uint64 // returns a meaning that no identity has had
	chain   *chain        // being built
}

// state returns the identity of a name, after it has made those it depends on. References were
// checked before.
func (b *builder) state(name string) (*identityState, error) {
	if made := b.roster.byName[name]; made != nil {
		return made, nil
	}
	id := b.wanted[name]
	var dependsOn []*identityState
	for _, other := range id.dependsOn() {
		state, err := b.state(other)
		if err != nil {
			return nil, err
		}
		dependsOn = append(dependsOn, state)
	}
	had := b.before.byName[name]
	if had == nil || !slices.Equal(had.dependsOn, dependsOn) || !reflect.DeepEqual(had.Identity, id) {
		made, err := b.newChain(id)
		if err != nil {
			return nil, err
		}
		had = &identityState{Identity: id, meaning: b.next(), chain: made, dependsOn: dependsOn}
	}
	for _, m := range had.chain.bound {
		b.roster.bound[m.sel] = m
	}
	b.roster.byName[name] = had
	return had, nil
}

// credential makes one form of an entry. An unknown source is refused, so that it is never taken
// for another one.
func (b *builder) credential(app *application, entry Credential, bound bool) (credential, error) {
	switch entry.Source {
	case SourceCertificate:
		return b.certificate(app, entry, bound), nil
	case SourceManagedIdentity:
		source := b.managedIdentity(entry.Selector, bound)
		from := &granted{cfg: b.cfg, audience: audience(app, entry), bound: bound, obtain: source.obtain}
		from.presents, _ = source.(presenter)
		return newFederated(app, from, bound), nil
	case SourceOIDC:
		other := b.roster.byName[entry.Identity].chain
		return newFederated(app, &granted{cfg: b.cfg, audience: audience(app, entry), bound: bound, obtain: other.token, presents: other}, bound), nil
	case SourceAssertionFile:
		return &assertionFile{app: app, path: entry.Path}, nil
	}
	return nil, errNoSuchSource(entry.Source)
}

// token is obtain without the step: a token by whichever of the credentials works first.
func (c *chain) token(ctx context.Context, a *ask) (*grant, error) {
	g, _, err := c.obtain(ctx, a)
	return g, err
}

// audience is the audience of an entry's assertions.
func audience(app *application, entry Credential) string {
	if entry.Audience != "" {
		return entry.Audience
	}
	return app.authority.Cloud.ExchangeAudience
}

func (b *builder) certificate(app *application, entry Credential, bound bool) credential {
	key := &registered{app: app, name: entry.Key}
	b.chain.holders = append(b.chain.holders, &key.holder)
	if bound {
		return &shownCertificate{registered: key, send: entry.SendAssertion}
	}
	return &assertedCertificate{registered: key}
}

func (b *builder) managedIdentity(sel imds.Selector, bound bool) credential {
	if !bound {
		return &unboundIdentity{cfg: b.cfg, sel: sel}
	}
	m := cmp.Or(b.roster.bound[sel], b.before.bound[sel])
	if m == nil {
		m = &boundIdentity{cfg: b.cfg, sel: sel}
	}
	b.roster.bound[sel] = m
	b.chain.bound = append(b.chain.bound, m)
	return m
}

func (b *builder) application(app *Application) *application {
	return &application{
		cfg: b.cfg, id: app.ClientID,
		endpoints: &endpoints{cfg: b.cfg, authority: app.Authority, region: app.Region, regions: b.regions},
	}
}

// checkReferences refuses identities that depend on one that does not exist, or on themselves.
func checkReferences(identities []Identity) error {
	dependencies := map[string][]string{}
	for _, id := range identities {
		dependencies[id.Name] = id.dependsOn()
	}
	for name := range dependencies {
		if err := follow(dependencies, name, nil); err != nil {
			return err
		}
	}
	return nil
}

func follow(dependencies map[string][]string, name string, path []string) error {
	for _, seen := range path {
		if seen == name {
			return fmt.Errorf("identity %q is a credential of itself: %s", name, strings.Join(append(path, name), " → "))
		}
	}
	next, exists := dependencies[name]
	if !exists {
		return fmt.Errorf("identity %q is a credential of %q and is not configured", name, path[len(path)-1])
	}
	for _, other := range next {
		if err := follow(dependencies, other, append(path, name)); err != nil {
			return err
		}
	}
	return nil
}
