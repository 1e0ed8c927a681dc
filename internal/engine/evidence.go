package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/collect"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/errinfo"
	"github.com/keyagent/keyagent/internal/statedir"
	"github.com/keyagent/keyagent/internal/waiting"
	"github.com/keyagent/keyagent/tpm"
)

// EvidenceRequest says what attestation evidence is wanted.
type EvidenceRequest struct {
	Nonce         []byte
	Audience      string
	Key           string // name of a key; "": the binding key
	PCRs          []int  // none: those of the configuration
	PCRBank       string // sha256, sha384; "": sha256
	EventLog      bool
	HardwareFresh bool
}

// evidence is the collector in force, with the plan that it was made for. One at a time has
// evidence made, so that the agent's own signatures wait for one command of the TPM at most and not
// for those of a crowd. It is safe for concurrent use.
type evidence struct {
	inForce atomic.Pointer[evidencePlan]
	turn    waiting.Lock
	made    atomic.Pointer[bool] // whether the last attempt that says something made a bundle; nil: there was none
}

type evidencePlan struct {
	plan      *Plan
	collector *collect.Collector // nil: the keys are in software
}

func (e *evidence) use(p *Plan, c *collect.Collector) {
	e.inForce.Store(&evidencePlan{p, c})
	e.made.Store(nil)
}

// note keeps what came of an attempt. What the host or the TPM could not do at a moment says
// nothing of the next.
func (e *evidence) note(err error) {
	_, unverified := errors.AsType[*attest.CheckError](err)
	if made := err == nil; made || unverified || errors.Is(err, collect.ErrNoReport) {
		e.made.Store(&made)
	}
}

func (e *evidence) collector() *collect.Collector { return e.inForce.Load().collector }

// newCollector makes the collector of a plan; nil if the keys are in software.
func newCollector(on *tpm.TPM, key *tpm.Key, cfg *config.Config, plan *Plan, opts Options) *collect.Collector {
	if on == nil {
		return nil
	}
	return collect.New(collect.Config{
		TPM:          on,
		Key:          key,
		IMDSEndpoint: cfg.IMDSEndpoint,
		HTTP:         imds.NewHTTPClient(),
		EventLogFile: eventLogFile(plan.eventLog),
		Anchors:      plan.anchors,
		Policy:       plan.evidence,
		Now:          opts.Now,
		Logger:       opts.Logger,
		Sleep:        opts.Sleep,

		HardwareConfig: plan.hardware(opts),
	})
}

// eventLogCredential is the systemd credential with the event log, for agents that are not root.
const eventLogCredential = "keyagent.event-log"

// eventLogFile is where the event log is read: where the configuration says, or in the credential
// if there is one; else "".
func eventLogFile(configured string) string {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if configured != "" || dir == "" {
		return configured
	}
	file := filepath.Join(dir, eventLogCredential)
	if _, err := os.Stat(file); err != nil { // #nosec G703 -- systemd names the directory
		return ""
	}
	return file
}

// Evidence makes attestation evidence of a key, encoded as a bundle. It waits for its turn, for the
// TPM and for the host, but not longer than ctx. Errors are [*acquire.Error].
func (e *Engine) Evidence(ctx context.Context, req EvidenceRequest) ([]byte, error) {
	bundle, err := e.makeEvidence(ctx, req)
	e.evidence.note(err)
	if err != nil && ctx.Err() == nil {
		e.opts.Logger.WarnContext(ctx, "evidence was not made", "key", req.Key, "cause", err)
	}
	return bundle, err
}

// EvidenceMade reports whether the last attempt to make evidence did; nil: there was none that says
// something of the next.
func (e *Engine) EvidenceMade() *bool { return e.evidence.made.Load() }

