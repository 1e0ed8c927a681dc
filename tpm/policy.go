package tpm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/internal/tcg"
	"github.com/keyagent/keyagent/tpm/internal/rc"
)

// PCRSelection names the PCRs whose present values a key is to be bound to. The zero value binds it
// to none.
type PCRSelection struct {
	Bank crypto.Hash // SHA-256 or SHA-384; 0 means SHA-256
	PCRs []int       // 0 to 23
}

// PCRValues are values of PCRs of one bank.
type PCRValues struct {
	Bank   crypto.Hash
	Values map[int][]byte
}

// PolicyCommand is a command that a policy session must have executed before a key can be used, as
// a key file has it: the code, and the parameters without handles in their wire form.
type PolicyCommand struct {
	Code       tpm2.TPMCC
	Parameters []byte
}

// policy is what a key demands of a policy session before it signs: PCR values, and perhaps its
// authorization value.
type policy struct {
	bank      tpm2.TPMAlgID // 0: no PCRs
	pcrs      []int
	pcrDigest []byte // of their values, with the hash of the session
	authValue bool
}

// bindPCRs makes the policy of a new key out of the present values of PCRs.
func bindPCRs(t *turn, selection PCRSelection, withAuthValue bool) (policy, PCRValues, error) {
	if len(selection.PCRs) == 0 {
		return policy{}, PCRValues{}, nil
	}
	if selection.Bank == 0 {
		selection.Bank = crypto.SHA256
	}
	bank, err := pcrBankAlg(selection.Bank)
	if err != nil {
		return policy{}, PCRValues{}, err
	}
	pcrs, err := selectPCRs(selection.PCRs)
	if err != nil {
		return policy{}, PCRValues{}, err
	}
	values, err := readPCRs(t, bank, pcrs)
	if err != nil {
		return policy{}, PCRValues{}, err
	}
	p := policy{bank: bank, pcrs: pcrs, pcrDigest: digestPCRs(pcrs, values), authValue: withAuthValue}
	return p, PCRValues{Bank: selection.Bank, Values: values}, nil
}

func pcrBankAlg(bank crypto.Hash) (tpm2.TPMAlgID, error) {
	switch bank {
	case crypto.SHA256:
		return tpm2.TPMAlgSHA256, nil
	case crypto.SHA384:
		return tpm2.TPMAlgSHA384, nil
	}
	return 0, fmt.Errorf("PCR bank %v is neither SHA-256 nor SHA-384", bank)
}

// digestPCRs is what TPM2_PolicyPCR compares: the values in rising order, digested with the
// session's hash, whatever the bank's.
func digestPCRs(pcrs []int, values map[int][]byte) []byte {
	h := sha256.New()
	for _, pcr := range pcrs {
		h.Write(values[pcr])
	}
	return h.Sum(nil)
}

func (p policy) empty() bool { return p.bank == 0 && !p.authValue }

func (p policy) policyPCR(session tpm2.TPMHandle) tpm2.PolicyPCR {
	return tpm2.PolicyPCR{
		PolicySession: session,
		PcrDigest:     tpm2.TPM2BDigest{Buffer: p.pcrDigest},
		Pcrs:          pcrBank(p.bank, p.pcrs),
	}
}

// digest computes the authPolicy of a key with this policy (TPM 2.0 Part 1, 19.7).
func (p policy) digest() ([]byte, error) {
	calculator, err := tpm2.NewPolicyCalculator(tpm2.TPMAlgSHA256)
	if err != nil {
		return nil, err
	}
	if p.bank != 0 {
		if err := p.policyPCR(0).Update(calculator); err != nil {
			return nil, err
		}
	}
	if p.authValue {
		if err := (tpm2.PolicyAuthValue{}).Update(calculator); err != nil {
			return nil, err
		}
	}
	return calculator.Hash().Digest, nil
}

// satisfy executes the policy in a session.
func (p policy) satisfy(t *turn, session tpm2.TPMHandle) error {
	if p.bank != 0 {
		if _, err := p.policyPCR(session).Execute(t); err != nil {
			return fmt.Errorf("%w: TPM2_PolicyPCR: %w", ErrPolicy, explainSatisfy(err))
		}
	}
	if p.authValue {
		if _, err := (tpm2.PolicyAuthValue{PolicySession: session}).Execute(t); err != nil {
			return fmt.Errorf("%w: TPM2_PolicyAuthValue: %w", ErrPolicy, explainSatisfy(err))
		}
	}
	return nil
}

// explainSatisfy tells that a session is gone from that a key is: the code, which is not wrapped,
// is the same.
func explainSatisfy(err error) error {
	if rc.Of(err, tpm2.TPMRCReferenceH0, tpm2.TPMRCHandle) {
		return fmt.Errorf("%w: %v", errSessionGone, err)
	}
	return err
}

// commands is the policy as a key file has it.
func (p policy) commands() []PolicyCommand {
	var list []PolicyCommand
	if p.bank != 0 {
		parameters := tpm2.Marshal(tpm2.TPM2BDigest{Buffer: p.pcrDigest})
		list = append(list, PolicyCommand{tpm2.TPMCCPolicyPCR, append(parameters, tpm2.Marshal(pcrBank(p.bank, p.pcrs))...)})
	}
	if p.authValue {
		list = append(list, PolicyCommand{Code: tpm2.TPMCCPolicyAuthValue})
	}
	return list
}

