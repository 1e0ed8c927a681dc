package tpm

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/internal/tcg"
	"github.com/keyagent/keyagent/tpm/internal/device"
)

// PCRBank is a bank of PCRs that the TPM implements.
type PCRBank struct {
	Name string // as tpm2-tools write it: "sha256"
	PCRs []int  // those that the bank has, in rising order; none: it is switched off
}

// BankError says that PCRs of a bank are not there. It is an [ErrPCRBank].
type BankError struct {
	Bank    string    // as in [PCRBank]
	Missing []int     // the PCRs that were asked for and are not there
	Banks   []PCRBank // what the TPM says of its banks; nil if it does not say
	cause   error     // what the TPM answered to reading them; nil if it answered with no values
	refused error     // the error of the policy that wants them; nil if there is none
}

func (e *BankError) Error() string {
	var b strings.Builder
	i := slices.IndexFunc(e.Banks, func(bank PCRBank) bool { return bank.Name == e.Bank })
	switch {
	case e.Banks != nil && i < 0 || e.Banks == nil && e.cause != nil:
		fmt.Fprintf(&b, "this TPM has no PCR bank %s", e.Bank)
	case i >= 0 && len(e.Banks[i].PCRs) > 0:
		fmt.Fprintf(&b, "PCR bank %s is there without PCRs %v", e.Bank, e.Missing)
	default:
		fmt.Fprintf(&b, "PCR bank %s is switched off", e.Bank)
	}
	if on := e.Alternatives(); on != nil {
		fmt.Fprintf(&b, "; banks that have PCRs %v: %s", e.Missing, strings.Join(on, ", "))
	}
	return b.String()
}

// Alternatives names the banks that have the PCRs that are missing.
func (e *BankError) Alternatives() []string {
	var names []string
	for _, bank := range e.Banks {
		lacks := func(pcr int) bool { return !slices.Contains(bank.PCRs, pcr) }
		if bank.Name != e.Bank && !slices.ContainsFunc(e.Missing, lacks) {
			names = append(names, bank.Name)
		}
	}
	return names
}

// Unwrap returns ErrPCRBank and what the TPM answered.
func (e *BankError) Unwrap() []error {
	list := []error{ErrPCRBank}
	for _, err := range []error{e.cause, e.refused} {
		if err != nil {
			list = append(list, err)
		}
	}
	return list
}

// missingPCRs finds out why the TPM gave no values of these PCRs. Cause may be nil.
func missingPCRs(t transport.TPM, bank tpm2.TPMAlgID, pcrs []int, cause error) error {
	banks, err := pcrBanks(t)
	if errors.Is(err, ErrUnavailable) {
		return err
	}
	return &BankError{Bank: tcg.Bank(uint16(bank)), Missing: pcrs, Banks: banks, cause: cause} // without banks, if they cannot be read
}

// pcrBanks reads which PCRs each bank has (TPM_CAP_PCRS, TPM 2.0 Part 3, 30.2). Some TPMs do not
// list a bank that is switched off.
func pcrBanks(t transport.TPM) ([]PCRBank, error) {
	data, err := device.Capability(t, tpm2.TPMCapPCRs, 0, 1)
	if err != nil {
		return nil, err
	}
	list, err := data.AssignedPCR()
	if err != nil {
		return nil, err
	}
	banks := []PCRBank{}
	for _, s := range list.PCRSelections {
		banks = append(banks, PCRBank{Name: tcg.Bank(uint16(s.Hash)), PCRs: selected(s.Hash, *list)})
	}
	return banks, nil
}
