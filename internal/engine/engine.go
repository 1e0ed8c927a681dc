package engine

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"reflect"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/acquire/binding"
	"github.com/keyagent/keyagent/acquire/entra"
	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/attest/maa"
	"github.com/keyagent/keyagent/attest/token"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/advice"
	"github.com/keyagent/keyagent/internal/statedir"
	"github.com/keyagent/keyagent/internal/waiting"
	"github.com/keyagent/keyagent/tlsbridge"
	"github.com/keyagent/keyagent/tpm"
)

// Options are what the caller gives besides the configuration.
type Options struct {
	Version string
	Logger  *slog.Logger     // nil means no log
	Now     func() time.Time // nil means time.Now

	// Sleep waits between the attempts of one request, Wait until the next look for certificates to
	// be renewed; nil means a timer.
	Sleep, Wait func(ctx context.Context, d time.Duration) error

	// Waits lists the operations that are being waited for, so that other parts of the process can
	// show them; nil: only the log has them.
	Waits *waiting.Board

	// Observer is told of tokens and certificates obtained and of the TPM's use; nil: none.
	Observer Observer

	// Words are the program's, for log and answers; nil: commands are named by what they do.
	Words advice.Words
}

// Observer is told, for statistics, of what the engine does. It must not block, and be safe for
// concurrent use.
type Observer interface {
	acquire.Observer
	tpm.Observer
}

// WithDefaults returns the options with defaults for those left out.
func (o Options) WithDefaults() Options {
	dir := o.Dir().WithDefaults()
	o.Logger, o.Now, o.Waits = dir.Logger, dir.Now, dir.Waits
	return o
}

// Dir are the options of the state directory.
func (o Options) Dir() statedir.Options {
	opts := statedir.Options{Logger: o.Logger, Now: o.Now, Waits: o.Waits, Words: o.Words}
	if o.Observer != nil {
		opts.TPM = o.Observer
	}
	return opts
}

// Engine is the binding key and what obtains tokens with it. All its methods but Close are safe for
// concurrent use.
type Engine struct {
	Key      *Key
	IMDS     *imds.Client
	Acquirer *acquire.Acquirer

	cfg      *config.Config
	opts     Options
	bindings *binding.Manager
	attested attestation
	evidence evidence
	appKeys  *applicationKeys // nil: no identity can have one
	closers  []func() error   // in the order of opening
}

// New builds what obtains tokens with a key. Binding certificates are kept in the files
// certificates. The engine owns the key: Close closes it, and so does New if it fails.
func New(cfg *config.Config, plan *Plan, key *Key, certificates binding.Files, opts Options) (*Engine, error) {
	e := &Engine{Key: key, cfg: cfg, opts: opts.WithDefaults(), closers: []func() error{key.Close}}
	e.evidence.turn = waiting.NewLock()
	if err := e.open(plan, certificates); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

func (e *Engine) open(plan *Plan, certificates binding.Files) error {
	var err error
	e.IMDS, err = imds.New(imds.Config{
		Endpoint:         e.cfg.IMDSEndpoint,
		MTLSHosts:        plan.mtlsHosts,
		AttestationHosts: plan.attestHosts,
		DisableV2:        imds.DisabledByEnvironment(os.Getenv(envDisableV2)),
		Version:          e.opts.Version,
		Now:              e.opts.Now,
		Sleep:            e.opts.Sleep,
		Waiting:          e.opts.Waits.Begin,
	})
	if err != nil {
		return err
	}
	e.closers = append(e.closers, func() error { e.IMDS.Close(); return nil })
	e.useAttestation(plan)
	e.bindings = binding.New(binding.Config{
		IMDS:      e.IMDS,
		Key:       e.Key,
		KeyName:   e.Key.Info().Name,
		Attestor:  &e.attested,
		Files:     certificates,
		MTLSHosts: plan.mtlsHosts,
		Now:       e.opts.Now,
		Wait:      e.opts.Wait,
		Logger:    e.opts.Logger,
	})
	e.bindings.Want(plan.presented())
	return e.openAcquirer(plan)
}

func (e *Engine) openAcquirer(plan *Plan) error {
	keys, err := e.applicationKeys(plan)
	if err != nil {
		return err
	}
	var observer acquire.Observer
	if e.opts.Observer != nil {
		observer = e.opts.Observer
	}
	e.Acquirer, err = acquire.New(acquire.Config{
		Observer:   observer,
		Identities: plan.Identities,
		Bindings:   e.bindings,
		Key: acquire.BindingKey{
			Signer:           e.Key.WithContext,
			SignatureSchemes: e.Key.ProvenSchemes(),
			Strength:         acquire.Strength(e.Key.Info().Strength),
		},
		IMDS:    e.IMDS,
		Keys:    keys,
		Regions: e.IMDS,
		Entra:   entra.New(entra.Config{Version: e.opts.Version, Now: e.opts.Now, Sleep: e.opts.Sleep, Waiting: e.opts.Waits.Begin}),
		TLS:     e.towardsEntra(plan),
		Now:     e.opts.Now,
		Wait:    e.opts.Wait,
		Logger:  e.opts.Logger,
	})
	if err != nil {
		return err
	}
	e.closers = append(e.closers, e.Acquirer.Close)
	return nil
}

// Run renews certificates and tokens until ctx ends. Then it returns nil.
func (e *Engine) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return e.bindings.Run(ctx) })
	g.Go(func() error { return e.Acquirer.Run(ctx) })
	return g.Wait()
}