// parsePolicy reads a key file's policy. It takes what commands writes, and nothing else: a policy
// that is not wholly understood cannot be satisfied.
func parsePolicy(list []PolicyCommand) (policy, error) {
	var p policy
	for _, c := range list {
		var err error
		switch {
		case c.Code == tpm2.TPMCCPolicyPCR && p.empty():
			err = p.parsePCR(c.Parameters)
		case c.Code == tpm2.TPMCCPolicyAuthValue && !p.authValue && len(c.Parameters) == 0:
			p.authValue = true
		default:
			err = errors.New("only TPM2_PolicyPCR and after it TPM2_PolicyAuthValue are supported, each once")
		}
		if err != nil {
			return policy{}, fmt.Errorf("its policy has command %s: %w", tcg.Command(uint32(c.Code)), err)
		}
	}
	return p, nil
}

func (p *policy) parsePCR(parameters []byte) error {
	const digestBytes = 2 + sha256.Size
	if len(parameters) < digestBytes {
		return errors.New("its parameters are cut short")
	}
	digest, err := tpm2.Unmarshal[tpm2.TPM2BDigest](parameters[:digestBytes])
	if err != nil {
		return fmt.Errorf("its PCR digest: %w", err)
	}
	selection, err := tpm2.Unmarshal[tpm2.TPMLPCRSelection](parameters[digestBytes:])
	if err != nil {
		return fmt.Errorf("its PCR selection: %w", err)
	}
	if len(selection.PCRSelections) != 1 || selection.PCRSelections[0].Hash == 0 {
		return errors.New("it selects PCRs of other than one bank")
	}
	p.bank, p.pcrDigest = selection.PCRSelections[0].Hash, digest.Buffer
	p.pcrs = selected(p.bank, *selection)
	if !bytes.Equal(p.commands()[0].Parameters, parameters) {
		return errors.New("its parameters are not in the form that a TPM with 24 PCRs takes")
	}
	return nil
}

// PCRError says that PCRs which a key is bound to have other values than when it was made. It is an
// [ErrPCRsChanged].
type PCRError struct {
	Bank     string // "sha256"
	Selected []int  // what the key is bound to
	Changed  []int  // of them; nil if the old values are not known
	Was, Is  map[int][]byte
	cause    error
}

func (e *PCRError) Error() string {
	var b strings.Builder
	if e.Changed == nil {
		fmt.Fprintf(&b, "%v: one or more of PCRs %v of bank %s", ErrPCRsChanged, e.Selected, e.Bank)
	} else {
		fmt.Fprintf(&b, "%v: bank %s", ErrPCRsChanged, e.Bank)
	}
	for i, pcr := range e.Changed {
		fmt.Fprintf(&b, "%c PCR %d was %x and is %x", ":,"[min(i, 1)], pcr, e.Was[pcr], e.Is[pcr])
	}
	b.WriteString("; if an update of firmware, boot loader or kernel explains it, make a new key (keyagent key rotate), or boot as before; if nothing explains it, find out who changed the boot")
	return b.String()
}

// Unwrap returns ErrPCRsChanged, ErrPolicy and the TPM's code.
func (e *PCRError) Unwrap() []error { return []error{ErrPCRsChanged, ErrPolicy, e.cause} }

// explain finds out which PCRs made a policy fail.
func (p policy) explain(t *turn, err error, old PCRValues) error {
	if p.bank == 0 || !rc.Of(err, tpm2.TPMRCValue, tpm2.TPMRCHash, tpm2.TPMRCPolicyFail, tpm2.TPMRCPCRChanged) {
		return err
	}
	now, readErr := readPCRs(t, p.bank, p.pcrs)
	if missing, ok := errors.AsType[*BankError](readErr); ok {
		missing.refused = err
		return fmt.Errorf("the key is bound to PCRs %v of bank %s: %w", p.pcrs, missing.Bank, missing)
	}
	if readErr != nil || bytes.Equal(digestPCRs(p.pcrs, now), p.pcrDigest) {
		return err // that was not the reason
	}
	e := &PCRError{Bank: tcg.Bank(uint16(p.bank)), Selected: p.pcrs, Is: now, Was: old.Values, cause: err}
	for _, pcr := range p.pcrs {
		if was, known := old.Values[pcr]; known && !bytes.Equal(was, now[pcr]) {
			e.Changed = append(e.Changed, pcr)
		}
	}
	return e
}

// ReadPCRs reads PCR values, which are not authenticated: [TPM.Quote] gives proof.
func (t *TPM) ReadPCRs(ctx context.Context, selection PCRSelection) (PCRValues, error) {
	var values PCRValues
	err := t.again(ctx, func(turn *turn) (err error) {
		_, values, err = bindPCRs(turn, selection, false)
		return err
	})
	if err != nil {
		return PCRValues{}, fmt.Errorf("reading PCRs: %w", err)
	}
	return values, nil
}
