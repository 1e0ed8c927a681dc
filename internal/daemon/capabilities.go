package daemon

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/agentapi/wire"
)

const (
	probeLife    = 5 * time.Minute // how long the answer of a probe is believed
	probeTimeout = 3 * time.Second // a caller of the socket waits for it
)

// hostProbe remembers what the host's IMDS supports. It is safe for concurrent use.
type hostProbe struct {
	mu    sync.Mutex
	found imds.Support
	err   error
	until time.Time
}

// ask probes, unless the last answer is young.
func (p *hostProbe) ask(ctx context.Context, client *imds.Client, now func() time.Time) (imds.Support, error) {
	p.mu.Lock()
	found, err, until := p.found, p.err, p.until
	p.mu.Unlock()
	if now().Before(until) {
		return found, err
	}
	probing, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	found, err = client.Probe(probing)
	if ctx.Err() != nil { // the caller is gone, and that says nothing about the host
		return found, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.found, p.err, p.until = found, err, now().Add(probeLife)
	return found, err
}

// Capabilities says how well credentials can be bound here. What was obtained since the start is the proof; for the rest, IMDS is
// asked which protocols it has, and nobody else.
func (d *Daemon) Capabilities(ctx context.Context) wire.Capabilities {
	host, err := d.host.ask(ctx, d.imds, d.opts.Now)
	c := wire.Capabilities{
		ManagedIdentityV2: d.capabilityV2(host, err),
		ManagedIdentityV1: capabilityV1(host, err),
		Certificate:       d.capabilityCertificate(),
		Attestation:       wire.AttestationStatus{Provider: d.cfg.Attestation.Provider},
		TokenTypes:        []string{wire.TypeBearer, wire.TypePoP},
	}
	c.StrongestBinding, c.Reason = strongest(c)
	return c
}

// strongest sums up.
func strongest(c wire.Capabilities) (strength, reason string) {
	for _, road := range []struct {
		name string
		wire.Capability
	}{{"managed identities", c.ManagedIdentityV2}, {"certificates of applications", c.Certificate}} {
		if road.Available == nil || *road.Available {
			return road.Strength, road.name + ": " + road.Reason
		}
	}
	return string(acquire.StrengthNone), "nothing can be bound on this host"
}

// capabilityV2 is about binding certificates of managed identities.
func (d *Daemon) capabilityV2(host imds.Support, err error) wire.Capability {
	for _, id := range d.acquirer.Status() {
		if id.Certificate != nil && id.Strength == acquire.StrengthAttested {
			return capable(true, string(id.Strength), fmt.Sprintf("the binding certificate of identity %q was issued on attestation", id.Name))
		}
	}
	key := string(d.key.Info().Strength)
	switch {
	case err != nil:
		return wire.Capability{Strength: key, Reason: "IMDS does not answer: " + err.Error()}
	case !host.V2:
		return capable(false, string(acquire.StrengthNone), "this host's IMDS offers no binding certificates (MSI v2), or they are switched off here")
	}
	if refused := d.refusedV2(); refused != nil {
		return capable(false, string(acquire.StrengthNone), "the host offers binding certificates, and gave none: "+refused.Error())
	}
	return capable(true, key, "the host offers binding certificates; none has been issued on attestation since the start")
}

// refusedV2 is why the last attempt to obtain a token with a binding certificate failed; nil if it did not, or was not made.
func (d *Daemon) refusedV2() error {
	var refused error
	for _, id := range d.acquirer.Status() {
		for _, c := range id.Credentials {
			if c.Source != acquire.SourceManagedIdentity || !c.Bound || !c.Tried {
				continue
			}
			if c.LastError == nil {
				return nil
			}
			refused = c.LastError
		}
	}
	return refused
}

func capabilityV1(host imds.Support, err error) wire.Capability {
	if err != nil {
		return wire.Capability{Strength: string(acquire.StrengthNone), Reason: "IMDS does not answer: " + err.Error()}
	}
	return capable(host.V1, string(acquire.StrengthNone), "tokens of IMDS are bound to nothing; an identity has to allow them (bound: prefer or never)")
}

func (d *Daemon) capabilityCertificate() wire.Capability {
	if d.tpm == nil {
		return capable(false, string(acquire.StrengthNone), "keys of applications live in a TPM, and this agent uses none")
	}
	if !slices.ContainsFunc(d.plan.identities, func(id acquire.Identity) bool { return id.Application != nil }) {
		return capable(true, string(acquire.StrengthTPM), "keys live in the TPM; nobody attests them to Entra; no application is configured")
	}
	return capable(true, string(acquire.StrengthTPM), "keys live in the TPM; nobody attests them to Entra")
}

func capable(available bool, strength, reason string) wire.Capability {
	return wire.Capability{Available: &available, Strength: strength, Reason: reason}
}
