package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/advice"
	"github.com/keyagent/keyagent/internal/engine"
	"github.com/keyagent/keyagent/internal/metrics"
	"github.com/keyagent/keyagent/internal/rulebook"
	"github.com/keyagent/keyagent/internal/statedir"
	"github.com/keyagent/keyagent/internal/statefile"
	"github.com/keyagent/keyagent/internal/waiting"
	"github.com/keyagent/keyagent/systemd"
)

// socketMode lets every local user connect: the kernel identifies the caller, and the rules decide.
const socketMode = 0o666

// Options are what the caller of the daemon gives it besides the configuration.
type Options struct {
	Version string
	Logger  *slog.Logger // nil means no log
	Audit   *slog.Logger // required: one record per answer
	// LogLevel is that of Logger, which a reload changes; nil: none does.
	LogLevel *slog.LevelVar
	Now      func() time.Time // nil means time.Now

	// Sleep waits between the attempts of one request, Wait until the next look for certificates to
	// be renewed, and WaitForAccounts until the next look for users and groups that were not found;
	// nil means a timer.
	Sleep, Wait, WaitForAccounts func(ctx context.Context, d time.Duration) error

	// Accounts finds the users and groups that rules name; nil means those of this machine.
	Accounts rulebook.Accounts

	// Cgroups is the directory of the tree of cgroups, version 2; "" means peer.CgroupRoot.
	Cgroups string

	// Waits lists the operations that are being waited for, so that other parts of the process can
	// show them; nil: only log and status of this agent have them.
	Waits *waiting.Board

	// Words are the program's, for log and answers; nil: commands are named by what they do.
	Words advice.Words

	// SDKTimeout is how long programs that speak a protocol of Azure's SDKs wait for a token before
	// they are told to come back; 0: 8 s.
	SDKTimeout time.Duration

	// Sockets are those that systemd has passed to the program; nil: none. The daemon takes and
	// closes them.
	Sockets *systemd.Sockets

	// Activated says that systemd passes all sockets: the agent opens none itself. An endpoint that
	// is configured and whose socket is not passed is off; without the agent's own socket it does
	// not start.
	Activated bool

	// Manager is the service manager, which is told what the agent does; nil: there is none.
	Manager *systemd.Notifier
	// WaitForManager waits between two messages to the manager, or until the context ends; nil: a
	// timer.
	WaitForManager func(ctx context.Context, d time.Duration) error

	// Origin is where the configuration was read, for the status.
	Origin config.Origin

	metrics *metrics.Metrics // of this agent
}

func (o Options) withDefaults() Options {
	all := o.engine().WithDefaults()
	o.Logger, o.Now, o.Waits = all.Logger, all.Now, all.Waits
	if o.LogLevel == nil {
		o.LogLevel = new(slog.LevelVar)
	}
	o.metrics = metrics.New(o.Version)
	return o
}

// engine are the options of the engine.
func (o Options) engine() engine.Options {
	opts := engine.Options{Version: o.Version, Logger: o.Logger, Now: o.Now, Sleep: o.Sleep, Wait: o.Wait, Waits: o.Waits, Words: o.Words}
	if o.metrics != nil {
		opts.Observer = o.metrics
	}
	return opts
}

// dir are the options of the state directory.
func (o Options) dir() statedir.Options { return o.engine().Dir() }

// Daemon is the running agent.
type Daemon struct {
	cfg     *config.Config // of the start: what no reload changes
	opts    Options
	started time.Time

	inForce  atomic.Pointer[inForce]
	swapping sync.Mutex   // of inForce and what follows from it
	reload   waiting.Lock // of Reload
	reloads  reloads

	trustSince atomic.Pointer[time.Time] // the last reload that changed trust, proxy or attestation; nil: none did

	engine  *engine.Engine
	machine machine
	host    hostProbe
	silence tpmProbe
	server  *agentapi.Server
	ways    []agentapi.Way // on loopback
	taken   taken
	ready   atomic.Bool    // the service manager was told so
	missing []string       // configured endpoints that are off: no socket was passed
	closers []func() error // in the order of opening

	openSocket func() (net.Listener, error) // the Unix socket, when the daemon runs
	openAdmin  func() (net.Listener, error) // the administrators' socket; nil: none
}

