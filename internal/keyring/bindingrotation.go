package keyring

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/acquire/entra"
	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/advice"
	"github.com/keyagent/keyagent/internal/engine"
	"github.com/keyagent/keyagent/internal/statedir"
	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/signer/keystore"
	"github.com/keyagent/keyagent/tpm"
)

// probeResource is the resource that a token is requested for where the rules name none. Every
// tenant has it.
const probeResource = "https://management.azure.com"

// RotateBindingKey makes a new binding key beside the current one, obtains with it a certificate
// and a token for each managed identity that the configuration binds to it, and switches only if
// all of that worked. It can be run beside the agent, which goes on with the old key until it is
// started again, and again after a failure or a power cut: it goes on with the key that it has
// begun.
//
// The tokens are dropped. The certificates are kept for the new start, so that it issues none.
func RotateBindingKey(ctx context.Context, cfg *config.Config, opts engine.Options) (keystore.Entry, error) {
	if len(cfg.Identities) == 0 { // no file was read: whatever the key is, all zero identities get their tokens with it
		return keystore.Entry{}, advice.To(requestf("key %q is rotated as the configuration says, which was not found", statedir.BindingKeyName), "name it with %s", advice.Configuration)
	}
	if cfg.BindingKey.InsecureSoftware {
		return keystore.Entry{}, errors.New("the configured binding key is in software: remove its file to get another")
	}
	opts = opts.WithDefaults()
	plan, err := engine.Resolve(cfg)
	if err != nil {
		return keystore.Entry{}, err
	}
	if err := plan.ReadProxyCredential(cfg.Proxy); err != nil {
		return keystore.Entry{}, err
	}
	r := &rotation{proofs: proofs(plan.Identities, cfg.Rules), log: opts.Logger}
	plan.Identities = nil
	for _, p := range r.proofs {
		plan.Identities = append(plan.Identities, p.identity)
	}
	return r.run(ctx, cfg, plan, opts)
}

// rotation is an engine whose key is the next one, and what it has to prove.
type rotation struct {
	*engine.Engine
	proofs []proof
	log    *slog.Logger
}

// proof is a token that is to be obtained with the next key.
type proof struct {
	identity  acquire.Identity
	resource  string
	tokenType acquire.TokenType
}

// proofs lists the tokens to obtain: one for each managed identity that is bound to the key,
// directly or as a credential of an application. A token that is obtained without the key would
// prove nothing, so each is required to be bound; nor would one that a weaker key than the identity
// demands obtains, so each has the identity's floor.
func proofs(identities []acquire.Identity, rules []config.Rule) []proof {
	var list []proof
	add := func(name string, floor acquire.Strength, sel imds.Selector, resource string, tokenType acquire.TokenType) {
		bound := &acquire.ManagedIdentity{Selector: sel, Bound: acquire.BoundRequire}
		list = append(list, proof{acquire.Identity{Name: name, MinStrength: floor, ManagedIdentity: bound}, resource, tokenType})
	}
	for _, id := range identities {
		if m := id.ManagedIdentity; m != nil && m.Bound != acquire.BoundNever {
			add(id.Name, id.MinStrength, m.Selector, resourceOf(rules, id.Name), acquire.TypeBearer)
		}
		if id.Application == nil {
			continue
		}
		for _, c := range id.Application.Credentials {
			if sel, ok := boundBelow(c, identities); ok {
				audience := cmp.Or(c.Audience, id.Application.Authority.Cloud.ExchangeAudience)
				add(id.Name+": "+c.Name, id.MinStrength, sel, audience, acquire.TypePoP)
			}
		}
	}
	return list
}

// boundBelow returns the managed identity whose bound token a credential of an application
// exchanges: its own, or that of another identity.
func boundBelow(c acquire.Credential, identities []acquire.Identity) (imds.Selector, bool) {
	if c.Bound == acquire.BoundNever {
		return imds.Selector{}, false
	}
	if c.Source == acquire.SourceManagedIdentity {
		return c.Selector, true
	}
	for _, id := range identities {
		if m := id.ManagedIdentity; c.Source == acquire.SourceOIDC && id.Name == c.Identity && m != nil && m.Bound != acquire.BoundNever {
			return m.Selector, true
		}
	}
	return imds.Selector{}, false
}