func (e *Engine) makeEvidence(ctx context.Context, req EvidenceRequest) ([]byte, error) {
	using := e.evidence.inForce.Load()
	if using.collector == nil {
		return nil, evidenceError(noEvidence("the agent's keys are in software, and nothing vouches for them"))
	}
	if err := e.evidence.turn.Lock(ctx); err != nil {
		return nil, evidenceError(err)
	}
	defer e.evidence.turn.Unlock()
	key, err := e.evidenceKey(ctx, req.Key)
	if err != nil {
		return nil, evidenceError(err)
	}
	bundle, err := using.make(ctx, key, req)
	if err != nil {
		return nil, evidenceError(err)
	}
	return bundle, nil
}

// evidenceKey finds a key in the TPM.
func (e *Engine) evidenceKey(ctx context.Context, name string) (*tpm.Key, error) {
	switch {
	case name == "" || name == statedir.BindingKeyName:
		return e.Key.OnTPM, nil
	case e.appKeys == nil:
		return nil, noEvidence(fmt.Sprintf("no identity uses key %q", name))
	}
	return e.appKeys.onTPM(ctx, name)
}

// KeysOf lists the keys that each identity proves itself with, in the order of its credentials. A
// managed identity has the binding key, also one that is configured not to show it.
func KeysOf(identities []config.Identity) map[string][]string {
	all := map[string][]string{}
	for _, id := range identities {
		if id.ManagedIdentity != nil {
			all[id.Name] = []string{statedir.BindingKeyName}
		}
		if id.Application == nil {
			continue
		}
		for _, c := range id.Application.Credentials {
			switch c.Source {
			case config.SourceCertificate:
				all[id.Name] = append(all[id.Name], c.Key)
			case config.SourceManagedIdentity:
				all[id.Name] = append(all[id.Name], statedir.BindingKeyName)
			}
		}
	}
	return all
}

// CollectAlone makes evidence of a key without an agent, for a command beside it.
func CollectAlone(ctx context.Context, cfg *config.Config, on *tpm.TPM, key *tpm.Key, req EvidenceRequest, opts Options) ([]byte, error) {
	plan, err := Resolve(cfg)
	if err != nil {
		return nil, err
	}
	alone := evidencePlan{plan, newCollector(on, key, cfg, plan, opts.WithDefaults())}
	return alone.make(ctx, key, req)
}

func (p *evidencePlan) make(ctx context.Context, key *tpm.Key, req EvidenceRequest) ([]byte, error) {
	wanted := p.plan.evidenceFor(req)
	wanted.Key = key
	made, err := p.collector.CollectFor(ctx, wanted)
	if err != nil {
		return nil, err
	}
	return made.Encode()
}

// evidenceFor lays a request over what the configuration says of evidence.
func (p *Plan) evidenceFor(req EvidenceRequest) collect.Request {
	wanted := collect.Request{
		Challenge: attest.Challenge{Nonce: req.Nonce, Audience: req.Audience},
		PCRs:      req.PCRs, PCRBank: attest.PCRBank(req.PCRBank), EventLog: req.EventLog, HardwareFresh: req.HardwareFresh, WithoutTEE: true,
	}
	if len(wanted.PCRs) == 0 {
		wanted.PCRs = p.pcrs
	}
	return wanted
}

// noEvidence is that a key cannot be attested on this machine.
type noEvidence string

func (e noEvidence) Error() string { return string(e) }

// Refuses reports that the next request would fail in the same way.
func (noEvidence) Refuses() bool { return true }

// evidenceError says whether to ask again: what the TPM or the host could not do now they may do
// later; evidence that does not verify, and a machine that cannot make any, stay as they are.
func evidenceError(err error) error {
	failed := &acquire.Error{Kind: acquire.KindUnavailable, Hint: errinfo.Hint(err), Err: err}
	if host, ok := errors.AsType[*collect.HostError](err); ok {
		failed.RetryAfter = host.RetryAfter
	}
	_, unverified := errors.AsType[*attest.CheckError](err)
	if unverified || errors.Is(err, tpm.ErrPCRBank) || errinfo.Refuses(err) {
		failed.Kind = acquire.KindRefused
	}
	return failed
}
