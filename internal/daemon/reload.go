package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/rulebook"
)

// inForce is a configuration that is in force, with the plan made from it. It is immutable.
type inForce struct {
	origin config.Origin
	plan   *plan
	since  time.Time

	life context.Context // ends when another configuration is in force: what only this one needs ends with it
	end  context.CancelFunc
}

func newInForce(ctx context.Context, origin config.Origin, plan *plan, since time.Time) *inForce {
	life, end := context.WithCancel(context.WithoutCancel(ctx)) // it outlives the start or the reload that made it
	return &inForce{origin, plan, since, life, end}
}

// ReadConfig reads the configuration that is to be in force.
type ReadConfig func(ctx context.Context) (*config.Config, config.Origin, error)

// Reload puts the configuration that read returns in the place of the one in force, or leaves that
// one in force as it is and returns why. Cause names the signal or command that made it reload, for
// log, audit and status. It blocks while files are read and users are looked up; requests are
// answered meanwhile. It is safe for concurrent use, and reloads one after the other.
//
// A request is answered wholly by the configuration that was in force when it came. Tokens,
// certificates and connections of unchanged settings stay, and so do the callers' counts towards
// their bounds and the pauses that Entra and IMDS have asked for. Where a certificate authority or
// a host is not trusted any more, no token and no connection stays.
func (d *Daemon) Reload(ctx context.Context, cause string, read ReadConfig) error {
	if err := d.reload.Lock(ctx); err != nil {
		return err
	}
	defer d.reload.Unlock()
	defer d.reloading(ctx)()
	d.reloads.begin()
	changes, err := d.tryReload(ctx, read)
	d.reloads.note(wire.ReloadStatus{At: d.opts.Now(), Cause: cause, Error: text(err)})
	now := d.inForce.Load()
	if err != nil {
		d.opts.Logger.Error("the configuration was not reloaded; the one before stays in force", "cause", cause, "in_force_since", now.since, "error", err)
		d.server.Note("configuration refused", slog.String("cause", cause), slog.String("error", err.Error()))
		return err
	}
	attrs := []slog.Attr{
		slog.String("cause", cause), slog.String("file", now.origin.File), slog.String("sha256", now.origin.SHA256),
		slog.Int("identities", len(now.plan.Identities)), slog.Int("rules", len(now.plan.policy.Rules)),
		slog.String("tokens_dropped_of", strings.Join(changes.dropped, ", ")), slog.Bool("trust_or_proxy_changed", changes.trust),
		slog.Bool("trust_withdrawn", changes.withdrawn), slog.String("log_level", now.plan.level.String()),
	}
	d.useLevel(now.plan.level, func() { d.opts.Logger.LogAttrs(ctx, slog.LevelInfo, "configuration reloaded", attrs...) })
	d.server.Note("configuration reloaded", attrs...)
	d.tellRules(changes.rulesOff, now.plan.rules.NotInForce())
	d.tellNumbers(nil, now.plan.rules.Numbers())
	d.tellCautions(now.plan.rules)
	return nil
}

// useLevel puts a level of the log in force, and has tell say so while the lower one of both is.
func (d *Daemon) useLevel(next slog.Level, tell func()) {
	level := d.opts.LogLevel
	level.Set(min(level.Level(), next))
	tell()
	level.Set(next)
}

// changes is what a reload has changed, for the log.
type changes struct {
	dropped   []string // identities whose tokens were dropped
	trust     bool     // trusted hosts, certificate authorities, proxy or attestation changed
	withdrawn bool     // a host or a certificate authority is not trusted any more
	rulesOff  *rulebook.OffError
}

func (d *Daemon) tryReload(ctx context.Context, read ReadConfig) (changes, error) {
	cfg, origin, err := read(ctx)
	if err != nil {
		return changes{}, err
	}
	if err := checkUnchanged(d.cfg, cfg); err != nil {
		return changes{}, err
	}
	before := d.inForce.Load()
	next, err := resolve(ctx, cfg, d.opts.Accounts, d.opts.Now, before.plan.rules)
	if err != nil {
		return changes{}, err
	}
	if err := next.rules.CheckCallers(d.machine); err != nil {
		return changes{}, err
	}
	if err := next.ReadProxyCredential(cfg.Proxy); err != nil {
		return changes{}, err
	}
	prepare := d.engine.Acquirer.Prepare
	if before.plan.Withdraws(next.Plan) {
		prepare = d.engine.Acquirer.PrepareAnew
	}
	roster, err := prepare(next.Identities)
	if err != nil {
		return changes{}, err
	}
	rules := agentapi.Rules{Policy: next.policy, Identities: next.callables, Tokens: roster,
		Pairs: agentapi.Pairs{Source: roster, RootCAs: next.RootCAs()}, Evidence: d.evidence(next)}
	if err := rules.Check(); err != nil {
		return changes{}, err
	}
	if err := ctx.Err(); err != nil {
		return changes{}, err // the look-up may be incomplete
	}
	return d.swap(newInForce(ctx, origin, next, d.opts.Now()), roster, rules)
}