// Close closes what [New] built and the key, in reverse. It may be called more than once.
func (e *Engine) Close() error {
	var problems []error
	for len(e.closers) > 0 {
		last := len(e.closers) - 1
		problems = append(problems, e.closers[last]())
		e.closers = e.closers[:last]
	}
	return errors.Join(problems...)
}

// UseIdentities puts prepared identities in force, and returns those whose tokens were dropped.
func (e *Engine) UseIdentities(roster *acquire.Roster, plan *Plan) (dropped []string) {
	dropped = e.Acquirer.Use(roster)
	e.bindings.Want(plan.presented())
	return dropped
}

// UnloadUnusedKeys makes room in the TPM after a reload that took applications away. Call it at
// intervals that are longer than any request for a token.
func (e *Engine) UnloadUnusedKeys(ctx context.Context, plan *Plan) {
	if e.appKeys == nil {
		return
	}
	used := map[string]bool{}
	for _, id := range plan.Identities {
		for _, c := range CertificateCredentials(id) {
			used[c.Key] = true
		}
	}
	e.appKeys.unloadUnused(ctx, func(name string) bool { return used[name] })
}

// UseTrust puts the trusted hosts, certificate authorities, proxy and attestation of next in force,
// as far as they differ from those of before.
func (e *Engine) UseTrust(before, next *Plan) (changed bool) {
	if !reflect.DeepEqual(before.mtlsHosts, next.mtlsHosts) || !reflect.DeepEqual(before.attestHosts, next.attestHosts) {
		e.IMDS.SetHosts(next.mtlsHosts, next.attestHosts)
		e.bindings.SetMTLSHosts(next.mtlsHosts)
		changed = true
	}
	if !before.sameAttestation(next) {
		e.useAttestation(next)
		changed = true
	}
	if !before.sameWayOut(next) {
		e.Acquirer.SetTLS(e.towardsEntra(next))
		changed = true
	}
	if changed {
		e.Acquirer.Reconsider() // a server that is trusted now may give what was refused
	}
	return changed
}

// envDisableV2 is the environment variable by which an operator switches binding certificates off,
// for Microsoft's clients too.
const envDisableV2 = "MSAL_MI_DISABLE_IMDS_V2"

// towardsEntra is how connections to servers outside of the VM are made, and which servers are
// trusted.
func (e *Engine) towardsEntra(plan *Plan) tlsbridge.Config {
	return tlsbridge.Config{RootCAs: plan.rootCAs, Now: e.opts.Now, Proxy: plan.proxy.choose}
}

// applicationKeys gives access to the key store, if an identity needs it, or may need it after a
// reload.
func (e *Engine) applicationKeys(plan *Plan) (acquire.KeySource, error) {
	if e.Key.TPM == nil && !needsKeys(plan.Identities) {
		return nil, nil
	}
	store, err := statedir.OpenStore(e.cfg, e.opts.Dir())
	if err != nil {
		return nil, err
	}
	e.appKeys = newApplicationKeys(e.Key.TPM, store, e.opts)
	e.closers = append(e.closers, e.appKeys.Close)
	return e.appKeys, nil
}

// useAttestation has evidence and attestation tokens made as a plan says.
func (e *Engine) useAttestation(plan *Plan) {
	e.evidence.use(plan, newCollector(e.Key.TPM, e.Key.OnTPM, e.cfg, plan, e.opts))
	e.attested.use(e.attestor(plan))
}

// attestor returns the configured source of attestation tokens.
func (e *Engine) attestor(plan *Plan) binding.Attestor {
	switch plan.Provider {
	case config.ProviderNone:
		return token.None{}
	case config.ProviderExec:
		return token.NewProgram(token.ProgramConfig{
			Collector: e.evidence.collector(), Evidence: plan.evidenceFor(EvidenceRequest{EventLog: true}), Command: plan.command,
			Now: e.opts.Now, Logger: e.opts.Logger,
		})
	}
	client := maa.New(maa.Config{
		Hosts:  plan.attestHosts,
		HTTP:   tlsbridge.NewClient(e.towardsEntra(plan)),
		OS:     runningOS(),
		Now:    e.opts.Now,
		Sleep:  e.opts.Sleep,
		Logger: e.opts.Logger,

		Waiting: e.opts.Waits.Begin,
	})
	return token.NewAzureGuest(token.Config{Collector: e.evidence.collector(), MAA: client, Now: e.opts.Now, Logger: e.opts.Logger})
}