// Open starts everything but the socket. It blocks while the TPM makes a key,
// which can take seconds. Close the daemon whether or not it was run.
func Open(ctx context.Context, cfg *config.Config, opts Options) (*Daemon, error) {
	opts = opts.withDefaults()
	d := &Daemon{cfg: cfg, opts: opts, started: opts.Now(), reload: waiting.NewLock(), closers: []func() error{opts.Sockets.Close}}
	defer d.starting(ctx)()
	if err := d.open(ctx); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func (d *Daemon) open(ctx context.Context) error {
	if err := peer.CheckUIDMap(); err != nil {
		return err
	}
	d.machine = machineAt(d.opts.Cgroups)
	d.tellLimits(ctx)
	plan, err := resolve(ctx, d.cfg, d.opts.Accounts, d.opts.Now, nil)
	if err != nil {
		return asConfigError(err)
	}
	d.opts.LogLevel.Set(plan.level)
	if err := plan.rules.CheckCallers(d.machine); err != nil {
		return asConfigError(err)
	}
	if err := plan.ReadProxyCredential(d.cfg.Proxy); err != nil {
		return asConfigError(err)
	}
	if err := d.openTakeover(ctx); err != nil {
		return err
	}
	if err := d.claim(ctx); err != nil {
		return err
	}
	programs, err := d.openEndpoints(ctx)
	if err != nil {
		return err
	}
	if err := d.openMetricsPort(ctx); err != nil {
		return err
	}
	if !d.cfg.BindingKey.InsecureSoftware {
		if _, err := engine.BindingKeyOptions(d.cfg); err != nil {
			return asConfigError(err)
		}
	}
	key, err := engine.OpenKey(ctx, d.cfg, d.opts.engine())
	if err != nil {
		return err
	}
	if d.engine, err = engine.New(d.cfg, plan.Plan, key, statefile.In(d.cfg.StateDir), d.opts.engine()); err != nil {
		return err
	}
	d.closers = append(d.closers, d.engine.Close)
	d.watch()
	d.server, err = agentapi.New(agentapi.Config{
		Tokens:       d.engine.Acquirer,
		Pairs:        agentapi.Pairs{Source: d.engine.Acquirer, RootCAs: plan.RootCAs()},
		Evidence:     d.evidence(plan),
		Status:       d.Status,
		Capabilities: d.Capabilities,
		Waits:        d.waits,
		Programs:     programs,
		SDKTimeout:   d.opts.SDKTimeout,
		Identities:   plan.callables,
		Policy:       plan.policy,
		Machine:      d.machine,
		Audit:        d.opts.Audit,
		Logger:       d.opts.Logger,
		Now:          d.opts.Now,

		AuditRequired: d.cfg.Audit.Required,
		Metrics:       d.opts.metrics,
		AuditPlace:    agentapi.AuditPlace{To: d.cfg.Audit.To, File: d.cfg.Audit.Path()},
	})
	d.inForce.Store(newInForce(ctx, d.opts.Origin, plan, d.started))
	return err
}

// claim takes what only one agent may have, before anything is made: the socket first, since the
// state directory may be one that is made here.
func (d *Daemon) claim(ctx context.Context) error {
	if err := statedir.CheckServer(d.cfg.StateDir); err != nil {
		return err
	}
	if held := statefile.Holder(d.cfg.StateDir); held != nil {
		return held // it names the other agent, which a taken socket does not
	}
	if err := d.claimSocket(); err != nil {
		return err
	}
	if err := d.claimAdmin(ctx); err != nil {
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
	return nil
}

// Run listens on the socket, answers and renews certificates until ctx ends. Then requests under
// way finish, and it returns nil.
func (d *Daemon) Run(ctx context.Context) error {
	listener, err := d.openSocket()
	if err != nil {
		return err
	}
	ways := append([]agentapi.Way{agentapi.Socket(listener)}, d.ways...)
	admin, err := d.admin()
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	taken, err := d.takeover(ctx)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	ways = slices.Concat(ways, admin, taken)
	unused, err := d.unused()
	if err != nil {
		return err
	}
	plan := d.inForce.Load().plan
	d.opts.Logger.Info("keyagent is ready", "version", d.opts.Version, "socket", listener.Addr().String(), "endpoints", len(d.ways),
		"identities", len(plan.Identities), "rules", len(plan.policy.Rules))
	d.tellRules(nil, plan.rules.NotInForce())
	d.tellCautions(plan.rules)
	defer d.opts.Logger.Info("keyagent has ended: no request is under way any more")
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		<-ctx.Done()
		d.opts.Logger.Info("keyagent ends: requests under way are finished first", "cause", context.Cause(ctx))
		d.tellManager(ctx, d.opts.Manager.Stopping("ending: requests under way are finished first"))
		return nil
	})
	g.Go(func() error { return d.engine.Run(ctx) })
	g.Go(func() error { return d.server.Serve(ctx, ways...) })
	g.Go(func() error { return d.awaitAccounts(ctx) })
	g.Go(func() error { return d.watchExpiry(ctx) })
	g.Go(func() error { return d.attend(ctx) })
	g.Go(func() error {
		giveMemoryBack(ctx, d.opts.metrics.Activity, waiting.Sleep, shrink)
		return nil
	})
	for _, ln := range unused {
		g.Go(func() error { return d.disconnect(ctx, ln) })
	}
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