// swap puts a configuration in force in which no fault was found. Trust comes first: no token for
// an identity of the new configuration is requested over connections that only the old one trusts.
func (d *Daemon) swap(next *inForce, roster *acquire.Roster, rules agentapi.Rules) (changes, error) {
	d.swapping.Lock()
	defer d.swapping.Unlock()
	before := d.inForce.Load()
	made := changes{rulesOff: before.plan.rules.NotInForce(), withdrawn: before.plan.Withdraws(next.plan.Plan)}
	if made.trust = d.engine.UseTrust(before.plan.Plan, next.plan.Plan); made.trust {
		d.trustSince.Store(&next.since)
	}
	if err := d.server.SetRules(rules); err != nil {
		return made, fmt.Errorf("a fault in the agent: rules were refused that had been found good: %w", err) // not reached
	}
	made.dropped = d.engine.UseIdentities(roster, next.plan.Plan)
	d.inForce.Store(next)
	before.end()
	return made, nil
}

// fixed is a setting that stays as it is while the agent runs.
type fixed struct {
	name, why string
	of        func(*config.Config) any
}

// fixedSettings are all settings but those that a reload changes; a test compares the two lists
// with the file format.
func fixedSettings() []fixed {
	return []fixed{
		{"tpm", "the TPM is open, and the keys are loaded in it", func(c *config.Config) any { return c.TPM }},
		{"tpm_owner_credential", "it belongs to the TPM that is open", func(c *config.Config) any { return c.TPMOwnerCredential }},
		{"state_dir", "the binding key and its certificates are from there", func(c *config.Config) any { return c.StateDir }},
		{"socket", "programs are connected to it", func(c *config.Config) any { return c.Socket }},
		{"imds_endpoint", "the facts about this VM were learnt there", func(c *config.Config) any { return c.IMDSEndpoint }},
		{"binding_key", "the binding key is loaded, and was tested as it is configured", func(c *config.Config) any { return c.BindingKey }},
		{"audit", "whether records can be written was found out at the start", func(c *config.Config) any { return c.Audit }},
		{"activated", "the agent has its sockets, or has opened its own", func(c *config.Config) any { return c.Activated }},
		{"endpoints", "the agent listens there", func(c *config.Config) any { return c.Endpoints }},
	}
}

// reloadedSettings are those that a reload puts in force.
func reloadedSettings() []string {
	return []string{"ca_file", "trusted_hosts", "proxy", "attestation", "identities", "rules", "caller_identity", "admins", "log_level"}
}

// checkUnchanged refuses a configuration that would need a restart.
func checkUnchanged(now, next *config.Config) error {
	var problems []error
	for _, setting := range fixedSettings() {
		had, wanted := setting.of(now), setting.of(next)
		if reflect.DeepEqual(had, wanted) {
			continue
		}
		values := ""
		if text, isText := had.(string); isText {
			values = fmt.Sprintf(" from %q to %q", text, wanted)
		}
		problems = append(problems, fmt.Errorf("%s cannot change%s while the agent runs (%s): restart the agent, or take this change back", setting.name, values, setting.why))
	}
	return errors.Join(problems...)
}

// reloads counts. It is safe for concurrent use.
type reloads struct {
	mu            sync.Mutex
	done, refused uint64
	underWay      bool
	last          *wire.ReloadStatus
}

func (r *reloads) begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.underWay = true
}

// lastRefused reports whether the last reload left the configuration before in force.
func (r *reloads) lastRefused() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last != nil && r.last.Error != ""
}

func (r *reloads) note(last wire.ReloadStatus) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last, r.underWay = &last, false
	if last.Error != "" {
		r.refused++
		return
	}
	r.done++
}

// configurationStatus says which configuration is in force, and what became of reloads.
func (d *Daemon) configurationStatus() wire.ConfigurationStatus {
	now := d.inForce.Load()
	r := &d.reloads
	r.mu.Lock()
	defer r.mu.Unlock()
	return wire.ConfigurationStatus{
		File: now.origin.File, SHA256: now.origin.SHA256, Since: now.since,
		Reloads: r.done, Refused: r.refused, Reloading: r.underWay, LastReload: r.last,
	}
}

// trustChangedSince reports whether a reload has changed trust, proxy or attestation after a time.
func (d *Daemon) trustChangedSince(at time.Time) bool {
	changed := d.trustSince.Load()
	return changed != nil && at.Before(*changed)
}

// text is the text of an error; "" for none.
func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
