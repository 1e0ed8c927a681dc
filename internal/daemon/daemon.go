package daemon

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/acquire/binding"
	"github.com/keyagent/keyagent/acquire/entra"
	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/collect"
	"github.com/keyagent/keyagent/attest/maa"
	"github.com/keyagent/keyagent/attest/token"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/statefile"
	"github.com/keyagent/keyagent/internal/waiting"
	"github.com/keyagent/keyagent/tlsbridge"
	"github.com/keyagent/keyagent/tpm"
)

// socketMode lets everybody connect: the kernel says who is calling, and the
// rules decide.
const socketMode = 0o666

// Options are what the caller of the daemon gives it besides the configuration.
type Options struct {
	Version string
	Logger  *slog.Logger     // nil means no log
	Audit   *slog.Logger     // required: one record per answer
	Now     func() time.Time // nil means time.Now

	// Sleep waits between the attempts of one request, Wait until the next look at what is to be renewed, and WaitForAccounts until
	// the next look for users and groups who were not found; nil means a timer.
	Sleep, Wait, WaitForAccounts func(ctx context.Context, d time.Duration) error

	// Accounts finds the users and groups that rules name; nil means those of this machine.
	Accounts Accounts

	// Waits keeps what is waited for, so that others see it; nil: only log and status of this agent or command have it.
	Waits *waiting.Board

	// Origin is where the configuration was read, for the status.
	Origin config.Origin

	// LookOnly keeps a [Keyring] from making a state directory: made by another user than the agent's, it would keep the
	// agent out.
	LookOnly bool
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Waits == nil {
		o.Waits = waiting.New(waiting.Config{Logger: o.Logger, Now: o.Now})
	}
	return o
}

// Daemon is the running agent.
type Daemon struct {
	cfg     *config.Config // of the start: what no reload changes
	opts    Options
	started time.Time

	inForce  atomic.Pointer[inForce]
	swapping sync.Mutex    // of inForce and what follows from it
	reload   chan struct{} // one element: the lock of Reload, which honours a context
	reloads  reloads

	tpm        *tpm.TPM // nil with a software key
	identity   tpm.Identity
	key        bindingKey
	tpmKey     *tpm.Key // nil with a software key
	generation int      // of the key; 0 with a software key
	imds       *imds.Client
	bindings   *binding.Manager
	attested   attestation
	host       hostProbe
	acquirer   *acquire.Acquirer
	server     *agentapi.Server
	closers    []func() error // in the order of opening
}

