package setup

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/advice"
)

// Weights of a [Decision].
const (
	OK   = "ok"
	Warn = "warn" // it works, and the operator should know
)

// Decision is one thing that the proposal settles.
type Decision struct {
	About   string `json:"about"`
	Choice  string `json:"choice"`
	Why     string `json:"why"`
	Verdict string `json:"verdict"`
}

// Proposal is a configuration, with how it came about.
type Proposal struct {
	Decisions []Decision     `json:"decisions"`
	Text      string         `json:"configuration"`
	Config    *config.Config `json:"-"`
	// Before are lines for root's shell without which the agent would not start.
	Before []string `json:"before,omitempty"`
	// Next are lines for the shell to start the agent, look at it and get the first token.
	Next []string `json:"next"`
}

// ErrNoTPM means that the machine has no TPM that the agent could use.
var ErrNoTPM = errors.New("no TPM that the agent could use")

// UnboundError means that the host has no binding certificates, and that the operator has not
// chosen to go without.
type UnboundError struct{ Host string }

func (e *UnboundError) Error() string {
	return fmt.Sprintf("the instance metadata service at %s has no binding certificates (MSI v2): what it gives of a managed identity is not bound to any key of this machine", e.Host)
}

// Propose makes a configuration of what was found and chosen. Its errors are about the choices, and
// about machines that the agent cannot work on.
func Propose(facts Facts, choices Choices, words advice.Words) (*Proposal, error) {
	if err := choices.check(); err != nil {
		return nil, err
	}
	base, err := config.ParsePart(cmp.Or(choices.BaseName, "settings for all machines"), choices.Base)
	if err != nil {
		return nil, err
	}
	p := &proposer{facts: facts, choices: choices, base: base, words: words}
	if err := p.decide(); err != nil {
		return nil, err
	}
	p.Text = p.render()
	if p.Config, err = config.Parse("what was chosen", []byte(p.Text)); err != nil {
		return nil, err
	}
	p.Next = p.next()
	return &p.Proposal, nil
}

// proposer is a proposal that is being made.
type proposer struct {
	Proposal
	facts   Facts
	choices Choices
	base    *config.Part
	words   advice.Words

	tpm         string // written if not empty
	attestation string // the same
	bound       string
	floor       string
	region      string // of the application
	cloud       string
}

func (p *proposer) add(verdict, about, choice, why string, args ...any) {
	p.Decisions = append(p.Decisions, Decision{about, choice, fmt.Sprintf(why, args...), verdict})
}

func (p *proposer) decide() error {
	if err := p.decideTPM(); err != nil {
		return err
	}
	p.decideUser()
	p.decideAttestation()
	if err := p.decideIdentity(); err != nil {
		return err
	}
	if err := p.decideRule(); err != nil {
		return err
	}
	return p.decideEndpoint()
}

// decideTPM takes the TPM that was found, and tells what keeps the agent's user from it.
func (p *proposer) decideTPM() error {
	t := p.facts.TPM
	if t.Fault != "" {
		return fmt.Errorf("%w: %s", ErrNoTPM, t.Fault)
	}
	switch wanted := p.choices.TPM; {
	case wanted != "" && p.base.Settings["tpm"] && wanted != p.base.Config.TPM:
		return fmt.Errorf("%s has another TPM, %s: say there which is meant", p.choices.BaseName, p.base.Config.TPM)
	case !p.base.Settings["tpm"] && t.Device != p.base.Config.TPM:
		p.tpm = t.Device
	}
	p.add(OK, "tpm", t.Device, "it answers: %s, firmware %s", t.Maker, t.Firmware)
	if t.NoManager {
		p.add(Warn, "tpm: sharing", "one program at a time", "%s has no resource manager: while the agent runs, no other program can use the TPM", t.Device)
	}
	if t.Barred != "" {
		p.add(Warn, "tpm: access", "to be given", "%s", t.Barred)
		if t.Group != "" && !p.facts.Agent.Missing {
			p.Before = append(p.Before, fmt.Sprintf("usermod -a -G %s %s", t.Group, p.facts.Agent.User))
		}
	}
	if t.OwnerPassword && !p.base.Settings["tpm_owner_credential"] {
		p.add(Warn, "tpm: owner password", "to be given", "the owner hierarchy has one: unless the storage root is at a persistent handle, the agent needs it, in tpm_owner_credential")
	}
	if t.Lockout {
		p.add(Warn, "tpm: lockout", "none of ours", "the TPM is in dictionary-attack lockout: keys of the agent go on to work, those of other programs may not")
	}
	return nil
}

func (p *proposer) decideUser() {
	a := p.facts.Agent
	switch {
	case a.Missing:
		p.add(Warn, "agent's user", a.User, "there is no such user yet: the package makes it (systemd-sysusers)")
	case a.Root:
		p.add(Warn, "agent's user", a.User, "the agent would run as root, which it does not need")
	default:
		p.add(OK, "agent's user", a.User, "the configuration is readable for it, and writable for root alone")
	}
}

// decideAttestation asks for attestation where there is a hardware report to attest with.
func (p *proposer) decideAttestation() {
	kind := p.facts.Kind
	p.add(OK, "machine", kind.String(), "%s", p.hostSays())
	switch {
	case p.base.Settings["attestation"]:
		p.add(OK, "attestation", p.base.Config.Attestation.Provider, "as %s says", p.choices.BaseName)
	case kind.Confidential() && p.facts.TPM.NoSHA256:
		p.attestation = config.ProviderNone
		p.add(Warn, "attestation", p.attestation, "evidence needs PCRs of bank sha256, which this TPM does not have switched on")
	case kind.Confidential():
		p.add(OK, "attestation", config.ProviderAzureGuest, "the TPM holds the hardware report of a Confidential VM")
	case kind == KindUnknown:
		p.add(Warn, "attestation", config.ProviderAzureGuest, "what kind of machine this is could not be found out; without a hardware report, no certificate is issued")
	default:
		p.attestation = config.ProviderNone
		p.add(Warn, "attestation", p.attestation, "there is no hardware report to attest with: keys are in the TPM, and nothing proves to others where that is")
	}
}

func (p *proposer) hostSays() string {
	h := p.facts.Host
	if h.Fault != "" {
		return "the instance metadata service says nothing: " + h.Fault
	}
	return fmt.Sprintf("IMDS: %s, %s, region %s, cloud %s", cmp.Or(h.SecurityType, "no security type"), cmp.Or(h.Size, "unknown size"), cmp.Or(h.Region, "unknown"), cmp.Or(h.Cloud, "unknown"))
}