func (r *rotation) run(ctx context.Context, cfg *config.Config, plan *engine.Plan, opts engine.Options) (_ keystore.Entry, err error) {
	t, store, err := statedir.OpenKeys(ctx, cfg, opts.Dir())
	if err != nil {
		return keystore.Entry{}, err
	}
	next, key, err := beginBinding(ctx, cfg, t, store)
	if err != nil {
		return keystore.Entry{}, errors.Join(err, t.Close())
	}
	// The first start with the key takes them over; the agent that runs meanwhile goes on writing
	// those of the old key.
	certificates, err := store.Stage(next)
	if err != nil {
		return keystore.Entry{}, errors.Join(err, key.Close(), t.Close())
	}
	r.Engine, err = engine.New(cfg, plan, engine.KeyIn(t, key, next), certificates, opts)
	if err != nil {
		return keystore.Entry{}, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	err = store.FinishRotation(ctx, next, key, func(ctx context.Context, _ *signer.Key, _ []*x509.Certificate) error {
		return r.proveAll(ctx)
	})
	if err != nil {
		return keystore.Entry{}, err
	}
	return store.Current(statedir.BindingKeyName)
}

// beginBinding makes the next binding key, or opens the one that was begun.
func beginBinding(ctx context.Context, cfg *config.Config, t *tpm.TPM, store *keystore.Store) (keystore.Entry, *signer.Key, error) {
	options, err := engine.BindingKeyOptions(cfg)
	if err != nil {
		return keystore.Entry{}, nil, err
	}
	next, err := store.BeginRotation(ctx, t, statedir.BindingKeyName, options)
	if err != nil {
		return keystore.Entry{}, nil, err
	}
	key, err := store.Open(ctx, next, signer.Config{TPM: t, Options: options.KeyOptions})
	if err != nil {
		return keystore.Entry{}, nil, err
	}
	if err := engine.CheckAsConfigured(key.TPMKey(), options); err != nil {
		err = advice.To(fmt.Errorf("the next binding key was begun under another configuration: %w", err),
			"%s removes it", advice.Run(advice.RotateKey, statedir.BindingKeyName, advice.Cancel))
		return keystore.Entry{}, nil, errors.Join(err, key.Close())
	}
	return next, key, nil
}

// proveAll obtains each token with the next key.
func (r *rotation) proveAll(ctx context.Context) error {
	for _, p := range r.proofs {
		_, err := r.Acquirer.Token(ctx, acquire.Request{Identity: p.identity.Name, Resource: p.resource, Type: p.tokenType})
		if err != nil && !r.refusedResource(p, err) {
			return err
		}
		r.log.Info("next binding key works", "identity", p.identity.Name, "resource", p.resource)
	}
	return nil
}

// refusedResource reports whether err proves as much as a token would: Entra looks at the resource
// after it has accepted the credential. IMDS uses the same code without having seen a credential.
func (r *rotation) refusedResource(p proof, err error) bool {
	e, ok := errors.AsType[*acquire.Error](err)
	if _, byEntra := errors.AsType[*entra.Error](err); !ok || !byEntra || e.Kind != acquire.KindInvalidResource {
		return false
	}
	return slices.ContainsFunc(r.Acquirer.Status(), func(id acquire.IdentityStatus) bool {
		return id.Name == p.identity.Name && id.Certificate != nil && id.Handshake.Count > 0
	})
}

// resourceOf returns a resource that some rule allows for the identity.
func resourceOf(rules []config.Rule, identity string) string {
	for _, rule := range rules {
		if !slices.Contains(rule.Identities, identity) {
			continue
		}
		for _, resource := range rule.Resources {
			if resource != config.AnyResource {
				return resource
			}
		}
	}
	return probeResource
}