// Open starts everything but the socket. It blocks while the TPM makes a key,
// which can take seconds. Close the daemon whether or not it was run.
func Open(ctx context.Context, cfg *config.Config, opts Options) (*Daemon, error) {
	opts = opts.withDefaults()
	d := &Daemon{cfg: cfg, opts: opts, started: opts.Now(), reload: make(chan struct{}, 1)}
	if err := d.open(ctx); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func (d *Daemon) open(ctx context.Context) error {
	if err := peer.CheckUIDMap(); err != nil {
		return err
	}
	plan, err := resolve(ctx, d.cfg, d.opts, nil)
	if err != nil {
		return err
	}
	if err := plan.addProxyCredential(d.cfg.Proxy); err != nil {
		return err
	}
	if err := statefile.EnsureDir(d.cfg.StateDir); err != nil {
		return err
	}
	unlock, err := statefile.Lock(d.cfg.StateDir)
	if err != nil {
		return err
	}
	d.closers = append(d.closers, unlock)
	if err := d.openKey(ctx); err != nil {
		return err
	}
	if err := d.openAcquirer(plan, d.cfg.StateDir); err != nil {
		return err
	}
	d.server, err = agentapi.New(agentapi.Config{
		Tokens:       d.acquirer,
		Status:       d.Status,
		Capabilities: d.Capabilities,
		Identities:   plan.callables,
		Policy:       plan.policy,
		Audit:        d.opts.Audit,
		Logger:       d.opts.Logger,
		Now:          d.opts.Now,

		AuditRequired: d.cfg.Audit.Required,
	})
	d.inForce.Store(newInForce(ctx, d.opts.Origin, plan, d.started))
	return err
}

// openAcquirer builds what gets tokens with the key. Binding certificates are kept in certDir.
func (d *Daemon) openAcquirer(plan *plan, certDir string) error {
	var err error
	d.imds, err = imds.New(imds.Config{
		Endpoint:         d.cfg.IMDSEndpoint,
		MTLSHosts:        plan.mtlsHosts,
		AttestationHosts: plan.attestHosts,
		DisableV2:        imds.DisabledByEnvironment(os.Getenv(envDisableV2)),
		Version:          d.opts.Version,
		Now:              d.opts.Now,
		Sleep:            d.opts.Sleep,
		Waiting:          d.opts.Waits.Begin,
	})
	if err != nil {
		return err
	}
	d.closers = append(d.closers, func() error { d.imds.Close(); return nil })
	d.attested.use(d.attestor(plan))
	d.bindings = binding.New(binding.Config{
		IMDS:      d.imds,
		Key:       d.key,
		KeyName:   d.key.Info().Name,
		Attestor:  &d.attested,
		StateDir:  certDir,
		MTLSHosts: plan.mtlsHosts,
		Now:       d.opts.Now,
		Wait:      d.opts.Wait,
		Logger:    d.opts.Logger,
	})
	d.bindings.Want(plan.presented())
	keys, err := d.applicationKeys(plan)
	if err != nil {
		return err
	}
	d.acquirer, err = acquire.New(acquire.Config{
		Identities: plan.identities,
		Bindings:   d.bindings,
		Key: acquire.BindingKey{
			Signer:           d.key.WithContext,
			SignatureSchemes: d.key.SignatureSchemes(),
			Strength:         acquire.Strength(d.key.Info().Strength),
		},
		IMDS:    d.imds,
		Keys:    keys,
		Regions: d.imds,
		Entra:   entra.New(entra.Config{Version: d.opts.Version, Now: d.opts.Now, Sleep: d.opts.Sleep, Waiting: d.opts.Waits.Begin}),
		TLS:     d.towardsEntra(plan),
		Now:     d.opts.Now,
		Wait:    d.opts.Wait,
		Logger:  d.opts.Logger,
	})
	if err != nil {
		return err
	}
	d.closers = append(d.closers, d.acquirer.Close)
	return nil
}

// envDisableV2 is the operator's switch against binding certificates, as Microsoft's own clients know it.
const envDisableV2 = "MSAL_MI_DISABLE_IMDS_V2"

// towardsEntra is how servers outside of the VM are reached and believed.
func (d *Daemon) towardsEntra(plan *plan) tlsbridge.Config {
	return tlsbridge.Config{RootCAs: plan.rootCAs, Now: d.opts.Now, Proxy: plan.proxy.choose}
}

// applicationKeys gives access to the key store, where an identity needs it or may after a reload.
func (d *Daemon) applicationKeys(plan *plan) (acquire.KeySource, error) {
	if d.tpm == nil && !needsKeys(plan.identities) {
		return nil, nil
	}
	store, err := openStore(d.cfg, d.opts)
	if err != nil {
		return nil, err
	}
	keys := newApplicationKeys(d.tpm, store, d.opts)
	d.closers = append(d.closers, keys.Close)
	return keys, nil
}

// attestor returns the configured source of attestation tokens.
func (d *Daemon) attestor(plan *plan) binding.Attestor {
	if plan.provider == config.ProviderNone {
		return token.None{}
	}
	client := maa.New(maa.Config{
		Hosts:  plan.attestHosts,
		HTTP:   tlsbridge.NewClient(d.towardsEntra(plan)),
		OS:     runningOS(),
		Now:    d.opts.Now,
		Sleep:  d.opts.Sleep,
		Logger: d.opts.Logger,

		Waiting: d.opts.Waits.Begin,
	})
	collector := collect.New(collect.Config{
		TPM:          d.tpm,
		Key:          d.tpmKey,
		IMDSEndpoint: d.cfg.IMDSEndpoint,
		HTTP:         imds.NewHTTPClient(),
		Anchors:      plan.anchors,
		Policy:       d.evidencePolicy(plan),
		Now:          d.opts.Now,
		Logger:       d.opts.Logger,
	})
	return token.NewAzureGuest(token.Config{Collector: collector, MAA: client, Now: d.opts.Now, Logger: d.opts.Logger})
}

// evidencePolicy is what this agent accepts of itself. A policy that the key was made with only narrows its use.
func (d *Daemon) evidencePolicy(plan *plan) attest.Policy {
	p := plan.evidence
	if own := d.tpmKey.Public().AuthPolicy.Buffer; len(own) > 0 {
		p.Key.AuthPolicies = append(slices.Clone(p.Key.AuthPolicies), own)
	}
	return p
}

// Run listens on the socket, answers and renews certificates until ctx ends. Then requests under way
// finish, and it returns nil.
func (d *Daemon) Run(ctx context.Context) error {
	listener, err := agentapi.Listen(d.cfg.Socket, socketMode)
	if err != nil {
		return err
	}
	plan := d.inForce.Load().plan
	d.opts.Logger.Info("keyagent is ready", "version", d.opts.Version, "socket", d.cfg.Socket,
		"identities", len(plan.identities), "rules", len(plan.policy.Rules))
	d.tellRules(nil, plan.rules.notInForce())
	defer d.opts.Logger.Info("keyagent has ended: no request is under way any more")
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		<-ctx.Done()
		d.opts.Logger.Info("keyagent ends: requests under way are finished first", "cause", context.Cause(ctx))
		return nil
	})
	g.Go(func() error { return d.bindings.Run(ctx) })
	g.Go(func() error { return d.acquirer.Run(ctx) })
	g.Go(func() error { return d.server.Serve(ctx, listener) })
	g.Go(func() error { return d.awaitAccounts(ctx) })
	g.Go(func() error { return d.watchExpiry(ctx) })
	return g.Wait()
}

// Close closes what [Open] opened, in reverse. It may be called more than once.
func (d *Daemon) Close() error {
	var problems []error
	for len(d.closers) > 0 {
		last := len(d.closers) - 1
		problems = append(problems, d.closers[last]())
		d.closers = d.closers[:last]
	}
	return errors.Join(problems...)
}
