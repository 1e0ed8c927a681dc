package daemon

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/acquire/binding"
	"github.com/keyagent/keyagent/acquire/entra"
	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/signer/keystore"
)

// probeResource is asked for where the rules name no resource. Every tenant has it.
const probeResource = "https://management.azure.com"

// RotateBindingKey makes a new binding key beside the current one, obtains with it a certificate and a token for each managed
// identity that the configuration binds to it, and switches only if all of that worked. It can be run beside the agent, which goes on with the old key until it is
// started again, and again after a failure or a power cut: it goes on with the key that it has begun.
//
// The tokens are dropped. The certificates are kept for the new start, so that it issues none.
func RotateBindingKey(ctx context.Context, cfg *config.Config, opts Options) (keystore.Entry, error) {
	if len(cfg.Identities) == 0 { // no file was read: whatever the key is, all zero identities get their tokens with it
		return keystore.Entry{}, hint(usagef("key %q is rotated as the configuration says, which was not found", BindingKeyName), "name it with --config FILE")
	}
	if cfg.BindingKey.InsecureSoftware {
		return keystore.Entry{}, errors.New("the configured binding key is in software: remove its file to get another")
	}
	r := &rotation{Daemon: &Daemon{cfg: cfg, opts: opts.withDefaults()}}
	next, err := r.run(ctx)
	return next, errors.Join(err, r.Close())
}

// rotation is a daemon without a socket, whose key is the next one.
type rotation struct {
	*Daemon
	proofs []proof
}

// proof is a token that is to be obtained with the next key.
type proof struct {
	identity  acquire.Identity
	resource  string
	tokenType acquire.TokenType
}

// proofs lists what binds a managed identity to the key, directly or as a credential of an application. A form that takes no part
// of the key would prove nothing, so that each is required to be bound; and a token that a weaker key than the identity demands
// obtains would, too.
func (p *plan) proofs() []proof {
	var list []proof
	add := func(name string, floor acquire.Strength, sel imds.Selector, resource string, tokenType acquire.TokenType) {
		bound := &acquire.ManagedIdentity{Selector: sel, Bound: acquire.BoundRequire}
		list = append(list, proof{acquire.Identity{Name: name, MinStrength: floor, ManagedIdentity: bound}, resource, tokenType})
	}
	for _, id := range p.identities {
		if m := id.ManagedIdentity; m != nil && m.Bound != acquire.BoundNever {
			add(id.Name, id.MinStrength, m.Selector, p.resourceOf(id.Name), acquire.TypeBearer)
		}
		if id.Application == nil {
			continue
		}
		for _, c := range id.Application.Credentials {
			if sel, ok := p.boundBelow(c); ok {
				audience := cmp.Or(c.Audience, id.Application.Authority.Cloud.ExchangeAudience)
				add(id.Name+": "+c.Name, id.MinStrength, sel, audience, acquire.TypePoP)
			}
		}
	}
	return list
}

// boundBelow returns the managed identity whose bound token a credential of an application exchanges: its own, or that of another
// identity.
func (p *plan) boundBelow(c acquire.Credential) (imds.Selector, bool) {
	if c.Bound == acquire.BoundNever {
		return imds.Selector{}, false
	}
	if c.Source == acquire.SourceManagedIdentity {
		return c.Selector, true
	}
	for _, id := range p.identities {
		if m := id.ManagedIdentity; c.Source == acquire.SourceOIDC && id.Name == c.Identity && m != nil && m.Bound != acquire.BoundNever {
			return m.Selector, true
		}
	}
	return imds.Selector{}, false
}

func (r *rotation) run(ctx context.Context) (keystore.Entry, error) {
	plan, err := resolve(ctx, r.cfg, r.opts, nil)
	if err != nil {
		return keystore.Entry{}, err
	}
	if err := plan.addProxyCredential(r.cfg.Proxy); err != nil {
		return keystore.Entry{}, err
	}
	r.proofs = plan.proofs()
	plan.identities = nil
	for _, p := range r.proofs {
		plan.identities = append(plan.identities, p.identity)
	}
	t, store, err := OpenKeys(ctx, r.cfg, r.opts)
	if err != nil {
		return keystore.Entry{}, err
	}
	r.tpm = t
	r.closers = append(r.closers, t.Close)
	options, err := BindingKeyOptions(r.cfg)
	if err != nil {
		return keystore.Entry{}, err
	}
	next, err := store.BeginRotation(ctx, t, BindingKeyName, options)
	if err != nil {
		return keystore.Entry{}, err
	}
	key, err := store.Open(ctx, next, signer.Config{TPM: t, Options: options.KeyOptions})
	if err != nil {
		return keystore.Entry{}, err
	}
	r.key, r.tpmKey = key, key.TPMKey()
	r.closers = append(r.closers, key.Close)
	if err := checkAsConfigured(r.tpmKey, options); err != nil {
		return keystore.Entry{}, fmt.Errorf("the next binding key was begun under another configuration: %w: keyagent key rotate %s --cancel removes it", err, BindingKeyName)
	}
	// The first start with the key takes them over; the agent that runs meanwhile goes on writing those of the old key.
	certificates, err := store.Stage(next)
	if err != nil {
		return keystore.Entry{}, err
	}
	if err := r.openAcquirer(plan, certificates); err != nil {
		return keystore.Entry{}, err
	}
	err = store.FinishRotation(ctx, next, key, func(ctx context.Context, _ *signer.Key, _ []*x509.Certificate) error {
		return r.proveAll(ctx)
	})
	if err != nil {
		return keystore.Entry{}, err
	}
	return store.Current(BindingKeyName)
}

// proveAll obtains each token with the next key.
func (r *rotation) proveAll(ctx context.Context) error {
	for _, p := range r.proofs {
		_, err := r.acquirer.Token(ctx, acquire.Request{Identity: p.identity.Name, Resource: p.resource, Type: p.tokenType})
		if err != nil && !r.refusedResource(p, err) {
			return err
		}
		r.opts.Logger.Info("next binding key works", "identity", p.identity.Name, "resource", p.resource)
	}
	return nil
}

// refusedResource reports whether err proves as much as a token would: Entra looks at the resource after it has accepted the
// credential. IMDS knows the word, too, and has seen no credential.
func (r *rotation) refusedResource(p proof, err error) bool {
	e, ok := errors.AsType[*acquire.Error](err)
	if _, byEntra := errors.AsType[*entra.Error](err); !ok || !byEntra || e.Kind != acquire.KindInvalidResource {
		return false
	}
	return slices.ContainsFunc(r.acquirer.Status(), func(id acquire.IdentityStatus) bool {
		return id.Name == p.identity.Name && id.Certificate != nil && id.Handshake.Count > 0
	})
}

// resourceOf returns a resource that some rule allows for the identity.
func (p *plan) resourceOf(identity string) string {
	for _, rule := range p.policy.Rules {
		if !slices.Contains(rule.Identities, identity) {
			continue
		}
		for _, resource := range rule.Resources {
			if resource != policy.AnyResource {
				return resource
			}
		}
	}
	return probeResource
}

// takeCertificates moves certificates that a rotation obtained for the key to where they are looked for. One that is not moved costs
// an issuance.
func (d *Daemon) takeCertificates(ctx context.Context, store *keystore.Store, e keystore.Entry, keyName string) {
	err := store.TakeStaged(ctx, e, d.cfg.StateDir, func(path string) (bool, error) { return binding.Supersedes(path, keyName) })
	if err != nil {
		d.opts.Logger.Warn("certificates of the new binding key were not all taken over; new ones will be obtained, and the next start tries again", "cause", err)
	}
}
