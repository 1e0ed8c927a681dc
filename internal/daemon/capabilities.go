package daemon

import (
	"context"
	"sync"
	"time"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/forms"
)

const (
	probeLife    = 5 * time.Minute // how long the answer of a probe is believed
	unknownLife  = 5 * time.Second // the same where something is left unknown
	probeTimeout = 3 * time.Second // a caller of the socket waits for it
)

// hostProbe remembers what the host's IMDS supports. It is safe for concurrent use.
type hostProbe struct {
	mu    sync.Mutex // held during a probe, whose answer all who wait for it take
	found imds.Support
	err   error
	until time.Time
}

// ask probes, unless the last answer is recent. A probe goes on when its caller is gone: else a
// caller that asks and leaves would cause one each time.
func (p *hostProbe) ask(ctx context.Context, client *imds.Client, now func() time.Time) (imds.Support, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now().Before(p.until) {
		return p.found, p.err
	}
	probing, cancel := context.WithTimeout(context.WithoutCancel(ctx), probeTimeout)
	defer cancel()
	p.found, p.err = client.Probe(probing)
	life := probeLife
	if p.err != nil {
		life = unknownLife
	}
	p.until = now().Add(life)
	return p.found, p.err
}

// tpmProbe remembers whether the TPM answers. It is safe for concurrent use.
type tpmProbe struct {
	mu     sync.Mutex // held during a probe, whose answer all who wait for it take
	silent bool
	until  time.Time
}

// ask asks the TPM, unless it was asked within seconds: any caller of the socket may cause it.
func (p *tpmProbe) ask(ctx context.Context, now func() time.Time, answers func(context.Context) error) (silent bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now().Before(p.until) {
		return p.silent
	}
	probing, cancel := context.WithTimeout(context.WithoutCancel(ctx), probeTimeout)
	defer cancel()
	p.silent = answers(probing) != nil
	p.until = now().Add(unknownLife)
	return p.silent
}

// tpmSilent says whether there is a TPM and it does not answer.
func (d *Daemon) tpmSilent(ctx context.Context) bool {
	if d.engine.Key.TPM == nil {
		return false
	}
	return d.silence.ask(ctx, d.opts.Now, d.engine.Key.TPM.Answers)
}

// Capabilities says how well credentials can be bound here. A form of which a token was obtained
// since the start works, for as long as the TPM answers; for the others, IMDS is asked which
// protocols it has. Any caller may read the answer, so it names no identity and repeats no error.
func (d *Daemon) Capabilities(ctx context.Context) wire.Capabilities {
	host, err := d.host.ask(ctx, d.engine.IMDS, d.opts.Now)
	known := d.survey(host, err)
	known.Silent = d.tpmSilent(ctx)
	c := wire.Capabilities{
		ManagedIdentityV2: known.V2(),
		ManagedIdentityV1: known.V1(),
		Certificate:       known.Certificate(),
		Forms:             known.Forms(),
		Attestation:       wire.AttestationStatus{Provider: d.inForce.Load().plan.Provider},
		TokenTypes:        []string{wire.TypeBearer, wire.TypePoP},
		CallerIdentity:    d.callerIdentity(),
		Evidence:          d.evidenceCapability(),
	}
	c.StrongestBinding, c.Reason = strongest(c, known.Silent)
	return c
}

// strongest sums up.
func strongest(c wire.Capabilities, silent bool) (strength, reason string) {
	for _, way := range []struct {
		name string
		wire.Capability
	}{{"managed identities", c.ManagedIdentityV2}, {"certificates of applications", c.Certificate}} {
		if way.Available == nil || *way.Available {
			return way.Strength, way.name + ": " + way.Reason
		}
	}
	reason = "nothing can be bound on this host"
	if silent {
		reason = "nothing can be bound on this host while the TPM does not answer"
	}
	return string(acquire.StrengthNone), reason
}

// survey collects what the running agent knows.
func (d *Daemon) survey(host imds.Support, err error) *forms.Survey {
	s := &forms.Survey{
		Keys: d.engine.Key.TPM != nil, Key: acquire.Strength(d.engine.Key.Info().Strength), Attests: d.inForce.Load().plan.Provider != config.ProviderNone,
		Host: host, WhyHost: forms.WhyUnknown(err), Untried: "since the start, no token was obtained so, nor refused for good",
	}
	s.Observe(d.engine.Acquirer.Status())
	return s
}
